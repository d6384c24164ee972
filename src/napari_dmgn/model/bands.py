"""Local operations on large maps, band of rows after band, so that what lies between stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from napari_dmgn.model.bilinear import bands

__all__ = ["by_rows", "in_bands"]

# Values of all maps in a band. Buffers of this size stay in the processor's cache and in the
# allocator's hands; fresh memory for every map of a large image costs as much time as its convolution.
BAND = 1 << 21
# Maps of fewer values each are small enough as they are.
LARGE = 1 << 23


def in_bands(f: Callable[..., tuple[Tensor, ...]], *maps: Tensor, reach: int) -> tuple[Tensor, ...]:
    """Return f(*maps), computed band after band where the maps are large, on the CPU and without gradients.

    Parameters
    ----------
    f : function
        Of (N, C, h, w) maps, to a tuple of such maps at the same resolution. What it makes of a row
        depends on the rows up to `reach` away and, there, on where the map ends.
    maps : (N, C, h, w) float tensors
    reach : int
        Each band is given so many rows more on both sides; what f makes of those is dropped.
    """
    n, _, height, width = maps[0].shape
    if by_rows(maps[0]):  # few at a time anyway
        return f(*maps)
    largest = max(x.numel() for x in maps)
    if torch.is_grad_enabled() or maps[0].device.type != "cpu" or largest < LARGE:
        return f(*maps)
    channels = sum(x.shape[1] for x in maps)
    rows = max(BAND // (n * channels * width), 2 * reach, 8)
    whole: list[Tensor] = []
    for start, stop in bands(height, rows):
        first, last = max(start - reach, 0), min(stop + reach, height)
        made = f(*(x[:, :, first:last] for x in maps))
        if not whole:
            whole = [
                torch.empty((n, b.shape[1], height, width), dtype=b.dtype, memory_format=torch.channels_last)
                for b in made
            ]
        for out, band in zip(whole, made, strict=True):
            out[:, :, start:stop] = band[:, :, start - first : stop - first]
    return tuple(whole)


def by_rows(x: object) -> bool:
    """Return whether a map comes as rows, some at a time (`inference.rows`), and not as one tensor."""
    return not isinstance(x, Tensor)
