"""Commands of the menu: one click, the task's model, all three layers; and saving with pixel size and units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.qt.threading import create_worker

# At run time: napari reads the annotations and hands the viewer over.
from napari.utils.notifications import show_error, show_info, show_warning
from napari.viewer import Viewer

from napari_dmgn import zoo
from napari_dmgn.plugin import likeness, saving
from napari_dmgn.plugin.beside_gui import load_early
from napari_dmgn.plugin.job import BUSY, RestoreJob
from napari_dmgn.plugin.preferences import preferences
from napari_dmgn.plugin.source import capture, placement, why_not
from napari_dmgn.plugin.summary import failure, stopped_by
from napari_dmgn.plugin.worker import Failed, Outcome, Request, Restored

if TYPE_CHECKING:
    from napari.components import ViewerModel

_WORDS = {"rain": "rain", "haze": "haze", "reflection": "reflections"}


def remove_rain(viewer: Viewer) -> None:
    """Remove rain from the active image layer."""
    quick_restore(viewer, "rain")


def remove_haze(viewer: Viewer) -> None:
    """Remove haze from the active image layer."""
    quick_restore(viewer, "haze")


def remove_reflection(viewer: Viewer) -> None:
    """Remove reflections from the active image layer."""
    quick_restore(viewer, "reflection")


def quick_restore(viewer: ViewerModel, task: str) -> None:
    """Restore the active image layer with the model of a task; report in notifications."""
    layer = viewer.layers.selection.active
    if (problem := why_not(layer)) is not None:
        show_warning(problem)
        return
    load_early()
    chosen = preferences()
    model = _model_for(task)
    if model is None:
        show_warning(
            f"No model for {_WORDS[task]} is installed. Put its .safetensors file into {zoo.models_folder()}, "
            "or choose another model in the widget Restore background."
        )
        return
    request = Request(
        source=capture(layer),
        task=task,
        model=model.path,
        device=chosen.device,
        precision=chosen.precision,
        downscale=chosen.downscale_setting(),
        ensemble=chosen.ensemble,
        tile=chosen.tile_setting(),
        dtype=chosen.output_type,
        not_trained_for=likeness.excluded(model.card),
        keep_model=chosen.keep_model,
    )
    name = request.source.name

    def finish(outcome: Outcome) -> None:
        if isinstance(outcome, Restored):
            job.add(viewer, outcome.layers)
            if outcome.unfinished is not None:
                done, frames = outcome.provenance["frames_done"], outcome.provenance["frames"]
                if outcome.problem is not None:
                    show_error(stopped_by(name, outcome))
                else:
                    show_info(f"Restoring '{name}' was cancelled. The first {done} of {frames} frames were added.")
        elif isinstance(outcome, Failed):
            show_error(failure(name, outcome))
        else:
            show_info(f"Restoring '{name}' was cancelled. Nothing was added.")

    job = RestoreJob(request)
    job.ended.connect(finish)
    if not job.start():
        show_warning(BUSY)


def _model_for(task: str) -> zoo.ModelInfo | None:
    """Return the shipped model of a task, or else the user's own for it."""
    models = [model for model in zoo.list_models() if model.task == task]
    return next((model for model in models if model.shipped), models[0] if models else None)


def save_layer(viewer: Viewer) -> None:
    """Ask for a file, and save the active image layer with its pixel size and units."""
    from qtpy.QtWidgets import QFileDialog

    layer = viewer.layers.selection.active
    if (problem := why_not(layer)) is not None:
        show_warning(problem)
        return
    path, chosen = QFileDialog.getSaveFileName(None, "Save with pixel size and units", layer.name, saving.FILTERS)
    if not path:
        return
    if not path.lower().endswith((".tif", ".tiff", ".zarr")):
        path += ".zarr" if "Zarr" in chosen else ".ome.tif"
        if Path(path).exists():  # the dialog asked about the name without it
            show_warning(f"{path} exists. Save again and choose it, or another name.")
            return
    save_to(layer, Path(path))


def save_to(layer: object, path: Path) -> None:
    """Save an image layer off the GUI thread, and say so in a notification."""
    source = capture(layer)
    place = placement(layer)

    def done(problem: object) -> None:
        if isinstance(problem, str):
            show_error(f"Could not save '{source.name}': {problem}")
        else:
            show_info(f"Saved '{source.name}' as {path}. {saving.lost(place, path)}".strip())

    thread = create_worker(_save, source.data, place, path, source.rgb, _ignore_errors=True)
    thread.returned.connect(done)
    thread.start()


def _save(data: object, place: dict[str, object], path: Path, rgb: bool) -> str | None:
    """Save; an exception stays in its thread and comes back as a sentence."""
    try:
        saving.save(data, place, path, rgb=rgb)
    except (ValueError, OSError, ImportError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    except MemoryError:
        return "Not enough memory. OME-Zarr is written frame by frame and needs less."
    return None
