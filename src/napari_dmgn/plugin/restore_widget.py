"""The widget "Restore background"."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtGui import QEnterEvent, QGuiApplication, QShowEvent
from qtpy.QtWidgets import QDockWidget, QVBoxLayout

from napari_dmgn import zoo
from napari_dmgn.plugin import estimate, likeness, recipe
from napari_dmgn.plugin.beside_gui import beside_gui, load_early
from napari_dmgn.plugin.form import DockedWidget, FormArea
from napari_dmgn.plugin.job import BUSY, RestoreJob
from napari_dmgn.plugin.layer_choice import LayerChoice
from napari_dmgn.plugin.models import models_problem, models_stamp
from napari_dmgn.plugin.preferences import preferences
from napari_dmgn.plugin.regions import region
from napari_dmgn.plugin.restore_form import RestoreForm
from napari_dmgn.plugin.results import MASKS_KEY
from napari_dmgn.plugin.run_bar import RunBar
from napari_dmgn.plugin.source import capture, why_not
from napari_dmgn.plugin.summary import failure, stopped_by, summary
from napari_dmgn.plugin.worker import Cancelled, Outcome, Request, Restored, Unfinished, explain, seconds_left

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dmgn.api import RestoreEvent


class RestoreWidget(DockedWidget):
    """Restore the background of an image layer and add the results as layers."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._job: RestoreJob | None = None
        self._measuring = False
        self._looks: list[str] = []
        self._job_layer: Layer | None = None
        self._unfinished: Unfinished | None = None
        self._partial: list[Layer] = []
        self._restored: Restored | None = None
        self._gone = False
        self._started = 0.0
        self._first_done: int | None = None
        self._folder: object = None
        self._keep_model = preferences().keep_model
        self._build()
        self._name_parts()
        self._choice = LayerChoice(napari_viewer, self.form.layer_box)
        self.refresh_models()
        self._choice.changed.connect(self._on_layer_chosen)
        self._choice.follow()

    def _build(self) -> None:
        self.form, self.bar = RestoreForm(preferences()), RunBar()
        self._area = FormArea(self.form)
        layout = QVBoxLayout(self)
        layout.addWidget(self._area)
        layout.addWidget(self.bar)
        layout.addStretch()
        # The dock's title fits too.
        self.setMinimumWidth(320)
        self.form.changed.connect(self._on_choice)
        self.form.resized.connect(self._area.updateGeometry)
        self.bar.restore_button.clicked.connect(self.restore)
        self.bar.cancel_button.clicked.connect(self.cancel)
        self.bar.resume_button.clicked.connect(self.resume)
        self.bar.measure_button.clicked.connect(self.measure)
        self.bar.python_button.clicked.connect(self.copy_python)
        self.bar.command_button.clicked.connect(self.copy_command)

    def _name_parts(self) -> None:
        """Give the parts that people and tests press short names."""
        form, bar, advanced = self.form, self.bar, self.form.advanced_box
        self.layer_box, self.model_box, self.model_note = form.layer_box, form.model_box, form.model_note
        self.output_boxes = form.output_boxes
        self.advanced_button, self.advanced = advanced.button, advanced.settings
        self.device_box, self.precision_box, self.tile_box = (
            advanced.device_box,
            advanced.precision_box,
            advanced.tile_box,
        )
        self.restore_button, self.cancel_button, self.resume_button = (
            bar.restore_button,
            bar.cancel_button,
            bar.resume_button,
        )
        self.progress_bar, self.status = bar.progress_bar, bar.status

    # What can be chosen

    def refresh_models(self) -> None:
        """Read the list of models anew, keeping the choice."""
        preferences()  # the page may name another folder by now
        self._folder = models_stamp()
        self.form.refresh_models()
        self._show_estimate()

    def model(self) -> zoo.ModelInfo | None:
        """Return the chosen model."""
        return self.form.model()

    def layer(self) -> Layer | None:
        """Return the chosen image layer, or the layer that was selected in its place."""
        return self._choice.layer()

    def _on_layer_chosen(self) -> None:
        image = self._choice.image()
        levels = [] if image is None or not image.multiscale else [d.shape[: image.ndim] for d in image.data]
        self.form.show_levels(levels)
        self._looks = [] if image is None else likeness.looks(image)
        self._on_choice()
        if self._job is None:
            self.bar.say(self._choice.hint())

    def _on_choice(self) -> None:
        image, model = self._choice.image(), self.model()
        signs = [] if image is None or model is None else likeness.signs(image, model.card)
        self.form.show_input_note(likeness.sentence(self._looks + signs))
        self._show_estimate()

    def _show_estimate(self) -> None:
        if self._job is not None or self._measuring:
            return
        try:
            request = self._request()
        except ValueError:
            self.bar.show_estimate("", known=True)
            return
        model, source = self.model(), request.source
        card = {} if model is None else model.card
        found, whole = (estimate.estimate_request(request, pixels, card) for pixels in (source, source.uncropped()))
        known = found.seconds is not None and whole.seconds is not None
        self.bar.show_estimate(found.sentence(None if source.whole else whole), known=known)

    def _request(self) -> Request:
        """Collect the run's settings.

        Raises
        ------
        ValueError
            Something is missing; it says what.
        """
        layer, model = self.layer(), self.model()
        if (problem := why_not(layer)) is not None:
            raise ValueError(problem)
        if model is None:
            raise ValueError(models_problem(none=True) or "No model is installed.")
        outputs = self.form.outputs()
        if not outputs:
            raise ValueError("Choose at least one layer to add: background, noise or noise map.")
        settings = self.form.advanced_box.values()
        if settings["store"] is not None and self.form.masks_box.isChecked():
            raise ValueError("Masks are kept in memory only. Untick them, or choose memory under Advanced.")
        level = self.form.level()
        return Request(
            source=capture(layer, level=level, crop=region(self._viewer, layer, self.form.region(), level)),
            task=model.task,
            model=model.path,
            outputs=outputs,
            masks=self.form.masks_box.isChecked(),
            not_trained_for=likeness.excluded(model.card),
            keep_model=self._keep_model,
            **settings,
        )

    # What can be pressed

    def restore(self) -> None:
        """Start restoring the chosen layer."""
        if self._job is not None or self._measuring:
            return
        try:
            request = self._request()
        except ValueError as error:
            self._refuse(str(error))
            return
        self._forget_unfinished()
        self._start(RestoreJob(request))

    def resume(self) -> None:
        """Go on with the run that was stopped."""
        if self._job is None and not self._measuring and self._unfinished is not None:
            self._start(RestoreJob(self._unfinished.request, self._unfinished.volume))

    def _start(self, job: RestoreJob) -> None:
        job.progressed.connect(self._on_progressed)
        job.ended.connect(self._on_ended)
        self.destroyed.connect(job.cancel)
        self._job, self._job_layer = job, self.layer()
        self._first_done = None
        self.bar.set_running(True)
        if not job.start():
            self._job = None
            self.bar.set_running(False)
            self._refuse(BUSY)
            return
        self.bar.say(f"Restoring '{job.request.source.name}': loading the model …")

    def cancel(self) -> None:
        """Stop the run at the next tile."""
        if self._job is None:
            return
        self._job.cancel()
        self.cancel_button.setEnabled(False)
        self.bar.say("Stopping after this tile …")

    def measure(self) -> None:
        """Learn how fast this machine is with the chosen model."""
        if self._job is not None or self._measuring:
            return
        try:
            request = self._request()
        except ValueError as error:
            self._refuse(str(error))
            return
        self._set_measuring(True)
        self.bar.estimate.setText("Measuring …")
        thread = create_worker(_measure, request.model, request.device, request.precision, _ignore_errors=True)
        thread.returned.connect(self._on_measured)
        thread.start()

    def _set_measuring(self, measuring: bool) -> None:
        """A run beside the measurement would spoil it."""
        self._measuring = measuring
        for button in (self.bar.measure_button, self.bar.restore_button, self.bar.resume_button):
            button.setEnabled(not measuring)

    def _on_measured(self, problem: str | None) -> None:
        self._set_measuring(False)
        self._show_estimate()
        if problem:
            self._fail(problem)

    def copy_python(self) -> None:
        """Put Python that does the same on the clipboard."""
        self._copy(lambda request: (recipe.as_python(request), ""), "Python copied: paste it into napari's console.")

    def copy_command(self) -> None:
        """Put a command that does the same on the clipboard."""
        self._copy(recipe.as_command, "Command copied: paste it into a shell.")

    def _copy(self, write: Any, said: str) -> None:
        try:
            text, heed = write(self._request())
        except ValueError as error:
            self._refuse(str(error))
            return
        QGuiApplication.clipboard().setText(text)
        self.bar.say(f"{said} {heed}".strip())

    # What happens meanwhile

    def _on_progressed(self, event: RestoreEvent) -> None:
        job = self._job
        if job is None:
            return
        self.progress_bar.setRange(0, event.total)
        self.progress_bar.setValue(event.done)
        if job.is_canceled():
            return
        name = job.request.source.name
        if not event.total:
            self.bar.say(f"Restoring '{name}': finding its intensity range, frame {event.frame + 1} of {event.frames}")
            return
        if self._first_done is None:  # the pace is that of what follows: loading the model is over
            self._started, self._first_done = time.perf_counter(), event.done
        frames = f", frame {event.frame + 1} of {event.frames}" if event.frames > 1 else ""
        left = seconds_left(self._started, event, before=self._first_done)
        remaining = "" if left is None else f", about {estimate.duration(left)} left"
        self.bar.say(f"Restoring '{name}': tile {event.done} of {event.total}{frames}{remaining}")

    def _on_ended(self, outcome: Outcome) -> None:
        job = self._job
        if job is None:
            return
        if isinstance(outcome, Restored):
            self._add(job, outcome)
            return
        self._stop_running()
        name = job.request.source.name
        if isinstance(outcome, Cancelled):
            self._tell("Cancelled. Nothing was added.", f"Restoring '{name}' was cancelled. Nothing was added.")
        else:
            self._fail(failure(name, outcome), details=outcome.details)

    def _stop_running(self) -> None:
        self._job = self._job_layer = None
        self.bar.set_running(False)
        self._show_estimate()

    def _add(self, job: RestoreJob, outcome: Restored) -> None:
        """Add the results; a resumed run's take the place of the part that was there."""
        self._restored = outcome
        self._gone = self._job_layer not in self._viewer.layers
        for layer in self._partial:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._partial = []
        self.cancel_button.setEnabled(False)
        self.bar.say(f"Adding what was restored of '{job.request.source.name}' …")
        job.added.connect(self._on_added)
        job.add(self._viewer, outcome.layers)

    def _on_added(self, added: list[Layer]) -> None:
        job, outcome = self._job, self._restored
        if job is None or outcome is None:  # closed meanwhile
            return
        self._restored = None
        self._stop_running()
        self._unfinished = outcome.unfinished
        self._partial = added if outcome.unfinished is not None else []
        self.resume_button.setVisible(outcome.unfinished is not None)
        if any(MASKS_KEY in layer.metadata for layer in added):
            self._open_masks()
        name = job.request.source.name
        text = summary(name, outcome, gone=self._gone)
        if outcome.problem is not None:
            self.bar.say(text, details=outcome.problem.details)
            show_error(stopped_by(name, outcome))
        elif job.problem is not None:
            text = f"Not all results of '{name}' could be added: {explain(job.problem)}"
            self.bar.say(text)
            show_error(text)
        else:
            self._tell(text, text.partition("\n")[0])

    def _refuse(self, text: str) -> None:
        """Say why a click does nothing."""
        self.bar.say(text)
        show_warning(text)

    def _fail(self, text: str, *, details: str = "") -> None:
        self.bar.say(text, details=details)
        show_error(text)

    def _tell(self, text: str, notice: str) -> None:
        """Say what came of a run, in a notification too where nobody sees the widget."""
        self.bar.say(text)
        if not self.isVisible():
            show_info(notice)

    def _open_masks(self) -> None:
        from napari_dmgn.plugin.masks_widget import MasksWidget

        docked = self._viewer.window.dock_widgets.values()
        if not any(isinstance(widget, MasksWidget) for widget in docked):
            self._viewer.window.add_plugin_dock_widget("napari-dmgn", "Masks", tabify=True)
            if isinstance(dock := self.parent(), QDockWidget):
                dock.raise_()  # the new tab would hide what came of the run

    def _forget_unfinished(self) -> None:
        self._unfinished, self._partial = None, []
        self.resume_button.setVisible(False)

    # What Qt tells

    def showEvent(self, event: QShowEvent) -> None:
        """Look for models anew: the folder may have changed meanwhile."""
        self.refresh_models()
        load_early()
        super().showEvent(event)

    def enterEvent(self, event: QEnterEvent) -> None:
        """Look again when the mouse comes back, say from a widget that has trained a model."""
        if models_stamp() != self._folder:
            self.refresh_models()
        self._show_estimate()
        super().enterEvent(event)

    def _close_down(self) -> None:
        self._docked = False
        self._choice.leave()
        if self._job is not None:
            job, self._job = self._job, None
            job.progressed.disconnect(self._on_progressed)
            job.ended.disconnect(self._on_ended)
            job.cancel()


def _measure(model: Path, device: str, precision: str) -> str | None:
    """Measure as runs are made; an exception stays in its thread and comes back as a sentence."""
    try:
        with beside_gui():
            estimate.measure(model, device, precision)
    except Exception as error:
        return f"Could not measure: {explain(error)}"
    return None
