"""A run's thread and its bar in napari's activity dock."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, Signal

from napari_dmgn.plugin import worker
from napari_dmgn.plugin.worker import Cancelled, Outcome, Request

if TYPE_CHECKING:
    from napari_dmgn.api import RestoreEvent
    from napari_dmgn.plugin.volumes import Volume

__all__ = ["BUSY", "RestoreJob"]

BUSY = "Another restoration is still running. Wait for it, or cancel it in the activity dock (bottom right)."


class RestoreJob(QObject):
    """A run with its thread and its bar in napari's activity dock. One at a time: two would share the processor."""

    progressed = Signal(object)  # RestoreEvent
    ended = Signal(object)  # Outcome

    current: ClassVar[RestoreJob | None] = None

    def __init__(self, request: Request, volume: Volume | None = None) -> None:
        super().__init__()
        self.request = request
        self.volume = volume
        self._outcome: Outcome = Cancelled()
        self._progress: cancelable_progress | None = None
        self._canceled = False

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
        if self._progress is not None:
            if self._progress.total != event.total:
                self._progress.total = event.total
            self._progress.update(event.done - self._progress.n)
        self.progressed.emit(event)

    def _on_returned(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def _on_finished(self) -> None:
        # Also where napari stopped the worker by itself, at its end: then nothing was returned.
        if self._progress is not None:
            self._progress.close()
        RestoreJob.current = None
        self.ended.emit(self._outcome)


def _run(
    request: Request, is_canceled: Callable[[], bool], volume: Volume | None
) -> Generator[RestoreEvent, None, Any]:
    return (yield from worker.run(request, is_canceled, volume))
