"""The generators: two branches with a bottleneck, and the refining one at constant resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_dmgn.model.blocks import DeepMaskingCell, conv3x3
from napari_dmgn.model.features import enlarge

__all__ = ["Branch", "Refiner"]

# Residuals and noise are small beside the features, which are all >= 0: without this factor one
# step of Adam, equal for all weights of the last layer, shifts the whole image more than the noise
# is strong, and training stays on a plateau.
OUTPUT_SCALE = 0.1


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
    concatenate : bool
        Join the skip connections by concatenation and a 3x3 convolution instead of by addition.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        widths: tuple[int, ...],
        bottleneck_cells: int,
        out_channels: int,
        mask_reduction: int,
        concatenate: bool,
    ) -> None:
        super().__init__()
        fine, coarse = widths[:-1], widths[1:]

        def cell(channels: int) -> DeepMaskingCell:
            return DeepMaskingCell(channels=channels, mask_channels=max(channels // mask_reduction, 1))

        # Where the widths agree the features enter as they are, like the paper's.
        self.enter = nn.Identity() if in_channels == widths[0] else nn.Conv2d(in_channels, widths[0], 1)
        self.down_cells = nn.ModuleList(cell(c) for c in fine)
        self.down = nn.ModuleList(conv3x3(a, b, stride=2) for a, b in zip(fine, coarse, strict=True))
        self.cells = nn.ModuleList(cell(widths[-1]) for _ in range(bottleneck_cells))
        # Narrowed before it is enlarged: a quarter of the work of narrowing afterwards.
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(fine, coarse, strict=True))
        self.merge = nn.ModuleList(conv3x3(2 * c, c) for c in fine) if concatenate else None
        self.up_cells = nn.ModuleList(cell(c) for c in fine)
        self.out = conv3x3(widths[0], out_channels)

    def forward(self, features: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """Map (N, in_channels, h, w) features to a (N, out_channels, h, w) image.

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
            x = enlarge(self.narrow[i](x))  # twice the resolution
            x = x + skips[i] if self.merge is None else torch.relu_(self.merge[i](torch.cat([x, skips[i]], dim=1)))
            x = _run(self.up_cells[i], x, masks)
        image: Tensor = self.out(x) * OUTPUT_SCALE
        return image


def _run(cell: nn.Module, x: Tensor, masks: list[Tensor] | None) -> Tensor:
    x, mask = cell(x)
    if masks is not None:
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
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)
        self.cells = nn.ModuleList(
            DeepMaskingCell(channels=channels, mask_channels=max(channels // mask_reduction, 1), dilation=d)
            for d in dilations
        )
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, out_channels, 1)
        self.weights = [alpha * decay**n for n in range(len(dilations))]

    def forward(self, source: Tensor, background_map: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """Return the (N, out_channels, h, w) refinement, in (-1, 1).

        Parameters
        ----------
        source : (N, in_channels, h, w) float tensor
            E of Eq. 6.
        background_map : (N, 1, h, w) float tensor in [0, 1]
            A_b = 1 - A_r.
        masks : list or None
            Takes the cells' masks, in order, where given.
        """
        x = torch.relu_(self.enter(source))
        for cell, weight in zip(self.cells, self.weights, strict=True):
            x, mask = cell(x, background_map=background_map, weight=weight)
            if masks is not None:
                masks.append(mask)
        return torch.tanh(self.out(torch.relu_(self.hidden(x))) * OUTPUT_SCALE)
