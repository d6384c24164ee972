"""Pictures as tensors: files and arrays of any layout, cut into frames that the network could see."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_dmgn import images
from napari_dmgn.files import IMAGE_SUFFIXES, ImageFile, read_image
from napari_dmgn.paths import expanded

__all__ = ["Picture", "array_pictures", "find_pictures", "pair_pictures", "read_pictures"]

Ranges = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One clean picture, or one pair of pictures, as it is kept in memory.

    Attributes
    ----------
    name : str
        For messages: the file, and the frame where it has several.
    group : str
        What is held out of the training together: pictures of one file, by its path without links.
    file : str
        The file's name, which decides whether it is held out: folders may move.
    pixels : (L, C, H, W) tensor
        L is 1 for a clean picture, 2 for a pair (input, background); C is 1 (gray) or 3. uint8 over
        0..255, or float16 over 0..1 where the source has more than 8 bits.
    dtype : str
        The source's own type.
    """

    name: str
    group: str
    file: str
    pixels: Tensor
    dtype: str

    @property
    def side(self) -> int:
        """Smaller of height and width."""
        return min(self.pixels.shape[-2:])

    @property
    def size(self) -> str:
        """Width and height, for messages."""
        return f"{self.pixels.shape[-1]}x{self.pixels.shape[-2]}"

    def background_hash(self) -> str:
        """sha256 of the clean pixels: pictures with the same show the same scene."""
        return hashlib.sha256(_bytes(self.pixels[-1:])).hexdigest()

    def update(self, digest: Any) -> None:
        """Feed the pixels, as rows of colours, to a hash."""
        digest.update(_bytes(self.pixels))


def _bytes(pixels: Tensor) -> bytes:
    # (L, C, H, W) -> (L, H, W, C), the order in which files have them
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy().tobytes()


def find_pictures(folder: str | Path) -> list[Path]:
    """Return a folder's picture files, sorted by name.

    Raises
    ------
    ValueError
        The folder is missing or has no picture.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise ValueError(f"data folder {folder} does not exist")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"data folder {folder} has no picture ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def depth_maps(paths: Sequence[Path]) -> list[Path]:
    """Return which of a folder's files are depth maps: those named *_depth, or all where none is."""
    return [path for path in paths if path.stem.lower().endswith("_depth")] or list(paths)


def read_pictures(path: str | Path) -> list[Picture]:
    """Read a file's frames; each page of a stack and each channel that is no colour is one.

    Raises
    ------
    ValueError
        The file cannot be read.
    """
    path = Path(path)
    file = _read(path)
    return _pictures(_planes(file, path.name, None)[0], path.name, path, dtype=str(file.array.dtype))


def pair_pictures(first: str | Path, second: str | Path) -> list[Picture]:
    """Read an input and its background as pairs, frame by frame, in the input's intensity range.

    Raises
    ------
    ValueError
        A file cannot be read, or the two differ in shape or type.
    """
    first, second = Path(first), Path(second)
    files = [_read(path) for path in (first, second)]
    name = f"{first.name} + {second.name}"
    # Pictures of one scene stay together, so the group is the clean file.
    return _pair(files[0], files[1], name, second)


def array_pictures(array: Any, name: str, background: Any = None) -> list[Picture]:
    """Cut an array, (H, W), (H, W, 3 or 4) or a stack of them, or a layer, into pictures, or two into pairs.

    Raises
    ------
    ValueError
        An array that `restore` would refuse, or two of different shape or type.
    """
    file = _opened(array)
    if background is None:
        return _pictures(_planes(file, name, None)[0], name, None, dtype=str(file.array.dtype))
    return _pair(file, _opened(background), name, None)


def _opened(image: Any) -> ImageFile:
    """Return an array, or a layer's, which is told by what it has: nothing here knows the viewer."""
    if not (hasattr(image, "rgb") and hasattr(image, "data")):
        return ImageFile(array=images.check_image(image))
    pixels = image.data[0] if getattr(image, "multiscale", False) else image.data  # the finest level
    return ImageFile(array=images.check_image(pixels), rgb=bool(image.rgb))


def _pair(first: ImageFile, second: ImageFile, name: str, path: Path | None) -> list[Picture]:
    shapes = [file.array.shape for file in (first, second)]
    types = [file.array.dtype for file in (first, second)]
    if types[0] != types[1]:
        raise ValueError(f"{name}: types {types[0]} and {types[1]}; wanted two of one type")
    inputs, ranges = _planes(first, name, None)
    backgrounds, _ = _planes(second, name, ranges)
    sizes = [[plane.shape[-2:] for plane in planes] for planes in (inputs, backgrounds)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{name}: shapes {shapes[0]} and {shapes[1]}; wanted two of one size")
    channels = [max(a.shape[0], b.shape[0]) for a, b in zip(inputs, backgrounds, strict=True)]
    stacked = [
        torch.stack([a.expand(c, -1, -1), b.expand(c, -1, -1)])
        for a, b, c in zip(inputs, backgrounds, channels, strict=True)
    ]
    return _pictures(stacked, name, path, dtype=str(types[0]))


def _pictures(planes: list[Tensor], name: str, path: Path | None, *, dtype: str) -> list[Picture]:
    several = len(planes) > 1
    group, file = (name, name) if path is None else (str(path.resolve()), path.name)
    return [
        Picture(
            name=f"{name}[{i}]" if several else name,
            group=group,
            file=file,
            pixels=p if p.ndim == 4 else p[None],
            dtype=dtype,
        )
        for i, p in enumerate(planes)
    ]


def _read(path: Path) -> ImageFile:
    try:
        return read_image(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"cannot read {str(path)!r}: ")
        raise ValueError(f"cannot read picture {path}: {reason}") from error


def _planes(file: ImageFile, name: str, ranges: Ranges | None) -> tuple[list[Tensor], Ranges]:
    """Every frame as a (C, H, W) tensor, and the intensity ranges by channel."""
    array = file.array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {array.dtype}; wanted integers or floats")
    layout = images.read_layout(array.shape, channel_axis=file.channel_axis, rgb=file.rgb)
    if ranges is None:
        ranges = images.find_ranges(array, layout)
    return [_plane(array, layout, ranges, i) for i in range(layout.frames)], ranges


def _plane(array: images.Array, layout: images.Layout, ranges: Ranges, index: int) -> Tensor:
    frame = layout.frame(array, index)
    colours = 3 if layout.rgb else 1
    if array.dtype == np.uint8:  # kept as they are: a quarter of the memory of float32
        pixels = frame[..., :3].transpose(2, 0, 1) if layout.rgb else frame[None]
        return torch.from_numpy(np.array(pixels, order="C"))  # the caller's array stays the caller's
    low, high = ranges[layout.channel(index) % len(ranges)]
    planes = images.read_frame(frame, rgb=layout.rgb, low=low, high=high).planes[0, :colours]
    return torch.from_numpy(planes.copy()).half()  # 11 bits, and every device computes with them
