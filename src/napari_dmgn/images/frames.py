"""A part of one frame of the user's array as planes of the network, and back."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_dmgn.images.intensity import saturate
from napari_dmgn.images.layout import Array, split_alpha

FloatArray = npt.NDArray[np.float32]

_FILL_ROUNDS = 32
# Of a frame with pixels that are not finite: enough for their median.
_MEDIAN_SAMPLE = 1 << 20
_EVERYTHING = slice(None)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of the user's array, or a part of it, together with what the network sees of it.

    Attributes
    ----------
    values : (H, W, 1 or 3) view of the user's array
    alpha : (H, W) view of the user's array, or None
    planes : (1, 3, H, W) float32 in [0, 1]
    bad : (H, W, 1 or 3) bool, where `values` is NaN or infinite; None where all are finite
    span : intensity that 1 stands for, less the one that 0 stands for
    """

    values: Array
    alpha: Array | None
    planes: FloatArray
    bad: npt.NDArray[np.bool_] | None
    span: float

    def restored(self, planes: FloatArray, dtype: np.dtype[Any]) -> tuple[Array, int]:
        """Planes (1, 3, H, W) as intensities (H, W, 1 or 3), and how many pixels were saturated."""
        # Adding the network's change to the image, instead of scaling its answer, keeps what it
        # never saw: the excess outside the range, NaN, and digits that float32 cannot hold.
        change = self._pixels(planes - self.planes)
        total = np.add(self.values, change, dtype=_working_type(self.values.dtype))
        result, beyond = saturate(total, dtype)
        if dtype == self.values.dtype and dtype.kind != "f" and dtype.itemsize == 8:
            np.copyto(result, self.values, where=change == 0)  # float64 rounds beyond 2**53
        return result, 0 if beyond is None else int(beyond.any(axis=-1).sum())

    def noise(self, planes: FloatArray) -> FloatArray:
        """Noise planes (1, 3, H, W) in the image's units (H, W, 1 or 3), 0 at bad pixels."""
        noise = self._pixels(planes)
        if self.bad is not None:
            np.copyto(noise, 0, where=self.bad)
        return noise

    def noise_map(self, planes: FloatArray) -> FloatArray:
        """The map (1, H, W) as (H, W) in [0, 1], 0 at bad pixels."""
        values: FloatArray = np.clip(planes[0], 0, 1)
        if self.bad is not None:
            values[self.bad.any(axis=-1)] = 0
        return values

    def _pixels(self, planes: FloatArray) -> FloatArray:
        """Differences of planes (1, 3, H, W) in the image's units (H, W, 1 or 3)."""
        if self.values.shape[-1] == 1:
            pixels: FloatArray = np.mean(planes[0], axis=0)[..., None]
        else:
            pixels = np.stack(list(planes[0]), axis=-1)  # four times as fast as copying a view
        pixels *= np.float32(self.span)
        return pixels


class Picture:
    """A frame that is read part by part: what the network sees of a pixel does not depend on the part.

    Parameters
    ----------
    frame : (H, W) or (H, W, 3 or 4) array
        Never changed.
    rgb : whether the last axis holds colours
    low, high : intensities that become 0 and 1
    """

    def __init__(self, frame: Array, *, rgb: bool, low: float, high: float) -> None:
        self._frame = frame
        self._rgb = rgb
        self._range = low, high
        self._median: list[float] | None = None  # of each channel, once a pixel is not finite

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self._frame.shape[:2]
        return rows, columns

    def part(self, rows: slice = _EVERYTHING, columns: slice = _EVERYTHING) -> Frame:
        """Scale a part to planes in [0, 1].

        Values outside low..high are clipped. NaN and infinite pixels are filled from their neighbours.
        """
        with np.errstate(all="ignore"):  # digits lost on the way are no error, whatever the caller's state says
            return self._part(rows, columns)

    def _part(self, rows: slice, columns: slice) -> Frame:
        part = self._read(rows, columns)
        if part.bad is None:
            return part
        # Holes are filled from outside the part, too, as far as the filling reaches.
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        above, before = min(top, _FILL_ROUNDS + 1), min(left, _FILL_ROUNDS + 1)
        wider = self._read(
            slice(top - above, bottom + _FILL_ROUNDS + 1), slice(left - before, right + _FILL_ROUNDS + 1)
        )
        assert wider.bad is not None
        planes = wider.planes[0]
        channels = wider.bad.shape[-1]
        for channel in range(channels):
            _fill(planes[channel], wider.bad[..., channel], self._medians()[channel])
        if channels == 1:
            planes[1:] = planes[0]
        own = wider.planes[:, :, above : above + bottom - top, before : before + right - left]
        return replace(part, planes=np.ascontiguousarray(own))

    def _read(self, rows: slice, columns: slice) -> Frame:
        values, alpha = split_alpha(self._frame[rows, columns], self._rgb)
        low, high = self._range
        planes = _scaled(values, low, high)
        bad = None
        if values.dtype.kind == "f":
            bad = ~np.isfinite(values)
            bad = bad if bad.any() else None
        return Frame(values=values, alpha=alpha, planes=planes, bad=bad, span=high - low)

    def _medians(self) -> list[float]:
        """The median of each channel's finite pixels, scaled; of an even sample where they are many."""
        if self._median is None:
            step = max(1, math.isqrt(self.shape[0] * self.shape[1] // _MEDIAN_SAMPLE))
            sample = self._read(slice(None, None, step), slice(None, None, step))
            self._median = [
                _median(sample.planes[0, c] if sample.bad is None else sample.planes[0, c][~sample.bad[..., c]])
                for c in range(sample.values.shape[-1])
            ]
        return self._median


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if values.size else 0.0


def read_frame(frame: Array, *, rgb: bool, low: float, high: float) -> Frame:
    """Scale a whole frame (H, W) or (H, W, 3 or 4) to planes in [0, 1]; see `Picture`."""
    return Picture(frame, rgb=rgb, low=low, high=high).part()


def _scaled(values: Array, low: float, high: float) -> FloatArray:
    """Pixels (H, W, 1 or 3) as planes (1, 3, H, W) in [0, 1]; NaN stays."""
    span = high - low or 1.0
    planes = np.empty((1, 3, *values.shape[:2]), np.float32)
    if values.dtype.itemsize == 1:
        # All that a byte can be, scaled once.
        codes = np.arange(256, dtype=np.uint8).view(values.dtype).astype(np.float32)
        table = np.clip((codes - low) / span, 0, 1).astype(np.float32)
        for channel in range(values.shape[-1]):
            np.take(table, values[..., channel].view(np.uint8), out=planes[0, channel], mode="clip")
    else:
        for channel in range(values.shape[-1]):
            scaled = values[..., channel].astype(_working_type(values.dtype))
            scaled -= low
            scaled /= span
            np.clip(scaled, 0, 1, out=planes[0, channel], casting="same_kind")
    if values.shape[-1] == 1:
        planes[0, 1:] = planes[0, 0]  # one channel repeated
    return planes


def _working_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 where it holds every value of `dtype`, a wider float otherwise."""
    return np.result_type(dtype, np.float32).newbyteorder("=")


def _fill(plane: Array, bad: npt.NDArray[np.bool_], median: float) -> None:
    """Replace bad pixels in place: rings inwards from the known neighbours, the rest by the median."""
    padded = np.pad(plane, 1, constant_values=np.nan)
    padded[1:-1, 1:-1][bad] = np.nan
    rows, columns = (places + 1 for places in np.nonzero(bad))
    for _ in range(_FILL_ROUNDS):
        around = np.stack([padded[rows + dy, columns + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))])
        known = np.isfinite(around)
        count = known.sum(axis=0)
        reached = count > 0
        total = np.where(known, around, 0).sum(axis=0)
        padded[rows[reached], columns[reached]] = total[reached] / count[reached]
        rows, columns = rows[~reached], columns[~reached]
        if not rows.size:
            break
    padded[rows, columns] = median
    plane[:] = padded[1:-1, 1:-1]
