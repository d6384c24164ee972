"""What a run takes from an image layer: pixels, place and appearance, all captured before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.transforms import Affine
from numpy.typing import NDArray

Crop = tuple[tuple[int, int], ...]
"""First and last index (excluded) along each axis of the layer; colours are no axis."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that a run needs from its layer, which may change or vanish meanwhile.

    Attributes
    ----------
    name : of the layer
    data : array of the chosen level, NumPy, Dask or Zarr; never read here
    rgb : whether the last axis is colours
    placement : the layer's seven fields, moved and scaled to the first pixel of the crop
    appearance : colormap, limits and gamma of a layer without colours
    crop : what is restored
    level : of a multiscale layer
    path : of the file that the layer was read from, where napari knows it
    checksum : of the pixels that were restored, where they may be read again
    """

    name: str
    data: Any
    rgb: bool
    placement: Mapping[str, Any]
    appearance: Mapping[str, Any]
    crop: Crop
    level: int = 0
    path: str | None = None
    checksum: int | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the level is restored."""
        return all(span == (0, side) for span, side in zip(self.crop, self.data.shape, strict=False))

    def uncropped(self) -> Source:
        """All of the level, to reckon with; it is not placed anew."""
        return replace(self, crop=tuple((0, int(side)) for side in self.data.shape[: len(self.crop)]))

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Shape of what is restored, without colours."""
        return tuple(stop - start for start, stop in self.crop)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is restored."""
        return (*self.plain_shape, self.data.shape[-1]) if self.rgb else self.plain_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        kind: np.dtype[Any] = np.dtype(self.data.dtype)
        return kind

    @property
    def frames(self) -> int:
        """Number of pictures that the network sees one by one."""
        return math.prod(self.plain_shape[:-2])

    @property
    def frame_pixels(self) -> int:
        """Rows times columns of a frame."""
        return math.prod(self.plain_shape[-2:])

    @property
    def lazy(self) -> bool:
        """Whether the pixels are read when they are indexed."""
        return not isinstance(self.data, np.ndarray)

    @property
    def nbytes(self) -> int:
        """Size of what is restored in memory, read or not."""
        return int(math.prod(self.shape) * self.dtype.itemsize)

    def place(self, frame: int) -> tuple[int, ...]:
        """Place of a frame in the results."""
        grid = self.plain_shape[:-2]
        return tuple(int(i) for i in np.unravel_index(frame, grid)) if grid else ()

    def read(self, frames: range) -> NDArray[Any]:
        """Read frames: (n, H, W) or (n, H, W, 3 or 4). Nothing else of the data is touched."""
        pictures = [np.asarray(self.data[self._index(frame)]) for frame in frames]
        return pictures[0][None] if len(pictures) == 1 else np.stack(pictures)

    def _index(self, frame: int) -> tuple[int | slice, ...]:
        places = [start + i for (start, _), i in zip(self.crop, self.place(frame), strict=False)]
        return (*places, *(slice(*span) for span in self.crop[-2:]))


def why_not(layer: Layer | None) -> str | None:
    """Say why a layer cannot be restored; None where it can."""
    if layer is None:
        return "No image layer is selected. Open an image, or one of File > Open Sample > DMGN."
    if isinstance(layer, Labels) or not isinstance(layer, Image):
        # __class__, not type(): napari hands its objects to plugins behind a proxy.
        return f"'{layer.name}' is a {layer.__class__.__name__} layer. Select an image layer."
    data = layer.data[0] if layer.multiscale else layer.data
    if 0 in data.shape:
        return f"'{layer.name}' is empty: its shape is {tuple(data.shape)}. Select a layer with pixels."
    if np.dtype(data.dtype).kind not in "iuf":
        return f"'{layer.name}' holds {data.dtype} values. Select a layer of whole numbers or floats."
    return None


def capture(layer: Image, *, level: int = 0, crop: Crop | None = None) -> Source:
    """Copy from an image layer what a run needs.

    Parameters
    ----------
    layer : Image
    level : of a multiscale layer, 0 the finest
    crop : part of the level; None takes all of it
    """
    data = layer.data[level] if layer.multiscale else layer.data
    rgb = bool(layer.rgb)
    appearance: dict[str, Any] = {}
    if not rgb:
        appearance = {
            "colormap": layer.colormap.name,
            "contrast_limits": tuple(float(limit) for limit in layer.contrast_limits),
            "gamma": float(layer.gamma),
        }
    shape = tuple(int(side) for side in data.shape[: layer.ndim])
    whole = tuple((0, side) for side in shape)
    source = Source(
        name=str(layer.name),
        data=data,
        rgb=rgb,
        placement=placement(layer),
        appearance=appearance,
        crop=whole,
        level=level if layer.multiscale else 0,
        path=layer.source.path if isinstance(layer.source.path, str) else None,
    )
    factors = np.ones(layer.ndim)
    if layer.multiscale and level:
        factors = np.asarray(layer.downsample_factors[level], float)
    return cropped(source, crop or whole, factors)


def cropped(source: Source, crop: Crop, factors: NDArray[np.float64]) -> Source:
    """Take a part, and move its placement through the layer's own transform.

    A pixel of a coarser level covers `factors` pixels of the finest, and lies in their middle.
    """
    offset = np.array([start for start, _ in crop]) * factors + (factors - 1) / 2
    moved = shifted(source.placement, offset)
    return replace(source, crop=crop, placement={**moved, "scale": source.placement["scale"] * factors})


def shifted(placement: Mapping[str, Any], offset: NDArray[np.float64]) -> dict[str, Any]:
    """Place a layer's first pixel where the layer has its pixel at `offset`."""
    linear = Affine(
        scale=placement["scale"], rotate=placement["rotate"], shear=placement["shear"], ndim=len(offset)
    ).linear_matrix
    return {**placement, "translate": placement["translate"] + linear @ offset}


def placement(layer: Layer) -> dict[str, Any]:
    """Copy the seven fields that say where a layer lies."""
    return {
        "scale": np.array(layer.scale),
        "translate": np.array(layer.translate),
        "rotate": np.array(layer.rotate),
        "shear": np.array(layer.shear),
        "affine": np.array(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def placed_as(source: Source, axes: Sequence[str]) -> Source:
    """Return the source that results are placed by where the layer was restored with other axes than it has.

    It is not to be read. Colours restored as channels lead, so that rows and columns lie where the layer's do.

    Parameters
    ----------
    source : of the layer
    axes : as in `Layout`
    """
    rgb = axes[-1] in ("rgb", "rgba")
    if rgb == source.rgb:
        return source
    place = dict(source.placement)
    if rgb:
        last = len(source.crop) - 1
        place = {name: _without(name, value, last) for name, value in place.items()}
    else:
        first = 0 if axes[-1] == "channel" else len(source.crop)
        place = {name: _with(name, value, first) for name, value in place.items()}
        place["axis_labels"] = _inserted(source.placement["axis_labels"], first, axes[-1])
    return replace(source, rgb=rgb, appearance={}, placement=place)


_OF_NEW_AXIS: dict[str, Any] = {"scale": 1.0, "translate": 0.0, "units": "pixel", "axis_labels": ""}


def _with(name: str, value: Any, axis: int) -> Any:
    """Give a field of a placement one more axis, which the others do not mix with."""
    if name in _OF_NEW_AXIS:
        return _inserted(value, axis, _OF_NEW_AXIS[name])
    matrix = _matrix(name, value)
    kept = [i for i in range(len(matrix) + 1) if i != axis]
    wider = np.eye(len(matrix) + 1)
    wider[np.ix_(kept, kept)] = matrix
    return wider


def _without(name: str, value: Any, axis: int) -> Any:
    if name in _OF_NEW_AXIS:
        return np.delete(value, axis) if isinstance(value, np.ndarray) else (*value[:axis], *value[axis + 1 :])
    matrix = _matrix(name, value)
    return np.delete(np.delete(matrix, axis, 0), axis, 1)


def _inserted(values: Any, axis: int, value: Any) -> Any:
    if isinstance(values, np.ndarray):
        return np.insert(values, axis, value)
    return (*values[:axis], value, *values[axis:])


def _matrix(name: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotate and affine, which are matrices, as they are, and shear, whose upper triangle may be all, as one."""
    if name != "shear" or value.ndim == 2:
        return value
    side = round((1 + math.sqrt(1 + 8 * len(value))) / 2)
    matrix = np.eye(side)
    matrix[np.triu_indices(side, 1)] = value
    return matrix


def frame_groups(source: Source, done: int, pixels: int = 1 << 17) -> Iterator[range]:
    """Frames that are read and restored together: small ones are faster so."""
    count = max(1, pixels // source.frame_pixels)
    for start in range(done, source.frames, count):
        yield range(start, min(start + count, source.frames))
