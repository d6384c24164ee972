"""The feature head F: an image's multi-level features at one resolution (a hypercolumn)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.blocks import conv3x3

__all__ = ["LearnedHead", "enlarge"]


class LearnedHead(nn.Module):
    """A light, trained stand-in for the paper's VGG-19 hypercolumn.

    Features of several levels, each at half the resolution of the one before, are brought to the
    finest grid and mixed by two convolutions with ReLU, as the paper does with VGG's levels.

    Parameters
    ----------
    in_channels : int
        Channels of the (pixel-unshuffled) image.
    channels : int
        Channels of every level and of F.
    levels : int
        Number of levels.
    """

    def __init__(self, *, in_channels: int, channels: int, levels: int) -> None:
        super().__init__()
        self.stem = conv3x3(in_channels, channels)
        self.down = nn.ModuleList(conv3x3(channels, channels, stride=2) for _ in range(levels - 1))
        # A 1x1 convolution of a concatenation is the sum of 1x1 convolutions, and it commutes with
        # the enlargement: each level is mixed at its own resolution and only the sum is full size.
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=i == 0) for i in range(levels))
        self.out = conv3x3(channels, channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map a (N, in_channels, h, w) image to (N, channels, h, w) features, >= 0."""
        signed = 2 * image
        signed -= 1  # the zeros of the padding become mid-grey
        level = torch.relu_(self.stem(signed))
        levels = [level]
        for down in self.down:
            level = torch.relu_(down(level))  # half the resolution
            levels.append(level)
        mixed = self.mix[-1](levels[-1])
        for mix, level in zip(list(self.mix)[-2::-1], levels[-2::-1], strict=True):
            mixed = enlarge(mixed)  # twice the resolution
            mixed += mix(level)
        return torch.relu_(self.out(torch.relu_(mixed)))


def enlarge(x: Tensor) -> Tensor:
    """Double the resolution of (N, C, h, w) maps bilinearly, the same at every position."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
