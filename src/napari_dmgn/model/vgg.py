"""The paper's feature head: a hypercolumn of VGG-19, mixed without ever being built."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.blocks import conv3x3
from napari_dmgn.model.config import Padding

__all__ = ["HypercolumnHead", "Vgg19"]

# Channels of the convolutions up to the last whose features are read, and which those are: the first
# at each resolution (relu1_1, relu2_1, ... relu5_1).
_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512)
_TAPS = (0, 2, 4, 8, 12)


class Vgg19(nn.Module):
    """VGG-19's convolutions up to relu5_1, frozen; its features are read behind the first of each level.

    Parameters
    ----------
    image_channels : int
    """

    channels = tuple(_CHANNELS[i] for i in _TAPS)

    def __init__(self, *, image_channels: int) -> None:
        super().__init__()
        before = (image_channels, *_CHANNELS)
        self.convs = nn.ModuleList(conv3x3(a, b) for a, b in itertools.pairwise(before))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map a (N, C, h, w) image, h and w at least 16, to relu1_1, relu2_1, ... relu5_1.

        The k-th has `channels[k]` channels at 1 / 2**k of the resolution, rounded down.
        """
        taps: list[Tensor] = []
        x = image
        for i, conv in enumerate(self.convs):
            if i in _TAPS[1:]:
                x = F.max_pool2d(x, 2)  # half the resolution
            x = torch.relu_(conv(x))
            if i in _TAPS:
                taps.append(x)
        return taps


class HypercolumnHead(nn.Module):
    """F of the paper: image and VGG-19's levels at one resolution, two 3x3 convolutions with ReLU.

    The concatenation (1475 channels at full resolution) is never made. A 3x3 convolution is a sum
    of nine shifted 1x1 convolutions, and a 1x1 convolution commutes with a bilinear enlargement,
    whose weights sum to one: each coarse level passes nine 1x1 convolutions at its own resolution,
    and only the sums of their enlargements are full size. An enlargement works on each axis alone,
    so the three horizontal shifts are summed before anything has its full height.

    Parameters
    ----------
    image_channels, channels : int
        Channels of the image and of F.
    padding : str
        Of the two mixing convolutions: "zeros" or "reflect".
    unit : bool
        Images come in [0, 1] and are brought to [-1, 1] here.
    """

    def __init__(self, *, image_channels: int, channels: int, padding: Padding, unit: bool) -> None:
        super().__init__()
        self.padding = padding
        self.unit = unit
        self.vgg = Vgg19(image_channels=image_channels)
        self.mix = conv3x3(image_channels + sum(Vgg19.channels), channels, padding=padding)
        self.out = conv3x3(channels, channels, padding=padding)

    def forward(self, image: Tensor) -> Tensor:
        """Map a (N, image_channels, h, w) image to (N, channels, h, w) features, >= 0."""
        if self.unit:
            image = 2 * image - 1
        taps = self.vgg(image)
        own = torch.cat([image, taps[0]], dim=1)  # the first level has the image's resolution
        weights = torch.split(self.mix.weight, [own.shape[1], *Vgg19.channels[1:]], dim=1)
        mixed = F.conv2d(_pad(own, (1, 1, 1, 1), self.padding), weights[0], self.mix.bias)
        for tap, weight in zip(taps[1:], weights[1:], strict=True):
            mixed = mixed + _enlarged_convolution(tap, weight, image.shape[2:], self.padding)
        return torch.relu_(self.out(torch.relu_(mixed)))


def _enlarged_convolution(x: Tensor, weight: Tensor, size: torch.Size, padding: Padding) -> Tensor:
    """Return the 3x3 convolution of x enlarged to `size`, without enlarging x.

    Parameters
    ----------
    x : (N, C, h, w) float tensor
    weight : (O, C, 3, 3) float tensor
    size : (H, W)
    padding : str

    Returns
    -------
    (N, O, H, W) float tensor
    """
    height, width = size
    o, c = weight.shape[:2]
    total = None
    for dy in range(3):  # one row of the kernel after the other bounds the memory
        kernel = weight[:, :, dy].permute(2, 0, 1).reshape(3 * o, c, 1, 1)
        products = F.conv2d(x, kernel)  # (N, 3 O, h, w)
        wide = F.interpolate(products, size=(x.shape[2], width), mode="bilinear", align_corners=False)
        left, middle, right = _pad(wide, (1, 1, 0, 0), padding).chunk(3, dim=1)  # each (N, O, h, W + 2)
        row = left[..., :width] + middle[..., 1:-1] + right[..., 2:]
        full = F.interpolate(row, size=(height, width), mode="bilinear", align_corners=False)
        shifted = _pad(full, (0, 0, 1, 1), padding)[:, :, dy : dy + height]
        total = shifted if total is None else total + shifted
    assert total is not None
    return total


def _pad(x: Tensor, sides: tuple[int, int, int, int], padding: Padding) -> Tensor:
    return F.pad(x, sides, mode="constant" if padding == "zeros" else padding)
