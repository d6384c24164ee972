"""Parts of a layer to restore: all, the slice that is shown, what the window shows, or a drawn rectangle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes

from napari_dmgn.plugin.source import Crop

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from numpy.typing import NDArray

__all__ = ["REGIONS", "RegionError", "region"]

REGIONS = [
    ("Whole layer", "whole"),
    ("Current slice", "slice"),
    ("Visible window", "window"),
    ("Shapes rectangle", "shapes"),
]


class RegionError(ValueError):
    """There is nothing to restore in the region; says what to do."""


def region(viewer: ViewerModel, layer: Image, kind: str, level: int = 0) -> Crop:
    """Find a region in the pixels of a level.

    Parameters
    ----------
    viewer, layer
    kind : a value of `REGIONS`
    level : of a multiscale layer

    Raises
    ------
    RegionError
        Nothing is drawn, or what is drawn or shown lies beside the layer.
    """
    factors = np.ones(layer.ndim)
    shape = layer.data.shape
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors[level], float)
        shape = layer.data[level].shape
    shape = tuple(int(side) for side in shape[: layer.ndim])
    if kind == "whole":
        return tuple((0, side) for side in shape)
    now = _current(viewer, layer)
    if kind == "slice":
        low, high = now.copy(), now.copy()
        low[-2:], high[-2:] = -0.5, factors[-2:] * shape[-2:] - 0.5
    elif kind == "window":
        low, high = _window(viewer, layer, now)
    else:
        low, high = _drawn(viewer, layer, now)
    # A pixel of the level reaches half of itself around its centre, which lies in the middle of what it covers.
    first = np.floor((low - (factors - 1) / 2) / factors + 0.5)
    last = np.ceil((high - (factors - 1) / 2) / factors + 0.5)
    crop = tuple(
        (max(0, int(start)), min(side, max(int(stop), int(start) + 1)))
        for start, stop, side in zip(first, last, shape, strict=True)
    )
    if any(start >= stop for start, stop in crop):
        what = "The rectangle lies" if kind == "shapes" else "What the window shows lies"
        raise RegionError(f"{what} beside '{layer.name}'. Choose the whole layer, or move it onto the layer.")
    return crop


def _current(viewer: ViewerModel, layer: Image) -> NDArray[np.float64]:
    """Place of the slice that is shown, in the layer's pixels."""
    missing = max(0, layer.ndim - viewer.dims.ndim)
    point = np.concatenate([np.zeros(missing), np.asarray(viewer.dims.point, float)])
    place = np.round(np.asarray(layer.world_to_data(point), float))
    shape = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    return np.clip(place, 0, np.array(shape) - 1)


def _window(viewer: ViewerModel, layer: Image, now: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    displayed = viewer.dims.displayed[-2:]
    if viewer.dims.ndisplay != 2 or displayed != (viewer.dims.ndim - 2, viewer.dims.ndim - 1):
        raise RegionError("The visible window is known in the 2D view of rows and columns only. Switch to it.")
    corners = np.asarray(layer.corner_pixels, float)[:, -2:]
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors[layer.data_level], float)[-2:]
        corners = corners * factors
        corners[1] += factors - 1
    low, high = now.copy(), now.copy()
    low[-2:], high[-2:] = corners
    return low, high


def _drawn(viewer: ViewerModel, layer: Image, now: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    vertices, shapes = _vertices(viewer)
    placed = []
    for vertex in vertices:
        world = np.asarray(shapes.data_to_world(vertex), float)
        if len(world) < layer.ndim:  # napari lines axes up at the last
            ahead = np.asarray(layer.data_to_world(now), float)[: layer.ndim - len(world)]
            world = np.concatenate([ahead, world])
        placed.append(np.asarray(layer.world_to_data(world), float))
    points = np.array(placed)
    low, high = points.min(axis=0), points.max(axis=0)
    if shapes.ndim < layer.ndim:
        leading = slice(0, layer.ndim - shapes.ndim)
        low[leading], high[leading] = now[leading], now[leading]
    elif layer.ndim > 2:
        low[:-2], high[:-2] = np.round(low[:-2]), np.round(high[:-2])
    # A corner drawn on a pixel's edge is the edge: shapes are float32.
    return _snapped(low), _snapped(high)


def _snapped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    halves = np.round(values * 2) / 2
    return np.where(np.abs(values - halves) < 1e-3, halves, values)


def _vertices(viewer: ViewerModel) -> tuple[NDArray[np.float64], Shapes]:
    """Return the corners of the selected shape, or else of the last one drawn."""
    layers = [layer for layer in viewer.layers if isinstance(layer, Shapes) and len(layer.data)]
    if not layers:
        raise RegionError("No rectangle is drawn. Add a Shapes layer, draw one, and press Restore again.")
    active = viewer.layers.selection.active
    chosen = active if any(layer == active for layer in layers) else layers[-1]
    selected = sorted(chosen.selected_data) or [len(chosen.data) - 1]
    vertices = np.concatenate([np.asarray(chosen.data[index], float) for index in selected])
    return vertices, chosen
