"""A run's thread and its bar in napari's activity dock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, QTimer, Signal

from napari_dmgn.plugin import worker
from napari_dmgn.plugin.results import NewLayer, add_layers
from napari_dmgn.plugin.worker import Cancelled, Outcome, Request

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer

    from napari_dmgn.api import RestoreEvent
    from napari_dmgn.plugin.volumes import Volume

__all__ = ["BUSY", "RestoreJob"]

logger = logging.getLogger(__name__)

BUSY = "Another restoration is still running. Wait for it, or cancel it in the activity dock (bottom right)."


class RestoreJob(QObject):
    """A run with its thread and its bar in napari's activity dock. One at a time: two would share the processor."""

    progressed = Signal(object)  # RestoreEvent
    ended = Signal(object)  # Outcome
    added = Signal(object)  # the layers

    current: ClassVar[RestoreJob | None] = None

    def __init__(self, request: Request, volume: Volume | None = None) -> None:
        super().__init__()
        self.request = request
        self.volume = volume
        self._outcome: Outcome = Cancelled()
        self._progress: cancelable_progress | None = None
        self._canceled = False
        self.problem: Exception | None = None  # of the first result that could not be added
        self._adding = False
        self._layers: list[Layer] = []

    def start(self) -> bool:
        """Start unless a run is going on; say whether it started."""
        if RestoreJob.current is not None:
            return False
        # First of all: the progress bar handles waiting clicks when it is made.
        RestoreJob.current = self
        self._progress = cancelable_progress(total=0, desc=f"Restoring {self.request.source.name}")
        thread = create_worker(_run, self.request, self.is_canceled, self.volume, _ignore_errors=True)
        thread.yielded.connect(self._on_yielded)
        thread.returned.connect(self._on_returned)
        thread.finished.connect(self._on_finished)
        thread.start()
        return True

    def cancel(self) -> None:
        """Stop at the next tile."""
        self._canceled = True

    def is_canceled(self) -> bool:
        """Tell whether this or napari's own Cancel button was pressed."""
        return self._canceled or (self._progress is not None and self._progress.is_canceled)

    def _on_yielded(self, event: RestoreEvent) -> None:
        # Before the bar is moved: it handles what waits, which may be the next step, and this one would come after it.
        self.progressed.emit(event)
        if self._progress is None:
            return
        if self._progress.total != event.total:
            self._progress.total = event.total
        if event.done > self._progress.n:
            self._progress.update(event.done - self._progress.n)

    def _on_returned(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def _on_finished(self) -> None:
        # Also where napari stopped the worker by itself, at its end: then nothing was returned.
        if self._progress is not None:
            self._progress.close()
        self.ended.emit(self._outcome)
        if not self._adding:
            RestoreJob.current = None

    def add(self, viewer: ViewerModel, layers: Iterable[NewLayer]) -> None:
        """Add layers, one in a turn of the event loop: each holds the GUI up for a while.

        Until `added` tells of them the run counts as going on.
        """
        self._adding = True
        self._add_next(viewer, list(layers))

    def _add_next(self, viewer: ViewerModel, left: list[NewLayer]) -> None:
        try:
            self._layers += add_layers(viewer, left[:1])
        except Exception as error:  # the next may do; where the window was closed between two turns none will
            logger.warning("a result was not added: %s", error)
            self.problem = self.problem or error
        if left[1:]:
            QTimer.singleShot(0, lambda: self._add_next(viewer, left[1:]))
        else:
            self._end_adding()

    def _end_adding(self) -> None:
        self._adding = False
        RestoreJob.current = None
        self.added.emit(self._layers)


def _run(
    request: Request, is_canceled: Callable[[], bool], volume: Volume | None
) -> Generator[RestoreEvent, None, Any]:
    return (yield from worker.run(request, is_canceled, volume))
