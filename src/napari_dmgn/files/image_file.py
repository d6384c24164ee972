"""What an image file holds, whatever its format."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class RefusedError(ValueError):
    """A whole file that does not hold what is asked for, or holds what is not read; the message names it."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """What an image file holds.

    Attributes
    ----------
    array : the pixels; colours, where there are any, on the last axis; of a large file perhaps a read-only map
    rgb : whether the last axis is RGB or RGBA; None where the file does not say
    channel_axis : axis of channels that the file names, or None
    axes : a letter for each axis as in OME-TIFF (S: colours), or None where the file does not say
    metadata : what a file written `like` this one takes over: pixel size, colour profile
    colours_at : axis on which the file has the colours, where that is not its last
    """

    array: Array
    rgb: bool | None = None
    channel_axis: int | None = None
    axes: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    colours_at: int | None = None

    def as_stored(self) -> "ImageFile":
        """Return the image with its axes in the order of the file, where colours are an axis like any other."""
        if self.colours_at is None:
            return self
        array = np.moveaxis(self.array, -1, self.colours_at)
        axes = self.axes and f"{self.axes[: self.colours_at]}S{self.axes[self.colours_at : -1]}"
        return replace(self, array=array, rgb=False, axes=axes, colours_at=None)


def axes_of(array: Array, like: ImageFile) -> str | None:
    """Letters of the axes of an array that came from `like`, with or without its colours."""
    if like.axes and len(like.axes) == array.ndim:
        return like.axes
    if like.axes and like.axes.endswith("S") and len(like.axes) == array.ndim + 1:
        return like.axes[:-1]
    return None


def profile_for(like: ImageFile, *, rgb: bool) -> bytes | None:
    """Return the colour profile of `like` if it speaks of such colours; one of RGB does not fit a grayscale map."""
    profile: bytes = like.metadata.get("icc_profile", b"")
    return profile if profile[16:20] == (b"RGB " if rgb else b"GRAY") else None
