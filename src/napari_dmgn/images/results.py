"""The arrays of results, filled part by part."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from napari_dmgn.images.frames import FloatArray, Frame
from napari_dmgn.images.intensity import saturate
from napari_dmgn.images.layout import Array, Layout

OUTPUTS = ("background", "noise", "noise_map", "coarse")
"""Names of the results."""


class Results:
    """The output arrays of a whole volume.

    Parameters
    ----------
    layout : of the image
    dtype : of background and coarse
    out : arrays to write into, by the names in `OUTPUTS`
        NumPy arrays, memory maps, or what takes values at a tuple of slices likewise; None for a
        result that is not wanted. Those that are not named are made.

    Raises
    ------
    ValueError
        A name, shape or type that does not fit.
    """

    def __init__(self, layout: Layout, dtype: np.dtype[Any], out: Mapping[str, Any] | None = None) -> None:
        self._layout = layout
        self._out: dict[str, Any] = {}
        for name, (shape, kind) in output_arrays(layout, dtype).items():
            if out is None or name not in out:
                self._out[name] = np.empty(shape, kind)
            else:
                self._out[name] = _checked(name, out[name], shape, kind)
        if unknown := sorted(set(out or ()) - set(OUTPUTS)):
            raise ValueError(f"unknown results {unknown}; there are {', '.join(OUTPUTS)}")
        self.masks: dict[str, FloatArray] = {}
        self.clipped_pixels = 0
        self.nonfinite_pixels = 0

    @property
    def background(self) -> Any:
        """The clean image; an empty array, like the others, where it is not wanted."""
        return self._array("background")

    @property
    def noise(self) -> Any:
        """What lay over it, in the image's units."""
        return self._array("noise")

    @property
    def noise_map(self) -> Any:
        """How much of it a pixel holds."""
        return self._array("noise_map")

    @property
    def coarse(self) -> Any:
        """The first estimate of the background."""
        return self._array("coarse")

    def _array(self, name: str) -> Any:
        array = self._out[name]
        return np.empty(0, np.float32) if array is None else array

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
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """Write what the network made of a part of one frame, as planes (1, 3, H, W) or (1, H, W).

        Parameters
        ----------
        index : of the frame
        frame : Frame
            The part.
        masks : whole ones, (1, h, w)
        rows, columns : where the part lies
        """
        place = self._layout.place(index, rows, columns)
        with np.errstate(all="ignore"):  # as in `Picture.part`
            if self._out["background"] is not None:
                pixels, clipped = frame.restored(background, self._out["background"].dtype)
                self._put_restored("background", place, frame, pixels)
                self.clipped_pixels += clipped
            if self._out["coarse"] is not None:
                self._put_restored("coarse", place, frame, frame.restored(coarse, self._out["coarse"].dtype)[0])
            if self._out["noise"] is not None:
                noise_pixels = frame.noise(noise)
                self._out["noise"][place] = noise_pixels if self._layout.rgb else noise_pixels[..., 0]
            if self._out["noise_map"] is not None:
                self._out["noise_map"][place] = frame.noise_map(noise_map)
        if frame.bad is not None:
            self.nonfinite_pixels += int(frame.bad.any(axis=-1).sum())
        for name, mask in (masks or {}).items():
            self.put_mask(index, name, mask, size=(mask.shape[-2], mask.shape[-1]))

    def put_mask(
        self,
        index: int,
        name: str,
        mask: FloatArray,
        *,
        size: tuple[int, int],
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """Write a part of a cell's mask (1, h, w), whose whole has `size`."""
        # Masks have the resolution of their cell, known only once the first comes.
        if name not in self.masks:
            lengths = dict(zip(("y", "x"), size, strict=True))
            sizes = zip(self._layout.axes, self._layout.plain_shape, strict=False)
            self.masks[name] = np.zeros([lengths.get(axis, n) for axis, n in sizes], np.float32)
        self.masks[name][self._layout.place(index, rows, columns)] = mask[0]

    def _put_restored(self, name: str, place: tuple[int | slice, ...], frame: Frame, pixels: Array) -> None:
        if not self._layout.rgb:
            pixels = pixels[..., 0]
        elif frame.alpha is not None:
            alpha = saturate(frame.alpha, pixels.dtype)[0]
            pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
        self._out[name][place] = pixels


def output_arrays(layout: Layout, dtype: np.dtype[Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and the number type of each result."""
    single: np.dtype[Any] = np.dtype(np.float32)
    return {
        "background": (layout.shape, dtype),
        "noise": (layout.plain_shape + ((3,) if layout.rgb else ()), single),
        "noise_map": (layout.plain_shape, single),
        "coarse": (layout.shape, dtype),
    }


def _checked(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if array is not None and (tuple(array.shape) != shape or array.dtype != dtype):
        raise ValueError(
            f"the array for {name} has shape {tuple(array.shape)} and type {array.dtype}; wanted {shape} and {dtype}"
        )
    return array
