"""Layers as training pictures: checked, captured, and written to files for the training process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.files import ImageFile, write_image
from napari_dmgn.plugin.source import capture, why_not

if TYPE_CHECKING:
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_dmgn.plugin.source import Source

__all__ = ["LayerPictures", "capture_clean", "capture_pairs", "cuts"]

# Fewer pictures than these are cut up, so that a part of one can be held out.
_FEW = 4
_PIECE = 128


@dataclass(frozen=True, kw_only=True)
class LayerPictures:
    """Layers to train on, each a tuple of one clean source, or of (input, background)."""

    items: tuple[tuple[Source, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Folders of the files, one for each member of an item."""
        return ("clean",) if len(self.items[0]) == 1 else ("input", "background")

    @property
    def placement(self) -> dict[str, Any]:
        """Pixel size and units of the first layer's rows and columns."""
        found = self.items[0][0].placement
        return {"scale": tuple(found["scale"][-2:]), "units": tuple(found["units"][-2:])}

    def sources(self, folder: Path) -> tuple[dict[str, str], ...]:
        """Return what the training takes for the files in a folder."""
        paths = {name: str(folder / name) for name in self.names}
        return ({**paths, "match": "name"},) if len(paths) == 2 else (paths,)

    def write(self, folder: Path) -> Iterator[int]:
        """Write the pictures as TIFF, one after the other; yield how many are written.

        Raises
        ------
        OSError
            The disk is full.
        """
        for name in self.names:
            (folder / name).mkdir(parents=True)
        side = cuts([(item[0].frames, min(item[0].plain_shape[-2:])) for item in self.items])
        for number, item in enumerate(self.items):
            for name, source in zip(self.names, item, strict=True):
                _write(source, folder / name, f"{number:03}", side[number])
            yield number + 1


def capture_pairs(pairs: Sequence[tuple[Layer, Layer]]) -> LayerPictures:
    """Take pairs of layers, with noise and clean; ValueError says what is wrong with one."""
    if not pairs:
        raise ValueError("Choose a layer with noise, and the layer that shows the same without it.")
    return LayerPictures(items=tuple(_pair(*pair) for pair in pairs))


def capture_clean(layers: Sequence[Layer]) -> LayerPictures:
    """Take clean layers; ValueError says what is wrong with one."""
    if not layers:
        raise ValueError("Tick at least one clean layer.")
    return LayerPictures(items=tuple((_source(layer),) for layer in layers))


def _pair(first: Layer, second: Layer) -> tuple[Source, Source]:
    noisy, clean = _source(first), _source(second)
    if first == second:
        raise ValueError(f"'{noisy.name}' is chosen twice. A pair is a layer with noise and another without.")
    sizes = [f"{' × '.join(map(str, s.data.shape))}" for s in (noisy, clean)]
    if sizes[0] != sizes[1] or noisy.rgb != clean.rgb:
        raise ValueError(f"'{noisy.name}' is {sizes[0]} and '{clean.name}' is {sizes[1]}. A pair has one size.")
    types = [np.dtype(s.data.dtype) for s in (noisy, clean)]
    if types[0] != types[1]:
        raise ValueError(f"'{noisy.name}' is {types[0]} and '{clean.name}' is {types[1]}. A pair has one data type.")
    return noisy, clean


def _source(layer: Layer) -> Source:
    if (problem := why_not(layer)) is not None:
        raise ValueError(problem)
    source = capture(layer)
    dtype = np.dtype(source.data.dtype)
    if dtype.kind not in "iuf":
        raise ValueError(f"'{source.name}' holds {dtype}. Training takes whole numbers or floats.")
    if 0 in source.data.shape or len(source.data.shape) < (3 if source.rgb else 2):
        raise ValueError(f"'{source.name}' has no pixels to train on: its shape is {tuple(source.data.shape)}.")
    return source


def cuts(layers: Sequence[tuple[int, int]]) -> list[int]:
    """Return into how many rows and columns the pictures of each layer are cut: 1 leaves them whole.

    Parameters
    ----------
    layers : sequence of (frames, smaller side in pixels)
    """
    if sum(frames for frames, _ in layers) >= _FEW:
        return [1] * len(layers)
    return [min(3, max(side // _PIECE, 2 if side >= _PIECE else 1)) for _, side in layers]


def _write(source: Source, folder: Path, name: str, side: int) -> None:
    array: NDArray[Any] = np.asarray(source.data)  # Dask arrays are computed here, off the GUI thread
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    rows, columns = source.plain_shape[-2:]
    axis = array.ndim - (3 if source.rgb else 2)
    # Any number of leading axes is one: the training knows frames only.
    stack = array.reshape((-1, *array.shape[axis:]))
    for i in range(side):
        for j in range(side):
            piece = stack[:, rows * i // side : rows * (i + 1) // side, columns * j // side : columns * (j + 1) // side]
            place = "" if side == 1 else f"-{i}{j}"
            whole = piece[0] if len(piece) == 1 else piece
            # Named, since a last axis of 3 or 4 would be taken for colours.
            axes = "T" * (len(piece) > 1) + "YX" + "S" * source.rgb
            whole = np.ascontiguousarray(whole)
            like = ImageFile(array=whole, axes=axes)
            write_image(folder / f"{name}{place}.tif", whole, like=like, rgb=source.rgb)
