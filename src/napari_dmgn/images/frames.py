"""One frame of the user's array as planes of the network, and the arrays of results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_dmgn.images.intensity import saturate
from napari_dmgn.images.layout import Array, Layout, split_alpha

FloatArray = npt.NDArray[np.float32]

_FILL_ROUNDS = 32


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of the user's array together with what the network sees of it.

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


def read_frame(frame: Array, *, rgb: bool, low: float, high: float) -> Frame:
    """Scale a frame (H, W) or (H, W, 3 or 4) to planes in [0, 1]; the input is not changed.

    Values outside low..high are clipped. NaN and infinite pixels are filled from their neighbours.
    """
    values, alpha = split_alpha(frame, rgb)
    scaled = values.astype(_working_type(values.dtype))
    bad = None
    if values.dtype.kind == "f":
        bad = ~np.isfinite(scaled)
        bad = bad if bad.any() else None
    with np.errstate(over="ignore", invalid="ignore"):
        scaled -= low
        scaled /= high - low or 1.0
    np.clip(scaled, 0, 1, out=scaled)
    if bad is not None:
        for channel in range(scaled.shape[-1]):
            _fill(scaled[..., channel], bad[..., channel])
    planes = np.empty((1, 3, *scaled.shape[:2]), np.float32)
    planes[0] = np.moveaxis(scaled, -1, 0)  # (H, W, 1 or 3) -> (3, H, W), one channel repeated
    return Frame(values=values, alpha=alpha, planes=planes, bad=bad, span=high - low)


def _working_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 where it holds every value of `dtype`, a wider float otherwise."""
    return np.result_type(dtype, np.float32).newbyteorder("=")


def _fill(plane: Array, bad: npt.NDArray[np.bool_]) -> None:
    """Replace bad pixels in place: rings inwards from the known neighbours, the rest by median."""
    if bad.all():
        plane[:] = 0
        return
    median = np.median(plane[~bad])
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


class Results:
    """The output arrays of a whole volume, filled frame by frame."""

    def __init__(self, layout: Layout, dtype: np.dtype[Any]) -> None:
        self._layout = layout
        colours = (3,) if layout.rgb else ()
        self.background: Array = np.empty(layout.shape, dtype)
        self.coarse: Array = np.empty(layout.shape, dtype)
        self.noise: FloatArray = np.empty(layout.plain_shape + colours, np.float32)
        self.noise_map: FloatArray = np.empty(layout.plain_shape, np.float32)
        self.masks: dict[str, FloatArray] = {}
        self.clipped_pixels = 0
        self.nonfinite_pixels = 0

    def put(
        self,
        index: int,
        frame: Frame,
        *,
        background: FloatArray,
        noise: FloatArray,
        noise_map: FloatArray,
        coarse: FloatArray,
        masks: Mapping[str, FloatArray] | None = None,
    ) -> None:
        """Write what the network made of one frame, as planes (1, 3, H, W) or (1, H, W)."""
        self.clipped_pixels += self._put_restored(self.background, index, frame, background)
        self._put_restored(self.coarse, index, frame, coarse)
        noise_pixels = frame.noise(noise)
        target = self._layout.frame(self.noise, index)
        target[...] = noise_pixels if self._layout.rgb else noise_pixels[..., 0]
        self._layout.frame(self.noise_map, index)[...] = frame.noise_map(noise_map)
        if frame.bad is not None:
            self.nonfinite_pixels += int(frame.bad.any(axis=-1).sum())
        for name, mask in self._mask_frames(index, masks or {}):
            mask[...] = (masks or {})[name][0]

    def _put_restored(self, array: Array, index: int, frame: Frame, planes: FloatArray) -> int:
        pixels, clipped = frame.restored(planes, array.dtype)
        target, alpha = split_alpha(self._layout.frame(array, index), self._layout.rgb)
        target[...] = pixels
        if alpha is not None and frame.alpha is not None:
            alpha[...] = saturate(frame.alpha, array.dtype)[0]
        return clipped

    def _mask_frames(self, index: int, masks: Mapping[str, FloatArray]) -> Iterator[tuple[str, Array]]:
        # Masks have the resolution of their cell, known only once the first frame is done.
        for name, mask in masks.items():
            if name not in self.masks:
                lengths = dict(zip(("y", "x"), mask.shape[-2:], strict=True))
                sizes = zip(self._layout.axes, self._layout.plain_shape, strict=False)
                self.masks[name] = np.zeros([lengths.get(axis, n) for axis, n in sizes], np.float32)
            yield name, self._layout.frame(self.masks[name], index)
