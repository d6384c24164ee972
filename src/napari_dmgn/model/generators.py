"""The generators: two branches with a bottleneck, and the refining one at constant resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.bands import in_bands
from napari_dmgn.model.blocks import DeepMaskingCell, PlainCell, conv3x3
from napari_dmgn.model.config import Padding
from napari_dmgn.model.features import enlarge

__all__ = ["Branch", "Refiner"]


class Branch(nn.Module):
    """G_b or G_r of Eq. 1: deep-masking cells along a U with skip connections.

    Parameters
    ----------
    in_channels : int
        Channels of the separated features.
    widths : tuple of int
        Channels per level, finest first; a stride-2 convolution between two levels.
    bottleneck_cells : int
        Cells at the coarsest level; every other level has one on the way down and one on the way up.
    out_channels : int
        Channels of the (pixel-unshuffled) image.
    mask_reduction : int
        Channels of a cell over those of its mask's hidden layer.
    skip : str
        How the skip connections join: "add", "concat" and a 3x3 convolution, or "concat-wide", at
        the coarser level's width and with two 3x3 convolutions.
    bias : bool
        Biases in the stride-2 convolutions and in the cells' 3x3 convolutions.
    padding : str
        Of all 3x3 convolutions.
    align_corners : bool
        Enlarge to the skip's size with corners aligned instead of by two.
    output_hidden : bool
        End in a 3x3 convolution, ReLU and a 1x1 convolution.
    output_scale : float
        Factor on the image.
    masking : bool
        Cells are deep-masking; if not, plain convolutions.
    gain : bool
        Also make the gain of each value (`NetworkConfig.background_gain`).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        widths: tuple[int, ...],
        bottleneck_cells: int,
        out_channels: int,
        mask_reduction: int,
        skip: str,
        bias: bool = True,
        padding: Padding = "zeros",
        align_corners: bool = False,
        output_hidden: bool = False,
        output_scale: float,
        masking: bool = True,
        gain: bool = False,
    ) -> None:
        super().__init__()
        fine, coarse = widths[:-1], widths[1:]
        wide = skip == "concat-wide"
        self.align_corners = align_corners
        self.output_scale = output_scale

        def cell(channels: int) -> nn.Module:
            kind = DeepMaskingCell if masking else PlainCell
            mask_channels = max(channels // mask_reduction, 1)
            return kind(channels=channels, mask_channels=mask_channels, bias=bias, padding=padding)

        def conv(a: int, b: int) -> nn.Conv2d:
            return conv3x3(a, b, padding=padding)

        # Where the widths agree the features enter as they are, like the paper's.
        self.enter = nn.Identity() if in_channels == widths[0] else nn.Conv2d(in_channels, widths[0], 1)
        self.down_cells = nn.ModuleList(cell(c) for c in fine)
        self.down = nn.ModuleList(
            conv3x3(a, b, stride=2, bias=bias, padding=padding) for a, b in zip(fine, coarse, strict=True)
        )
        self.cells = nn.ModuleList(cell(widths[-1]) for _ in range(bottleneck_cells))
        # Narrowed before it is enlarged: a quarter of the work of narrowing afterwards.
        self.narrow = nn.ModuleList(
            nn.Identity() if wide else nn.Conv2d(b, a, 1) for a, b in zip(fine, coarse, strict=True)
        )
        joined = ((a + (b if wide else a), a) for a, b in zip(fine, coarse, strict=True))
        self.merge = None if skip == "add" else nn.ModuleList(conv(a, b) for a, b in joined)
        self.merge_again = nn.ModuleList(conv(a, a) for a in fine) if wide else None
        self.up_cells = nn.ModuleList(cell(c) for c in fine)
        self.out_hidden = conv(widths[0], widths[0]) if output_hidden else None
        self.out = nn.Conv2d(widths[0], out_channels, 1) if output_hidden else conv(widths[0], out_channels)
        self.gain = nn.Conv2d(widths[0], out_channels, 1) if gain else None

    def forward(self, features: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """Map (N, in_channels, h, w) features to a (N, out_channels, h, w) image; with gains, followed by theirs.

        The cells' masks are appended to `masks`, in order of execution, where a list is given.
        """
        x = self.enter(features)
        skips = []
        for cell, down in zip(self.down_cells, self.down, strict=True):
            x = _run(cell, x, masks)
            skips.append(x)
            x = torch.relu_(down(x))  # half the resolution
        for cell in self.cells:
            x = _run(cell, x, masks)
        for i in reversed(range(len(skips))):
            x = self._join(i, self.narrow[i](x), skips[i])  # twice the resolution
            x = _run(self.up_cells[i], x, masks)
        (image,) = in_bands(self._image, x, reach=2)
        return image

    def _image(self, x: Tensor) -> tuple[Tensor]:
        if self.out_hidden is not None:
            x = torch.relu_(self.out_hidden(x))
        image = self.out(x) if self.gain is None else torch.cat([self.out(x), self.gain(x)], dim=1)
        image *= self.output_scale
        return (image,)

    def _join(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        if self.align_corners:
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
        else:
            x = enlarge(x)
        if self.merge is None:
            x += skip
            return x
        merge, again = self.merge[level], None if self.merge_again is None else self.merge_again[level]

        def band(x: Tensor, skip: Tensor) -> tuple[Tensor]:
            x = torch.relu_(merge(torch.cat([x, skip], dim=1)))
            return (x if again is None else torch.relu_(again(x)),)

        (joined,) = in_bands(band, x, skip, reach=2)
        return joined


def _run(cell: nn.Module, x: Tensor, masks: list[Tensor] | None) -> Tensor:
    x, mask = cell(x)
    if masks is not None and mask is not None:
        masks.append(mask)
    return x


class Refiner(nn.Module):
    """G_refine of Eq. 3: cells at constant resolution whose masks heed the noise (Eq. 10, figure 4).

    Parameters
    ----------
    in_channels : int
        Channels of the source E (Eq. 6).
    channels : int
        Channels of the cells.
    dilations : tuple of int
        One cell per entry.
    out_channels : int
        Channels of the (pixel-unshuffled) image.
    alpha, decay : float
        alpha and q of Eq. 10.
    mask_reduction : int
        Channels of a cell over those of its mask's hidden layer.
    kernel : int
        Kernel of the convolution that mixes E.
    bias : bool
        Biases in the cells' 3x3 convolutions.
    padding : str
        Of all 3x3 convolutions.
    output_scale : float
        Factor on the refinement.
    tanh : bool
        Pass the refinement through tanh.
    masking : bool
        Cells are deep-masking; if not, plain convolutions.
    gain : bool
        Also make the gain of each value (`NetworkConfig.background_gain`).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        dilations: tuple[int, ...],
        out_channels: int,
        alpha: float,
        decay: float,
        mask_reduction: int,
        kernel: int,
        bias: bool = True,
        padding: Padding = "zeros",
        output_scale: float,
        tanh: bool = True,
        masking: bool = True,
        gain: bool = False,
    ) -> None:
        super().__init__()
        self.output_scale = output_scale
        self.tanh = tanh
        self.enter = (
            conv3x3(in_channels, channels, padding=padding) if kernel == 3 else nn.Conv2d(in_channels, channels, 1)
        )
        mask_channels = max(channels // mask_reduction, 1)
        kind = DeepMaskingCell if masking else PlainCell
        self.cells = nn.ModuleList(
            kind(channels=channels, mask_channels=mask_channels, dilation=d, bias=bias, padding=padding)
            for d in dilations
        )
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, out_channels, 1)
        self.gain = nn.Conv2d(channels, out_channels, 1) if gain else None
        self.weights = [alpha * decay**n for n in range(len(dilations))]

    def forward(
        self,
        source: tuple[Tensor, ...],
        background_map: Tensor | None,
        masks: list[Tensor] | None = None,
        *,
        gains: tuple[Tensor | None, ...] | None = None,
    ) -> Tensor:
        """Return the (N, out_channels, h, w) refinement, in (-1, 1) behind tanh; with gains, followed by theirs.

        Parameters
        ----------
        source : (N, C, h, w) float tensors
            E of Eq. 6 in its parts, of `in_channels` channels together.
        background_map : (N, 1, h, w) float tensor or None
            A_b = 1 - A_r; None leaves the cells' own masks.
        masks : list or None
            Takes the cells' masks, in order, where given.
        gains : (N, C, 1, 1) float tensors or None
            A factor on each part; None is 1.
        """

        def mix(*parts: Tensor) -> tuple[Tensor]:
            scaled = [x if gain is None else x * gain for x, gain in zip(parts, factors, strict=True)]
            return (torch.relu_(self.enter(torch.cat(scaled, dim=1))),)

        factors = gains or (None,) * len(source)
        (x,) = in_bands(mix, *source, reach=1)
        for cell, weight in zip(self.cells, self.weights, strict=True):
            x, mask = cell(x, background_map=background_map, weight=weight)
            if masks is not None and mask is not None:
                masks.append(mask)
        (refinement,) = in_bands(self._refinement, x, reach=0)
        return refinement

    def _refinement(self, x: Tensor) -> tuple[Tensor]:
        x = torch.relu_(self.hidden(x))
        refinement = self.out(x)
        refinement *= self.output_scale
        if self.tanh:
            refinement = torch.tanh_(refinement)
        if self.gain is None:
            return (refinement,)
        gain = self.gain(x)
        gain *= self.output_scale
        return (torch.cat([refinement, gain], dim=1),)
