"""The paper's feature head: a hypercolumn of VGG-19, mixed without ever being built."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_dmgn.model.bands import by_rows
from napari_dmgn.model.bilinear import COLUMNS, ROWS, bands, shift_matrix
from napari_dmgn.model.blocks import conv3x3, reflected
from napari_dmgn.model.config import Padding
from napari_dmgn.model.reach import VGG_CHANNELS, VGG_CONVOLUTIONS

__all__ = ["HypercolumnHead", "Vgg19"]

# Which of the convolutions are read (relu1_1, relu2_1, ... relu5_1): the first of each level.
_TAPS = tuple(itertools.accumulate(VGG_CONVOLUTIONS[:-1], initial=0))

IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the RGB colours in [0, 1] that VGG-19's published weights were trained on."""


class Vgg19(nn.Module):
    """VGG-19's convolutions up to relu5_1, frozen; its features are read behind the first of each level.

    Parameters
    ----------
    image_channels : int
    channels : tuple of int
        Of each level; VGG-19's own, but for studies of what does not depend on them.
    """

    def __init__(self, *, image_channels: int, channels: tuple[int, ...] = VGG_CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        each = [c for c, n in zip(channels, VGG_CONVOLUTIONS, strict=True) for _ in range(n)]
        self.convs = nn.ModuleList(conv3x3(a, b) for a, b in itertools.pairwise((image_channels, *each)))
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
    and along each axis one small matrix (`bilinear`) shifts, enlarges and sums what they make. Rows
    are worked through in bands, so that nothing but F itself has its full size.

    Parameters
    ----------
    image_channels, channels : int
        Channels of the image and of F.
    padding : str
        Of the two mixing convolutions: "zeros" or "reflect".
    unit : bool
        Images come in [0, 1] and are brought to [-1, 1] here.
    imagenet : bool
        Give VGG the image with ImageNet's mean colour at 0 and its spread at 1. Folded into the first
        convolution's weights it would not be exact: VGG pads with zeros, which are that mean colour.
    vgg_channels : tuple of int
        See `Vgg19`.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        channels: int,
        padding: Padding,
        unit: bool,
        imagenet: bool = False,
        vgg_channels: tuple[int, ...] = VGG_CHANNELS,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.padding = padding
        self.unit = unit
        self.imagenet = imagenet
        self.vgg = Vgg19(image_channels=image_channels, channels=vgg_channels)
        self.mix = conv3x3(image_channels + sum(vgg_channels), channels, padding=padding)
        self.out = conv3x3(channels, channels, padding=padding)

    def forward(self, image: Tensor) -> Tensor:
        """Map a (N, image_channels, h, w) image to (N, channels, h, w) features, >= 0."""
        if self.unit:
            image = 2 * image - 1
        first, *coarse = self.vgg(self._normalised(image) if self.imagenet else image)
        own = torch.cat([image.to(first.dtype), first], dim=1)  # the first level has the image's resolution
        del first
        split = [own.shape[1], *(tap.shape[1] for tap in coarse)]
        own_weight, *weights = torch.split(self.mix.weight, split, dim=1)
        if by_rows(own):
            return self._row_by_row(own, own_weight, coarse, weights)
        height = image.shape[2]
        features = []
        for start, stop in bands(height, ROWS):
            # The last convolution wants a row more on both sides, except at the image's own border.
            above, below = max(start - 1, 0), min(stop + 1, height)
            mixed = self._convolution_of_rows(own, own_weight, above, below)
            for tap, weight in zip(coarse, weights, strict=True):
                mixed = _add_enlarged_convolution(mixed, tap, weight, height, above, self.padding)
            band = torch.relu_(self.out(torch.relu_(mixed)))
            features.append(band[:, :, start - above : stop - above])
        return features[0] if len(features) == 1 else torch.cat(features, dim=2)

    def _normalised(self, image: Tensor) -> Tensor:
        """Bring (N, 3 s s, h, w) images in [-1, 1], pixel-unshuffled by s, to ImageNet's mean and spread."""
        each = self.image_channels // len(IMAGENET_MEAN)
        mean, spread = (
            self.mix.weight.new_tensor(numbers).repeat_interleave(each)[:, None, None]
            for numbers in (IMAGENET_MEAN, IMAGENET_SPREAD)
        )
        return ((image + 1) / 2 - mean) / spread

    def _row_by_row(self, own: Tensor, own_weight: Tensor, coarse: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Do the same with enlargements, which rows that come one after the other (`inference.rows`) know."""
        mixed = F.conv2d(_padded(own, (1, 1, 1, 1), self.padding), own_weight, self.mix.bias)
        for tap, weight in zip(coarse, weights, strict=True):
            mixed = mixed + _enlarged_convolution(tap, weight, own.shape[2:], self.padding)
        features: Tensor = torch.relu_(self.out(torch.relu_(mixed)))
        return features

    def _convolution_of_rows(self, x: Tensor, weight: Tensor, start: int, stop: int) -> Tensor:
        """Return the rows start..stop-1 of the padded 3x3 convolution of x."""
        above, below = max(start - 1, 0), min(stop + 1, x.shape[2])
        rows = x[:, :, above:below]
        if self.padding == "zeros":
            y = F.conv2d(rows, weight, self.mix.bias, padding=1)
        else:
            y = F.conv2d(reflected(rows, (1, 1, 1, 1)), weight, self.mix.bias)
        return y[:, :, start - above : stop - above]


def _add_enlarged_convolution(
    total: Tensor, x: Tensor, weight: Tensor, height: int, start: int, padding: Padding
) -> Tensor:
    """Add rows of the 3x3 convolution of x enlarged, without enlarging x.

    Parameters
    ----------
    total : (N, O, R, W) float tensor
        Rows start..start+R-1 of a map of `height` rows.
    x : (N, C, h, w) float tensor
        Enlarged to `height` rows and W columns.
    weight : (O, C, 3, 3) float tensor
    padding : str
    """
    n, o, rows, width = total.shape
    small, small_width = x.shape[2:]
    down, first = shift_matrix(start, start + rows, small, height, padding)
    read = down.shape[1] // 3
    kernel = weight.permute(3, 2, 0, 1).reshape(9 * o, -1, 1, 1)  # by column, row, output
    products = F.conv2d(x[:, :, first : first + read], kernel).to(total.dtype)  # (N, 9 O, r, w)
    # (N, r, w, 3, 3 O) to (N, w, 3, r, 3 O): samples and shifts of the columns in front
    columns = products.permute(0, 2, 3, 1).reshape(n, read, small_width, 3, 3 * o).permute(0, 2, 3, 1, 4)
    columns = columns.reshape(n, 3 * small_width, 3 * o * read)
    wide = []
    for left, right in bands(width, COLUMNS):
        across, begin = shift_matrix(left, right, small_width, width, padding)
        samples = columns[:, 3 * begin : 3 * begin + across.shape[1]]
        wide.append(torch.bmm(_tensor(across, total).expand(n, -1, -1), samples))
    # (N, W, r, 3, O) to (N, r, 3, W, O): samples and shifts of the rows in front
    lines = torch.cat(wide, dim=1).reshape(n, width, read, 3, o).permute(0, 2, 3, 1, 4)
    flat = total.permute(0, 2, 3, 1).reshape(n, rows, width * o)
    added = torch.baddbmm(flat, _tensor(down, total).expand(n, -1, -1), lines.reshape(n, 3 * read, width * o))
    return added.reshape(n, rows, width, o).permute(0, 3, 1, 2)


def _enlarged_convolution(x: Tensor, weight: Tensor, size: torch.Size, padding: Padding) -> Tensor:
    """Return the 3x3 convolution of x enlarged, by enlarging what 1x1 convolutions make of x.

    Parameters
    ----------
    x : (N, C, h, w) float tensor
    weight : (O, C, 3, 3) float tensor
    size : (H, W)
    padding : str
    """
    height, width = size
    o, c = weight.shape[:2]
    total = None
    for dy in range(3):  # one row of the kernel after the other bounds the memory
        products = F.conv2d(x, weight[:, :, dy].permute(2, 0, 1).reshape(3 * o, c, 1, 1))
        wide = F.interpolate(products, size=(x.shape[2], width), mode="bilinear", align_corners=False)
        left, middle, right = _padded(wide, (1, 1, 0, 0), padding).chunk(3, dim=1)
        row = left[..., :width] + middle[..., 1:-1] + right[..., 2:]
        full = F.interpolate(row, size=(height, width), mode="bilinear", align_corners=False)
        shifted = _padded(full, (0, 0, 1, 1), padding)[:, :, dy : dy + height]
        total = shifted if total is None else total + shifted
    assert total is not None
    return total


def _padded(x: Tensor, sides: tuple[int, int, int, int], padding: Padding) -> Tensor:
    return F.pad(x, sides, mode="constant" if padding == "zeros" else padding)


def _tensor(matrix: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(matrix).to(like.dtype).to(like.device)
