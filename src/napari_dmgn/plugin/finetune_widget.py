"""The widget "Fine-tune model"."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QEnterEvent, QShowEvent
from qtpy.QtWidgets import QMainWindow, QVBoxLayout

from napari_dmgn import zoo
from napari_dmgn.plugin.finetune_example import ExampleLayers
from napari_dmgn.plugin.finetune_form import FineTuneForm
from napari_dmgn.plugin.finetune_install import install
from napari_dmgn.plugin.finetune_job import FineTuneJob
from napari_dmgn.plugin.finetune_panel import FineTunePanel, verdict_of
from napari_dmgn.plugin.finetune_request import (
    FineTuneRequest,
    UnfinishedRun,
    new_run_folder,
    unfinished_runs,
)
from napari_dmgn.plugin.form import DockedWidget, FormArea
from napari_dmgn.plugin.worker import explain

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_dmgn.plugin.finetune_pictures import LayerPictures

__all__ = ["FineTuneWidget"]


class FineTuneWidget(DockedWidget):
    """Fine-tune a model to the user's own pictures, in a process of its own.

    While it trains the widget may be hidden. Closing it, or napari, stops the training at the next
    step; the state is saved, and the run is offered under "Unfinished".
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._job: FineTuneJob | None = None
        self._writer: Any = None  # napari's worker that writes layers to files
        self._result: dict[str, Any] = {}
        self._name = ""
        self._unfinished: list[UnfinishedRun] = []
        self._example: ExampleLayers | None = None
        self._placement: dict[str, Any] = {}
        self._window: weakref.ref[QMainWindow] | None = None
        self.form = FineTuneForm()
        self.panel = FineTunePanel()
        self._area = FormArea(self.form)
        self.form.changed.connect(self._area.updateGeometry)
        self.form.data_form.refused.connect(self.panel.say)
        self.panel.check_button.clicked.connect(self.check)
        self.panel.start_button.clicked.connect(self.start)
        self.panel.stop_button.clicked.connect(self.stop)
        self.panel.resume_button.clicked.connect(self.resume)
        self.panel.install_button.clicked.connect(self.install)
        layout = QVBoxLayout(self)
        layout.addWidget(self._area)
        layout.addWidget(self.panel)
        layout.addStretch()
        self.setMinimumWidth(340)
        self._follow(connect=True)
        self._on_layers_changed()
        self._refresh()
        self.panel.say("Ready.")

    def _follow(self, *, connect: bool) -> None:
        events = self._viewer.layers.events
        for emitter in (events.inserted, events.removed, events.reordered, events.renamed):
            (emitter.connect if connect else emitter.disconnect)(self._on_layers_changed)

    def _on_layers_changed(self, event: object = None) -> None:
        self.form.data_form.set_layers(list(self._viewer.layers))

    def _refresh(self) -> None:
        self.form.refresh_models()
        self._unfinished = [run for run in unfinished_runs(self.form.root()) if run.folder not in FineTuneJob.running]
        self.panel.offer(self._unfinished)

    @property
    def busy(self) -> bool:
        """Whether something is going on that a second click must not start again."""
        return self._job is not None or self._writer is not None

    def check(self) -> None:
        """Report what a training would see, without training."""
        self._begin(check=True)

    def start(self) -> None:
        """Start training; or go on, where the report left pictures out and was waited for."""
        if self._job is not None and self.panel.asking:
            self._job.go()
            self.panel.ask(False)
            self.panel.say("Measuring the base model …")
            return
        self._begin(check=False)

    def _begin(self, *, check: bool) -> None:
        if self.busy:
            return
        folder = None
        try:
            data, settings = self.form.data_form.data(), self.form.settings(check=check)
            folder = new_run_folder(self.form.root(), settings["name"])
            sources = data.sources if data.layers is None else data.layers.sources(folder / "pictures")
            request = FineTuneRequest(**settings, sources=sources, kind=data.kind)
            request.write(folder)
        except (ValueError, OSError) as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            self.panel.say(" ".join(str(error).split()))
            return
        self._result, self._name = {}, request.name
        self._placement = {} if data.layers is None else data.layers.placement
        self._example = None
        self.panel.begin(check=check)
        if data.layers is None:
            self._start(folder, check=check)
        else:
            self._write(data.layers, folder, check=check)

    def _write(self, layers: LayerPictures, folder: Path, *, check: bool) -> None:
        self.panel.say("Writing the layers to files for the training …")
        writer = create_worker(layers.write, folder / "pictures", _ignore_errors=True)
        self._writer = writer
        problems: list[Exception] = []
        writer.errored.connect(problems.append)

        def finish() -> None:
            mine, self._writer = self._writer is writer, None
            if not mine or problems or writer.abort_requested:
                shutil.rmtree(folder, ignore_errors=True)
            if not mine:
                return  # closed meanwhile
            if problems:
                self._end(f"Could not write the layers: {explain(problems[0])}")
            elif writer.abort_requested:
                self._end("")
                self.panel.say("Stopped.")
            else:
                self._start(folder, check=check)

        writer.finished.connect(finish)
        writer.start()

    def _start(self, folder: Path, *, check: bool = False, replay: bool = False) -> None:
        self._watch_window()
        job = FineTuneJob(folder, check=check)
        job.told.connect(self._on_told)
        job.ended.connect(self._on_ended)
        self._job = job
        self.panel.say("Reading the pictures …" if check else "Starting the training process …")
        try:
            job.start(replay=replay)
        except OSError as error:
            self._job = None
            self._end(f"The training process did not start: {error}")

    def stop(self) -> None:
        """Stop at the next step and save the state."""
        if self._job is not None:
            self._job.stop()
        elif self._writer is not None:
            self._writer.quit()
        self.panel.stopping()

    def resume(self) -> None:
        """Go on with the unfinished run that is chosen."""
        index = self.panel.unfinished_box.currentIndex()
        if self.busy or not 0 <= index < len(self._unfinished):
            return
        run = self._unfinished[index]
        if run.folder in FineTuneJob.running:
            self.panel.say("This run is still saving its state. Try again in a moment.")
            return
        self._result, self._name, self._example, self._placement = {}, run.name, None, {}
        self.panel.begin(check=False)
        self._start(run.folder, replay=True)

    def _on_told(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "report":
            self.panel.report(message)
        elif kind == "base":
            self.panel.base(message)
            self._example = self._example or ExampleLayers(self._viewer, str(message["model"]), self._placement)
        elif kind == "step":
            self.panel.step(message, stopping=self._job is not None and self._job.stopping)
        elif kind in ("done", "stopped"):
            self._result = message
        if self._example is not None and "example" in message and not message["old"]:
            self._example.show(Path(message["example"]), message.get("step", 0))

    def _on_ended(self, problem: str) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        if job.check:
            shutil.rmtree(job.folder, ignore_errors=True)
            self._end(problem and f"Could not check the data: {problem}")
            if not problem:
                self.panel.say("This is what a training would see.")
            return
        self._end(problem and f"Fine-tuning '{self._name}' failed: {problem}")
        if not problem:
            self._conclude()

    def _conclude(self) -> None:
        result, verdict = self._result, verdict_of(self._result)
        if result.get("kind") == "done" and result.get("better") and result.get("helps"):
            self.install(verdict)
        elif result.get("kind") == "done":
            self.panel.say(f"{verdict} It was not installed; Install does it all the same.")
        elif result.get("result"):
            self.panel.say(f"Stopped; Resume goes on. So far: {verdict} Install takes the best model so far.")
        else:
            self.panel.say("Stopped before the first validation.")
        self.panel.install_button.setEnabled(bool(self._result.get("result")))

    def install(self, verdict: str | bool = "") -> None:
        """Copy the result into the user's models folder, under the name that was given."""
        path = self._result.get("result")
        if not path or self.busy:
            return
        try:
            model = install(Path(path), self._name)
        except OSError as error:
            text = f"The model was not installed: {error.strerror or error}. It is in {path}"
            self.panel.say(text)
            show_error(text)
            return
        self._result = {**self._result, "result": None}
        self.panel.install_button.setEnabled(False)
        self._refresh()
        for widget in self._viewer.window.dock_widgets.values():
            if hasattr(widget, "refresh_models"):  # Restore background, where it is open
                widget.refresh_models()
        text = f"Installed as '{model}'; Restore background offers it now."
        self.panel.say(f"{verdict} {text}" if isinstance(verdict, str) and verdict else text)
        show_info(text)

    def _end(self, problem: str) -> None:
        self.panel.end()
        self._refresh()
        if problem:
            self.panel.say(problem)
            show_error(problem)

    def showEvent(self, event: QShowEvent) -> None:
        """Look for models and runs anew: the folders may have changed meanwhile."""
        if not self.busy:
            self._refresh()
        super().showEvent(event)

    def enterEvent(self, event: QEnterEvent) -> None:
        """Look anew when the mouse comes back from Preferences, where another folder may have been named."""
        if not self.busy and zoo.models_folder() != self.form.folder:
            self._refresh()
        super().enterEvent(event)

    def _watch_window(self) -> None:
        """Hear when napari's window is closed: that does not close its docks one by one."""
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QMainWindow):
            parent = parent.parentWidget()
        if parent is not None and self._window is None:
            self._window = weakref.ref(parent)
            parent.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Look, once the window has dealt with it, whether a close was meant."""
        if event.type() == QEvent.Type.Close and self._window is not None and watched is self._window():
            QTimer.singleShot(0, self._look_at_window)
        return False

    def _look_at_window(self) -> None:
        window = None if self._window is None else self._window()
        if window is None or not window.isVisible():  # a user who was asked may have said no
            self._stop_job()

    def _stop_job(self) -> None:
        if self._job is not None:
            job, self._job = self._job, None
            job.abandon()

    def _close_down(self) -> None:
        self._docked = False
        self._follow(connect=False)
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.quit()
        self._stop_job()
