"""A run in words that run: Python for napari's console or a script, and a command for the shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn import zoo
from napari_dmgn.images import find_ranges, read_layout
from napari_dmgn.plugin import estimate
from napari_dmgn.plugin.worker import Request

__all__ = ["as_command", "as_python"]

_DEFAULTS: dict[str, Any] = {
    "device": "auto",
    "precision": "auto",
    "downscale": "auto",
    "ensemble": False,
    "tile": "auto",
    "halo": "exact",
    "dtype": "same",
    "masks": False,
    "intensity_range": "auto",
}
_NO_FILE = "IMAGE.tif"


def as_python(request: Request) -> str:
    """Return Python that does what the request does, where `viewer` is known."""
    source = request.source
    settings: dict[str, Any] = {"task": request.task}
    if (model := _model(request)) is not None:
        settings["model"] = model
    chosen = {name: getattr(request, name) for name in _DEFAULTS} | {"downscale": request.engine()["downscale"]}
    settings |= {name: value for name, value in chosen.items() if value != _DEFAULTS[name]}
    imports, image = ["import napari_dmgn as dmgn"], "layer"
    lines = ["", f"layer = viewer.layers[{source.name!r}]"]
    if not source.whole or source.level:
        imports.append("from napari_dmgn.plugin.source import capture")
        lines.append(f"part = capture(layer, level={source.level}, crop={source.crop!r})")
        image = "part"
    outputs = f"outputs={list(request.outputs)!r}"
    if request.store is not None:  # as the widget does it: one frame after the other, never the whole in memory
        imports[0] = "from napari_dmgn.plugin.scripting import restore_into_store"
        lines.append(f"restore_into_store({image}, {str(request.store)!r}, viewer, {outputs}, {_written(settings)})")
        return "\n".join(imports + lines) + "\n"
    if (limits := _limits(request)) is not None:
        settings["intensity_range"] = limits
    lines += [f"restoration = dmgn.restore({image}, {_written(settings)})", f"restoration.add_to(viewer, {outputs})"]
    return "\n".join(imports + lines) + "\n"


def _written(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def as_command(request: Request) -> tuple[str, str]:
    """Return a command for the shell, and what has to be heeded with it (or nothing).

    The command works on the layer's file, as a whole.
    """
    source = request.source
    target = "restored" if request.store is None else str(request.store)
    words = ["napari-dmgn", "restore", source.path or _NO_FILE, "-o", target, "--task", request.task]
    if (model := _model(request)) is not None:
        words += ["--model", model]
    for name in ("device", "precision", "halo", "dtype"):
        if getattr(request, name) != _DEFAULTS[name]:
            words += [f"--{name}", str(getattr(request, name))]
    to_store = _is_of_stores(request)
    if request.downscale != "auto" and not to_store:
        words += ["--downscale", str(request.downscale)]
    if request.ensemble and not to_store:
        words.append("--ensemble")
    if request.tile != "auto":
        words += ["--tile", "none" if request.tile is None else str(request.tile)]
    if request.intensity_range != "auto":
        limits = request.intensity_range
        # As many digits as it takes: 65535.5 is not 65535.
        words.append(f"--range={limits if isinstance(limits, str) else ','.join(f'{float(v)!r}' for v in limits)}")
    if request.masks:
        words.append("--masks")
    if source.level:
        words += ["--level", str(source.level)]
    words.append("--rgb" if source.rgb else "--no-rgb")
    notes = []
    if source.path is None:
        notes.append(f"The layer has no file: save it first, and put its name in the place of {_NO_FILE}.")
    if not source.whole:
        notes.append("The command restores the whole file, not the region.")
    if to_store and estimate.working_factor(request.downscale, request.card(), source) > 1:
        notes.append("The command restores OME-Zarr at full size, not at the working size.")
    if to_store and request.ensemble:
        notes.append("The command restores OME-Zarr once, not mirrored, too.")
    return " ".join(shlex.quote(word) for word in words), " ".join(notes)


def _is_of_stores(request: Request) -> bool:
    """Whether the command reads or writes OME-Zarr, which it does window by window."""
    from napari_dmgn.files import is_store

    path = request.source.path
    return request.store is not None or (path is not None and is_store(Path(path)))


def _limits(request: Request) -> tuple[float, float] | None:
    """Range of the whole layer, which the widget takes for a region too, where it is not plain."""
    source = request.source
    if source.whole or source.lazy or source.dtype == np.uint8 or request.intensity_range != "auto":
        return None
    layout = read_layout(source.data.shape, rgb=source.rgb)
    ((low, high),) = find_ranges(source.data, layout)
    return (low, high) if low < high else None


def _model(request: Request) -> str | None:
    """Name the model as short as it can be; None for the task's own."""
    if request.model is None:
        return None
    for model in zoo.list_models():
        if model.path == request.model and zoo.find_model(model.name).path == model.path:
            return None if model.shipped and model.name == request.task else model.name
    return str(request.model)
