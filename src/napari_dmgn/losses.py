"""Training losses: each term by name, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from napari_dmgn.model.network import NetworkOutput

__all__ = ["RECIPES", "LossWeights", "charbonnier", "noise_map_target", "perceptual", "restoration_loss"]

Features = Callable[[Tensor], Sequence[Tensor]]
"""(N, 3, H, W) images in [0, 1] to feature maps, one (N, C, h, w) tensor a level."""


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

    perceptual: float = 0.0
    """Perceptual loss of the background (Eq. 12); needs features."""
    coarse_perceptual: float = 0.0
    """Perceptual loss of the coarse background (Eq. 16); needs features."""
    adversarial: float = 0.0
    """Adversarial loss of the background (Eq. 13); trains a discriminator beside the network."""

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


RECIPES: dict[str, LossWeights] = {
    "fast": LossWeights(),
    "paper": LossWeights(
        background_fft=0,
        noise=0,
        noise_map=0,
        balance=0,
        perceptual=0.1,
        coarse_perceptual=0.05,
        adversarial=0.01,
    ),
}
"""Weights by name: "fast" needs nothing but the layers; "paper" is Eq. 15-17 with the published weights,
under which noise image and map learn from the background's losses alone."""


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
    output: NetworkOutput,
    background: Tensor,
    noise: Tensor,
    weights: LossWeights,
    *,
    epsilon: float = 0.0,
    features: Features | None = None,
    adversary: Callable[[Tensor], Tensor] | None = None,
    mean: Callable[[Tensor], Tensor] = lambda x: x,
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
    features : callable or None
        What the perceptual terms compare by.
    adversary : callable or None
        Gives a (N, 3, H, W) background's adversarial loss, a scalar.
    mean : callable
        Averages a scalar over the parts of a batch that other processes hold.

    Returns
    -------
    total : scalar float32 tensor
    terms : dict of detached scalar tensors
        Each term before its weight.

    Raises
    ------
    ValueError
        Every weight is 0, or a term lacks features or an adversary.
    """
    if features is None and (weights.perceptual or weights.coarse_perceptual):
        raise ValueError("the perceptual loss needs features; wanted a module of them")
    if adversary is None and weights.adversarial:
        raise ValueError("the adversarial loss needs an adversary; wanted a discriminator")
    share = _shares(noise, weights.balance, mean)
    b, coarse = output.background.float(), output.coarse.float()

    @cache  # for both terms
    def wanted_features() -> Sequence[Tensor]:
        assert features is not None
        with torch.no_grad():
            return features(background)

    def compared(image: Tensor) -> Tensor:
        assert features is not None
        return perceptual(features(image), wanted_features())

    compute: dict[str, Callable[[], Tensor]] = {
        "background": lambda: charbonnier(b, background, epsilon, share),
        "background_fft": lambda: _fft_l1(b, background, share),
        "coarse": lambda: charbonnier(coarse, background, epsilon, share),
        "noise": lambda: charbonnier(output.noise.float(), noise, epsilon, share),
        "noise_map": lambda: charbonnier(
            output.noise_map.float(), noise_map_target(noise, weights.noise_map_scale), epsilon, share
        ),
        "perceptual": lambda: compared(b),
        "coarse_perceptual": lambda: compared(coarse),
        "adversarial": lambda: _adversarial(adversary, b),
    }
    terms = {name: f() for name, f in compute.items() if getattr(weights, name) > 0}
    if not terms:
        raise ValueError("every loss weight is 0; wanted at least one above 0")
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def _adversarial(adversary: Callable[[Tensor], Tensor] | None, background: Tensor) -> Tensor:
    assert adversary is not None
    return adversary(background)


def perceptual(image: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return Eq. 12: per level the L1 between features over C H W, summed over the levels.

    Parameters
    ----------
    image, wanted : sequences of (N, C, h, w) float tensors, one a level
        Averaged over the N images.
    """
    return torch.stack([_mean_absolute(a - b) for a, b in zip(image, wanted, strict=True)]).sum()


def _mean_absolute(x: Tensor) -> Tensor:
    mean: Tensor = _MeanAbsolute.apply(x)  # type: ignore[no-untyped-call]
    return mean


class _MeanAbsolute(torch.autograd.Function):
    """Mean of |x| in float32 or wider, its gradient laid out in memory as x is.

    The gradient of `x.abs().mean()` comes as a broadcast scalar, which a CPU multiplies with channels_last
    maps ten times more slowly.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs().mean(dtype=torch.promote_types(x.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return x.sign().mul_(gradients[0] / x.numel())


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


def _shares(noise: Tensor, balance: float, mean: Callable[[Tensor], Tensor]) -> Tensor | None:
    if balance == 0:
        return None
    inverse = 1 / (noise.abs().mean(dim=(1, 2, 3)) + balance)
    return inverse / mean(inverse.mean())


def _fft_l1(a: Tensor, b: Tensor, share: Tensor | None) -> Tensor:
    # The transform is linear, so one of the difference does; "ortho" keeps the scale of pixels.
    spectrum: Tensor = torch.fft.rfft2(a - b, norm="ortho")
    return spectrum.abs().mean() if share is None else (spectrum.abs().mean(dim=(1, 2, 3)) * share).mean()
