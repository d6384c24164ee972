"""Commands of the menu: one click, the shipped model, all three layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

# At run time: napari reads the annotations and hands the viewer over.
from napari.utils.notifications import show_error, show_info, show_warning
from napari.viewer import Viewer

from napari_dmgn import zoo
from napari_dmgn.plugin.layers import add_layers, capture, size_warning, why_not
from napari_dmgn.plugin.worker import BUSY, Failed, Outcome, Request, Restored, RestoreJob

if TYPE_CHECKING:
    from napari.components import ViewerModel


def remove_rain(viewer: Viewer) -> None:
    """Remove rain from the active image layer."""
    quick_restore(viewer, "rain")


def quick_restore(viewer: ViewerModel, task: str) -> None:
    """Restore the active image layer with the shipped model of a task; report in notifications."""
    layer = viewer.layers.selection.active
    if (problem := why_not(layer)) is not None:
        show_warning(problem)
        return
    model = next((model for model in zoo.list_models() if model.shipped and model.task == task), None)
    if model is None:
        show_warning(f"This installation has no model for {task}.")
        return
    request = Request(source=capture(layer), task=task, model=model.path)
    name = request.source.name

    def finish(outcome: Outcome) -> None:
        if isinstance(outcome, Restored):
            add_layers(viewer, outcome.layers)
        elif isinstance(outcome, Failed):
            show_error(f"Could not restore '{name}': {outcome.message}")
        else:
            show_info(f"Restoring '{name}' was cancelled. Nothing was added.")

    job = RestoreJob(request)
    job.ended.connect(finish)
    if not job.start():
        show_warning(BUSY)
    elif warning := size_warning(request.source):
        show_warning(warning)
