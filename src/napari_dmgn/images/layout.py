"""Which axes of an array are frames, channels, rows, columns and colours."""

import math
import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from napari_dmgn.words import brief

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which axes of an array hold rows, columns, colours, channels and frames.

    A *frame* is what the network sees at once: one picture of (H, W) or (H, W, 3 or 4). Leading
    axes are frames, and so is every channel of `channel_axis`.
    """

    shape: tuple[int, ...]
    rgb: bool = False
    channel_axis: int | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """A word for each axis: frame, channel, y, x, rgb or rgba."""
        names = ["frame"] * len(self.shape)
        if self.rgb:
            names[-3:] = ["y", "x", "rgb" if self.shape[-1] == 3 else "rgba"]
            return tuple(names)
        places = [axis for axis in range(len(names)) if axis != self.channel_axis]
        names[places[-2]], names[places[-1]] = "y", "x"
        if self.channel_axis is not None:
            names[self.channel_axis] = "channel"
        return tuple(names)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of one frame."""
        rows, columns = (self.shape[self.axes.index(name)] for name in ("y", "x"))
        return rows, columns

    @property
    def grid(self) -> tuple[int, ...]:
        """Lengths of the axes that count frames, the channel axis first."""
        if self.rgb:
            return self.shape[:-3]
        if self.channel_axis is None:
            return self.shape[:-2]
        axis = self.channel_axis
        others = self.shape[:axis] + self.shape[axis + 1 :]
        return (self.shape[axis], *others[:-2])

    @property
    def frames(self) -> int:
        """Number of frames."""
        return math.prod(self.grid)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """The shape without the axis of colours."""
        return self.shape[:-1] if self.rgb else self.shape

    def channel_first(self, array: Array) -> Array:
        """View of an array with these axes, in which the channel axis leads."""
        return array if self.channel_axis is None else np.moveaxis(array, self.channel_axis, 0)

    def frame(self, array: Array, index: int) -> Array:
        """View of one frame of `array`, which has these axes (colours may be missing)."""
        place = np.unravel_index(index, self.grid) if self.grid else ()
        view: Array = self.channel_first(array)[place]
        return view

    def place(self, index: int, rows: slice, columns: slice) -> tuple[int | slice, ...]:
        """Where a part of a frame lies in an array with these axes (colours may be missing)."""
        numbers = [int(i) for i in np.unravel_index(index, self.grid)] if self.grid else []
        places: list[int | slice] = [*numbers, rows, columns]
        if self.channel_axis is not None:
            places.insert(self.channel_axis, places.pop(0))
        return tuple(places)

    def channel(self, index: int) -> int:
        """The channel that a frame belongs to; 0 where there is no channel axis."""
        return 0 if self.channel_axis is None else index // math.prod(self.grid[1:])


def split_alpha(frame: Array, rgb: bool) -> tuple[Array, Array | None]:
    """Views of a frame's intensities (H, W, 1 or 3) and of its alpha (H, W)."""
    if not rgb:
        return frame[..., None], None
    return frame[..., :3], frame[..., 3] if frame.shape[-1] == 4 else None


def check_image(image: npt.ArrayLike) -> Array:
    """Return the image as an array of numbers that can be restored; ValueError otherwise."""
    if isinstance(image, (str, bytes, os.PathLike)):
        raise ValueError(f"an image is an array; got the path {image!r}: read the file first")
    try:
        # A Dask array says what is masked when it is computed, and loses it on the way through NumPy.
        array = np.asanyarray(cast(Any, image).compute() if hasattr(image, "__dask_graph__") else image)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor that requires a gradient, say
        reason = (str(error).splitlines() or ["it does not say why"])[0]
        raise ValueError(f"cannot read a {type(image).__name__} as an array of pixels: {reason}") from error
    if np.ma.is_masked(array):
        raise ValueError("an image's mask would be lost: fill its pixels first, with NaN where they are to be left out")
    array = np.asarray(array)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"cannot restore an image of dtype {array.dtype}; wanted integers or floats")
    if array.ndim < 2:
        raise ValueError(f"an image has at least 2 axes; got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"the image has no pixels: its shape is {array.shape}")
    return array


def guess_rgb(shape: tuple[int, ...]) -> bool:
    """Tell whether the last axis looks like colours: napari's rule, small pictures included."""
    return len(shape) >= 3 and shape[-1] in (3, 4)


def read_layout(shape: tuple[int, ...], *, channel_axis: int | None = None, rgb: bool | None = None) -> Layout:
    """Name the axes of an array.

    Parameters
    ----------
    shape : lengths of the axes, at least two
    channel_axis : axis of channels that are restored each on its own
    rgb : whether the last axis holds RGB or RGBA; None looks at the shape

    Raises
    ------
    ValueError
        If the axes contradict the shape or each other, or if five or more axes are left unnamed.
    """
    if rgb is not None and not isinstance(rgb, (bool, np.bool_)):
        raise ValueError(f"rgb is True, False or None; got {brief(rgb)}")
    if channel_axis is not None:
        if rgb:
            raise ValueError("give either rgb=True or channel_axis, not both")
        axis = _check_axis(channel_axis, len(shape))
        if len(shape) < 3:
            raise ValueError(f"channel_axis needs an image of 3 or more axes; got shape {shape}")
        return Layout(shape=shape, channel_axis=axis)
    if rgb is None:
        if len(shape) > 4:
            raise ValueError(
                f"an image of {len(shape)} axes needs channel_axis= or rgb= "
                f"(--channel-axis N or --rgb); got shape {shape}"
            )
        rgb = guess_rgb(shape)
    elif rgb and not guess_rgb(shape):
        raise ValueError(f"rgb=True needs a last axis of 3 or 4; got shape {shape}")
    return Layout(shape=shape, rgb=bool(rgb))


def _check_axis(axis: object, ndim: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ValueError(f"channel_axis is a whole number; got {brief(axis)}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"channel_axis {axis} is outside the {ndim} axes of the image")
    return int(axis) % ndim
