"""What the network's two phases hand on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["NetworkOutput", "Separated"]


@dataclass(kw_only=True)
class NetworkOutput:
    """What one pass returns; all at the input's height and width.

    Attributes
    ----------
    background, coarse, noise : (N, 3, H, W) float tensors
        B, B_coarse and R, in units of the input; not clipped. Of a network without a noise branch,
        R is what the coarse background leaves of the input.
    noise_map : (N, 1, H, W) float tensor in [0, 1]
        The noise distribution map A_r (Eq. 9); of a network without one, the share of the features
        that the separator gives to the noise.
    masks : dict of (N, 1, h, w) float tensors in [0, 1]
        Each cell's mask under its name, at its own resolution; empty unless asked for.
    """

    background: Tensor
    coarse: Tensor
    noise: Tensor
    noise_map: Tensor
    masks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class Separated:
    """The first phase's local results, on the trunk's grid (pixel-unshuffled images).

    Images are in the network's own units (`NetworkConfig.image_range`).
    """

    image: Tensor  # (N, 3 s s, h, w)
    features: Tensor  # F(I), (N, C, h, w)
    background_part: Tensor  # F_b, (N, C, h, w)
    noise: Tensor | None  # R, (N, 3 s s, h, w)
    noise_features: Tensor | None  # F(R), (N, C, h, w), where something uses it
    background_share: Tensor  # A, (N, C or 1, h, w)
    noise_map: Tensor | None = None  # A_r, (N, s s, h, w), where the whole image scales it
    masks: dict[str, Tensor] = field(default_factory=dict)
