"""What `restore` and `Restoration.add_to` do with layers; the library finds it by name, lest it name napari."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn import zoo
from napari_dmgn.plugin import conservation
from napari_dmgn.plugin.results import DEFAULT_OUTPUTS, OUTPUTS, add_layers, result_layers
from napari_dmgn.plugin.source import Source, capture, placed_as, why_not
from napari_dmgn.plugin.summary import failure, stopped_by
from napari_dmgn.plugin.worker import Events, Failed, Outcome, Request, Restored, run

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_dmgn.api import Restoration

__all__ = ["add_restoration", "open_layer", "restore_into_store"]


def open_layer(layer: Any) -> tuple[NDArray[Any], Source]:
    """Return a layer's pixels, lazy ones computed, and all else that its results need.

    Parameters
    ----------
    layer : napari Image layer, or a part of one from `source.capture`

    Raises
    ------
    ValueError
        It is no image layer, or empty.
    """
    if not isinstance(layer, Source):
        if (problem := why_not(layer)) is not None:
            raise ValueError(problem)
        layer = capture(layer)
    part = layer.data if layer.whole else layer.data[tuple(slice(*span) for span in layer.crop)]
    pixels = np.asanyarray(part)  # a mask is refused, not lost
    return pixels, replace(layer, checksum=_checksum(pixels))


def _checksum(pixels: NDArray[Any]) -> int:
    """Tell pixels from those that they become where a layer is changed in place; far quicker than the network."""
    found = 0
    for part in pixels:
        found = zlib.crc32(np.ascontiguousarray(part).view(np.uint8).data, found)
    return found


def add_restoration(
    restoration: Restoration, source: Source | None, viewer: ViewerModel, outputs: Collection[str]
) -> list[Layer]:
    """Add the results as layers, placed as the layer that was restored was at that time.

    Raises
    ------
    ValueError
        No viewer, an unknown output, or the residual of an array or of a layer whose pixels have changed.
    """
    if not hasattr(viewer, "add_image"):
        raise ValueError(f"add_to takes a viewer; got {viewer!r}")
    outputs = _known(outputs)
    if source is None:
        if "residual" in outputs:
            raise ValueError("the residual needs the input: restore a layer, not an array")
        source = _unplaced(restoration)
    axes = restoration.provenance["axes"]
    placed = placed_as(source, axes)
    arrays = {name: getattr(restoration, name) for name in outputs if name != "residual"}
    if "residual" in outputs:
        image = source.read(range(source.frames)).reshape(source.shape)
        if source.checksum is not None and source.checksum != _checksum(image):
            raise ValueError(
                f"the pixels of '{source.name}' have changed since, and the residual needs them as they were"
            )
        arrays["residual"] = conservation.residual(image, restoration.background, restoration.noise, rgb=placed.rgb)
    if source.rgb and axes[-1] == "channel":
        arrays = {name: np.moveaxis(array, -1, 0) for name, array in arrays.items()}
    return add_layers(viewer, result_layers(placed, arrays, restoration.provenance, restoration.masks))


def _known(outputs: object) -> tuple[str, ...]:
    """Return outputs that there are, of one name, several or none, which stands for the default."""
    names = (outputs,) if isinstance(outputs, str) else outputs
    if names is None:
        return DEFAULT_OUTPUTS
    if not isinstance(names, Iterable):
        raise ValueError(f"outputs are names of {', '.join(OUTPUTS)}; got {outputs!r}")
    names = tuple(names) or DEFAULT_OUTPUTS
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise ValueError(f"unknown outputs {unknown}; there are {', '.join(OUTPUTS)}")
    return names


def restore_into_store(
    layer: Any,
    store: str | os.PathLike[str],
    viewer: ViewerModel,
    *,
    task: str = "rain",
    model: str | Path | None = None,
    outputs: Collection[str] = DEFAULT_OUTPUTS,
    **settings: Any,
) -> list[Layer]:
    """Restore a layer frame by frame into an OME-Zarr store, as the widget does, and add what is in it as layers.

    Neither the layer nor the results are in memory as a whole. What an earlier run with the same settings left
    unfinished is not done again.

    Parameters
    ----------
    layer : napari Image layer, or a part of one from `source.capture`
    store : folder ending in .zarr that does not exist
    viewer : gets the layers
    task, model, settings : as in `restore`
    outputs : results to write

    Raises
    ------
    ValueError
        It is no image layer, or empty; or no such model.
    RuntimeError
        The run ended before all frames were done; it says why.
    """
    if not isinstance(layer, Source):
        if (problem := why_not(layer)) is not None:
            raise ValueError(problem)
        layer = capture(layer)
    path = zoo.find_model(model or task).path
    request = Request(source=layer, task=task, model=path, outputs=tuple(outputs), store=Path(store), **settings)
    outcome = _to_the_end(run(request, bool))
    if isinstance(outcome, Failed):
        raise RuntimeError(failure(layer.name, outcome))
    assert isinstance(outcome, Restored)  # nobody cancels it
    if outcome.problem is not None:
        raise RuntimeError(stopped_by(layer.name, outcome, added=False))
    return add_layers(viewer, outcome.layers)


def _to_the_end(events: Events) -> Outcome:
    while True:
        try:
            next(events)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def _unplaced(restoration: Restoration) -> Source:
    """Stand in for the layer of a plain array: pixels at the origin."""
    from napari.layers import Image

    rgb = restoration.noise_map.ndim < restoration.background.ndim
    data = restoration.background
    if rgb:
        return capture(Image(data, rgb=True, name="restored"))
    finite = data[np.isfinite(data)] if data.dtype.kind == "f" else data
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return capture(Image(data, rgb=False, name="restored", contrast_limits=_apart(low, high)))


def _apart(low: float, high: float) -> tuple[float, float]:
    """Return limits that differ in float32, which is what a viewer draws in."""
    # Towards zero: the largest number of a type has none above it.
    step = max(1e-6 * abs(low), 1e-6)
    if high - low >= step:
        return low, high
    return (low - step, low) if low > 0 else (low, low + step)
