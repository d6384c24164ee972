"""The intensity range of a volume out of the extremes of its blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.images import Array, IntensityRange, Layout, find_ranges
from napari_dmgn.images.intensity import _auto_range, _extremes
from napari_dmgn.images.layout import split_alpha

if TYPE_CHECKING:
    from napari_dmgn.lazy.recipe import Limits

__all__ = ["Extremes", "block_extremes", "needs_extremes", "volume_limits"]

Extremes = dict[int, tuple[float, float]]
"""Least and greatest finite value, by channel."""


def needs_extremes(wanted: IntensityRange, dtype: np.dtype[Any]) -> bool:
    """Whether the intensity range depends on the values, so that they all have to be read for it."""
    return wanted == "auto" and dtype != np.uint8


def block_extremes(block: Array, *, layout: Layout, first_channel: int = 0) -> Extremes:
    """Find the extremes in a block of an array of these axes; alpha does not count."""
    values = split_alpha(block, layout.rgb)[0] if layout.rgb else block
    if layout.channel_axis is None:
        return {0: _extremes(values)}
    channels = np.moveaxis(values, layout.channel_axis, 0)
    return {first_channel + place: _extremes(channel) for place, channel in enumerate(channels)}


def volume_limits(
    found: Iterable[Extremes], *, layout: Layout, dtype: np.dtype[Any], wanted: IntensityRange
) -> list[Limits]:
    """Return the intensities that become 0 and 1, for each channel, as `find_ranges` does for an array."""
    everything = list(found)
    if not everything:  # the range does not depend on the values
        count = 1 if layout.channel_axis is None else layout.shape[layout.channel_axis]
        return list(find_ranges(np.zeros((count, 1, 1), dtype), Layout(shape=(count, 1, 1), channel_axis=0), wanted))
    lows: dict[int, float] = {}
    highs: dict[int, float] = {}
    for extremes in everything:
        for channel, (low, high) in extremes.items():
            lows[channel] = min(lows.get(channel, math.inf), low)
            highs[channel] = max(highs.get(channel, -math.inf), high)
    return [_auto_range(dtype, lows[channel], highs[channel]) for channel in sorted(lows)]
