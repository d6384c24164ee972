"""Intensities: the range that the network sees as 0 to 1, and saturated number types."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_dmgn.images.layout import Array, Layout, split_alpha
from napari_dmgn.words import brief

_BLOCK = 1 << 22

IntensityRange = Literal["auto", "dtype"] | tuple[float, float]


def check_range(wanted: object) -> IntensityRange:
    """Return a valid setting of the intensity range; ValueError otherwise."""
    if isinstance(wanted, str):
        if wanted == "auto":
            return "auto"
        if wanted == "dtype":
            return "dtype"
    elif isinstance(wanted, (tuple, list, np.ndarray)):
        low, high = _two_numbers(wanted)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return _check_span(low, high)
    raise ValueError(
        f"intensity_range is 'auto', 'dtype' or two finite numbers (low, high) with low < high; got {brief(wanted)}"
    )


def _two_numbers(values: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) if np.ndim(value) == 0 else math.nan for value in values)
    except (OverflowError, TypeError, ValueError):
        return math.nan, math.nan
    return low, high


def _check_span(low: float, high: float) -> tuple[float, float]:
    # The noise is float32 in the image's own units, so the span has to be a float32 too.
    if high - low > float(np.finfo(np.float32).max):
        raise ValueError(f"the intensity range {low:g} to {high:g} is too wide for float32")
    return low, high


def find_ranges(image: Array, layout: Layout, wanted: IntensityRange = "auto") -> tuple[tuple[float, float], ...]:
    """Fix the intensities that become 0 and 1, once for the whole volume.

    One range, or one a channel where there is a channel axis: channels have units of their own.
    `"auto"` is 0..255 for uint8; 0 (or the least value, if negative) to the largest for other
    integers; for floats 0..1 where the data lie within, and their finite extremes otherwise.
    Low equals high only if all pixels are the same.
    """
    count = 1 if layout.channel_axis is None else layout.shape[layout.channel_axis]
    if not isinstance(wanted, str):
        return (wanted,) * count
    dtype = image.dtype
    if wanted == "dtype" or dtype == np.uint8:
        full = (0.0, 1.0)
        if dtype.kind != "f":
            full = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        return (full,) * count
    lows, highs = [math.inf] * count, [-math.inf] * count
    for index in range(layout.frames):
        values = split_alpha(layout.frame(image, index), layout.rgb)[0]
        channel = layout.channel(index)
        step = max(1, _BLOCK // max(values[0].size, 1))
        for row in range(0, len(values), step):  # a large image may be on the disk
            low, high = _extremes(values[row : row + step])
            lows[channel], highs[channel] = min(lows[channel], low), max(highs[channel], high)
    return tuple(_auto_range(dtype, *pair) for pair in zip(lows, highs, strict=True))


def _extremes(values: Array) -> tuple[float, float]:
    if values.size == 0:  # a chunk of length zero
        return math.inf, -math.inf
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = np.isfinite(values)
    low = np.min(values, where=finite, initial=np.inf)
    return float(low), float(np.max(values, where=finite, initial=-np.inf))


def _auto_range(dtype: np.dtype[Any], low: float, high: float) -> tuple[float, float]:
    if dtype.kind != "f":
        return _check_span(min(0.0, low), high)
    if low >= 0 and high <= 1:  # also where no pixel is finite: inf and -inf
        return 0.0, 1.0
    return _check_span(low, high)


def saturate(values: Array, dtype: npt.DTypeLike) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    """Convert to a number type: rounded for integers, held to its limits, never wrapped.

    Returns the converted array and where values were beyond the limits, None if none was. NaN
    becomes 0 in integers; in floats NaN and infinity stay.
    """
    target = np.dtype(dtype)
    if target.kind == "f":
        return _saturate_float(values, target)
    limits = np.iinfo(target)
    if values.dtype.kind == "f":
        values = np.rint(values)
    # The usual case, and ten times faster; NaN fails the comparison.
    if values.min(initial=0) >= limits.min and values.max(initial=0) < limits.max:
        return values.astype(target), None
    below, above = values < limits.min, values >= limits.max
    # An integer's limit may not be a float (2**63 - 1): write the limits as integers.
    inside = np.where(below | above | np.isnan(values), 0, values).astype(target)
    np.copyto(inside, limits.min, where=below)
    np.copyto(inside, limits.max, where=above)
    beyond = below | (values > limits.max)
    return inside, beyond if beyond.any() else None


def _saturate_float(values: Array, target: np.dtype[Any]) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    if values.dtype.kind == "f" and values.dtype.itemsize <= target.itemsize:
        return values.astype(target), None
    limit = np.finfo(target).max
    beyond = np.isfinite(values) & (np.abs(values) > limit)
    if not beyond.any():
        return values.astype(target), None
    return np.where(beyond, np.copysign(limit, values), values).astype(target), beyond


def unit_to_dtype(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return an array of [0, 1] with 1 at a whole-number type's greatest value; floats stay."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return array.astype(dtype)
    return saturate(array.astype(np.float64) * np.iinfo(dtype).max, dtype)[0]
