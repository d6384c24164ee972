"""One restoration off the GUI thread: progress, cancel, and an outcome in words."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, Signal

from napari_dmgn import api
from napari_dmgn.plugin.layers import NewLayer, Source, result_layers

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari_dmgn.api import RestoreEvent

logger = logging.getLogger(__name__)

BUSY = "Another restoration is still running. Wait for it, or cancel it in the activity dock (bottom right)."


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run, complete: nothing is asked of a widget or a layer once it has started."""

    source: Source
    task: str = "rain"
    model: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    tile: str | int | None = "auto"
    outputs: Collection[str] = ("background", "noise", "noise_map")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The layers to add and the run's provenance."""

    layers: list[NewLayer]
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Stopped on request between two tiles; nothing to add."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What went wrong in one sentence, and the traceback where that may help."""

    message: str
    details: str = ""


Outcome = Restored | Cancelled | Failed


def run(request: Request, is_canceled: Callable[[], bool]) -> Generator[RestoreEvent, None, Outcome]:
    """Restore in the worker's thread; no exception leaves it.

    An exception that crosses threads would carry its traceback, and that the tensors of the failed tile.
    """
    try:
        return (yield from _restore(request, is_canceled))
    except Exception as error:
        expected = isinstance(error, ValueError | OSError | MemoryError)
        details = "" if isinstance(error, ValueError) else traceback.format_exc()
        level = logging.WARNING if expected else logging.ERROR
        logger.log(level, "restoring %s failed: %s", request.source.name, error, exc_info=not expected)
        traceback.clear_frames(error.__traceback__)
        message = explain(error)
        if request.model is not None:
            # The widget shows its folder elsewhere.
            message = message.replace(str(request.model), request.model.name)
        return Failed(message=message, details=details)


def _restore(request: Request, is_canceled: Callable[[], bool]) -> Generator[RestoreEvent, None, Outcome]:
    source = request.source
    # Dask arrays and the like are computed here, off the GUI thread.
    image = np.asarray(source.data)
    if is_canceled():
        return Cancelled()
    events = api.iter_restore(
        image,
        request.task,
        model=request.model,
        rgb=source.rgb,
        device=request.device,
        precision=request.precision,
        tile=request.tile,
    )
    # closing(): a cancelled run frees its memory here and now, in the thread that took it.
    with contextlib.closing(events):
        for event in events:
            if is_canceled():
                return Cancelled()
            if event.restoration is not None:
                layers = result_layers(source, event.restoration, request.outputs)
                return Restored(layers=layers, provenance=dict(event.restoration.provenance))
            yield event
    return Failed(message="The run ended without a result.")


def explain(error: Exception) -> str:
    """Put an exception into a sentence for the status line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "Not enough memory. Choose a smaller tile or the CPU under Advanced."
    if isinstance(error, ImportError) or "WinError 1114" in text:
        return f"PyTorch could not be loaded ({text}). Reinstall torch, or import it before napari starts."
    if isinstance(error, ValueError | OSError):
        return text or type(error).__name__
    return f"Unexpected {type(error).__name__}: {text}" if text else f"Unexpected {type(error).__name__}"


class RestoreJob(QObject):
    """A run with its thread and its bar in napari's activity dock. One at a time: two would share the processor."""

    progressed = Signal(object)  # RestoreEvent
    ended = Signal(object)  # Outcome

    current: ClassVar[RestoreJob | None] = None

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request
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
        worker = create_worker(run, self.request, self.is_canceled, _ignore_errors=True)
        worker.yielded.connect(self._on_yielded)
        worker.returned.connect(self._on_returned)
        worker.finished.connect(self._on_finished)
        worker.start()
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
        self.ended.emit(Cancelled() if self.is_canceled() else self._outcome)
