"""Training losses: each term by name, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_dmgn.model.network import NetworkOutput

__all__ = ["LossWeights", "charbonnier", "noise_map_target", "restoration_loss"]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the default recipe's terms; a term of weight 0 is not computed."""

    background: float = 1.0
    """L1 of the background (Eq. 11)."""
    background_fft: float = 0.1
    """L1 of the background's Fourier transform, which favours whole streaks over single pixels."""
    coarse: float = 0.5
    """L1 of the coarse background (Eq. 16)."""
    noise: float = 0.2
    """L1 of the noise image."""
    noise_map: float = 0.05
    """L1 of the noise distribution map to `noise_map_target`; 0 in the paper, which leaves the
    map to the background's losses alone."""
    noise_map_scale: float = 0.1
    """Noise level, in units of the image, at which the map's target reaches 63 %."""

    balance: float = 0.02
    """An image of mean noise m weighs 1 / (m + balance) of its batch: a decibel gained in light rain
    counts like one in heavy rain. 0 weighs all images alike, as in the paper."""

    def __post_init__(self) -> None:
        """Refuse weights that would turn learning round."""
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"loss weight {name} is {value!r}; wanted a number >= 0")
        if self.noise_map_scale <= 0:
            raise ValueError("noise_map_scale is 0; wanted a number > 0")


def noise_map_target(noise: Tensor, scale: float) -> Tensor:
    """Return what the noise distribution map should say, 1 - exp(-|R| / scale), channels averaged.

    Parameters
    ----------
    noise : (N, 3, H, W) float tensor
    scale : float

    Returns
    -------
    (N, 1, H, W) float tensor in [0, 1)
    """
    return -torch.expm1(-noise.abs().mean(dim=1, keepdim=True) / scale)


def restoration_loss(
    output: NetworkOutput, background: Tensor, noise: Tensor, weights: LossWeights, *, epsilon: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare a network's output with the layers that its input was made of.

    Parameters
    ----------
    output : NetworkOutput
        Of N images of H x W.
    background, noise : (N, 3, H, W) float tensors in [0, 1]
        The layers wanted.
    weights : LossWeights
    epsilon : float
        See `charbonnier`; 0 is the paper's L1.

    Returns
    -------
    total : scalar float32 tensor
    terms : dict of detached scalar tensors
        Each term before its weight.
    """
    share = _shares(noise, weights.balance)
    compute: dict[str, Callable[[], Tensor]] = {
        "background": lambda: charbonnier(output.background.float(), background, epsilon, share),
        "background_fft": lambda: _fft_l1(output.background.float(), background, share),
        "coarse": lambda: charbonnier(output.coarse.float(), background, epsilon, share),
        "noise": lambda: charbonnier(output.noise.float(), noise, epsilon, share),
        "noise_map": lambda: charbonnier(
            output.noise_map.float(), noise_map_target(noise, weights.noise_map_scale), epsilon, share
        ),
    }
    terms = {name: f() for name, f in compute.items() if getattr(weights, name) > 0}
    if not terms:
        raise ValueError("every loss weight is 0; wanted at least one above 0")
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def charbonnier(a: Tensor, b: Tensor, epsilon: float, share: Tensor | None = None) -> Tensor:
    """Return the mean of sqrt(d**2 + epsilon**2) - epsilon: L1 far above epsilon, squares below.

    Under uncertainty L1 is least at the median, which for noise that covers less than half of the
    pixels is no noise at all; squares are least at the mean.

    Parameters
    ----------
    a, b : (N, C, H, W) float tensors
    epsilon : float
        0 is L1.
    share : (N,) float tensor or None
        Each image's weight; None weighs all alike.
    """
    d = (a - b).abs() if epsilon == 0 else torch.sqrt((a - b) ** 2 + epsilon**2) - epsilon
    return d.mean() if share is None else (d.mean(dim=(1, 2, 3)) * share).mean()


def _shares(noise: Tensor, balance: float) -> Tensor | None:
    if balance == 0:
        return None
    inverse = 1 / (noise.abs().mean(dim=(1, 2, 3)) + balance)
    return inverse / inverse.mean()


def _fft_l1(a: Tensor, b: Tensor, share: Tensor | None) -> Tensor:
    # The transform is linear, so one of the difference does; "ortho" keeps the scale of pixels.
    spectrum: Tensor = torch.fft.rfft2(a - b, norm="ortho")
    return spectrum.abs().mean() if share is None else (spectrum.abs().mean(dim=(1, 2, 3)) * share).mean()
