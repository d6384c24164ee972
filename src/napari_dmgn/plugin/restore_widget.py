"""The widget "Restore background"."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn import zoo
from napari_dmgn.plugin.form import FormArea, breakable, choice, combo, note, refill
from napari_dmgn.plugin.layers import OUTPUTS, TITLES, add_layers, capture, size_warning, why_not
from napari_dmgn.plugin.models import model_label, model_summary, models_problem
from napari_dmgn.plugin.worker import BUSY, Cancelled, Failed, Outcome, Request, RestoreJob

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dmgn.api import RestoreEvent

_GPU = [("Apple GPU (MPS)", "mps")] if sys.platform == "darwin" else [("NVIDIA or AMD GPU (CUDA)", "cuda")]
DEVICES = [("Automatic", "auto"), ("CPU", "cpu"), *_GPU]
PRECISIONS = [("Automatic", "auto"), ("Full (float32)", "float32"), ("Fast (bfloat16)", "bf16")]
TILES: list[tuple[str, str | int | None]] = [
    ("Automatic", "auto"),
    ("Whole image", None),
    *((f"{side} × {side} pixels", side) for side in (128, 256, 512, 1024, 2048)),
]


class RestoreWidget(QWidget):
    """Restore the background of an image layer and add the results as layers."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._layers: list[Image] = []
        self._models: list[zoo.ModelInfo] = []
        self._job: RestoreJob | None = None
        self._job_layer: Layer | None = None
        self._docked = False
        self._build()
        self.refresh_models()
        self._follow(napari_viewer.layers, connect=True)
        self._on_layers_changed()
        self._on_active_changed()

    def _build(self) -> None:
        self.layer_box = combo("The image layer to restore. It follows the selection in the layer list.")
        folder = zoo.models_folder()
        self.model_box = combo(f"The model to use. Your own files are looked for in {folder}")
        self.model_box.currentIndexChanged.connect(self._show_model)
        self.model_note = note()
        self.output_boxes = {output: QCheckBox(TITLES[output].capitalize()) for output in OUTPUTS}
        for box, tip in zip(self.output_boxes.values(), _OUTPUT_TIPS, strict=True):
            box.setChecked(True)
            box.setToolTip(tip)

        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Layer", self.layer_box)
        form.addRow("Model", self.model_box)
        form.addRow(self.model_note)
        for label, box in zip(("Add layers", "", ""), self.output_boxes.values(), strict=True):
            form.addRow(label, box)
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self._build_advanced())
        self._area = FormArea(inner)

        layout = QVBoxLayout(self)
        layout.addWidget(self._area)
        layout.addLayout(self._build_controls())
        layout.addStretch()
        # The dock's title fits too.
        self.setMinimumWidth(320)

    def _build_advanced(self) -> QWidget:
        self.advanced_button = QToolButton()
        self.advanced_button.setText("Advanced")
        self.advanced_button.setCheckable(True)
        self.advanced_button.setAutoRaise(True)
        self.advanced_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced_button.setArrowType(Qt.ArrowType.RightArrow)
        self.device_box = combo("Where to compute. Automatic takes a CUDA GPU where there is one.", DEVICES)
        self.precision_box = combo("Automatic takes bfloat16 where the hardware is fast at it.", PRECISIONS)
        self.tile_box = combo("Smaller tiles need less memory. The result is the same.", TILES)
        self.advanced = QWidget()
        form = QFormLayout(self.advanced)
        form.setContentsMargins(12, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Device", self.device_box)
        form.addRow("Precision", self.precision_box)
        form.addRow("Tiles", self.tile_box)
        self.advanced.setVisible(False)
        self.advanced_button.toggled.connect(self._show_advanced)
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.advanced_button)
        column.addWidget(self.advanced)
        return holder

    def _build_controls(self) -> QVBoxLayout:
        self.restore_button = QPushButton("Restore")
        self.restore_button.clicked.connect(self.restore)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setEnabled(False)
        self.cancel_button.clicked.connect(self.cancel)
        buttons = QHBoxLayout()
        buttons.addWidget(self.restore_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.progress_bar = QProgressBar()
        self.progress_bar.setVisible(False)
        self.status = note()
        controls = QVBoxLayout()
        controls.addLayout(buttons)
        controls.addWidget(self.progress_bar)
        controls.addWidget(self.status)
        return controls

    def _show_advanced(self, shown: bool) -> None:
        self.advanced.setVisible(shown)
        arrow = Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow
        self.advanced_button.setArrowType(arrow)
        self._area.updateGeometry()

    def refresh_models(self) -> None:
        """Read the list of models anew, keeping the choice."""
        before = self.model()
        self._models = list(zoo.list_models())
        refill(self.model_box, [model_label(model) for model in self._models], "no model installed")
        for index, model in enumerate(self._models):
            if before is not None and model.path == before.path:
                self.model_box.setCurrentIndex(index)
        self._show_model()

    def model(self) -> zoo.ModelInfo | None:
        """Return the chosen model."""
        index = self.model_box.currentIndex()
        return self._models[index] if 0 <= index < len(self._models) else None

    def _show_model(self) -> None:
        model = self.model()
        parts = [] if model is None else [model_summary(model)]
        if problem := models_problem(none=model is None):
            parts.append(problem)
        self.model_note.setText(breakable("\n".join(parts)))
        self._area.updateGeometry()

    def _follow(self, layers: Any, *, connect: bool) -> None:
        for emitter in (layers.events.inserted, layers.events.removed, layers.events.reordered):
            (emitter.connect if connect else emitter.disconnect)(self._on_layers_changed)
        renamed, active = layers.events.renamed, layers.selection.events.active
        (renamed.connect if connect else renamed.disconnect)(self._on_layers_changed)
        (active.connect if connect else active.disconnect)(self._on_active_changed)

    def layer(self) -> Layer | None:
        """Return the chosen image layer, or the layer that was selected in its place."""
        index = self.layer_box.currentIndex()
        if 0 <= index < len(self._layers):
            return self._layers[index]
        return self._viewer.layers.selection.active

    def _on_layers_changed(self, event: object = None) -> None:
        before = self.layer()
        self._layers = [layer for layer in self._viewer.layers if why_not(layer) is None]
        refill(self.layer_box, [layer.name for layer in self._layers], "no image layer")
        self._choose(before)
        self._hint()

    def _on_active_changed(self, event: object = None) -> None:
        self._choose(self._viewer.layers.selection.active)
        self._hint()

    def _choose(self, layer: Layer | None) -> None:
        for index, known in enumerate(self._layers):
            if known is layer or known == layer:
                self.layer_box.setCurrentIndex(index)

    def _hint(self) -> None:
        """Say before any click what a click would do, where that is not plain."""
        if self._job is not None:
            return
        active, layer = self._viewer.layers.selection.active, self.layer()
        if (problem := why_not(layer)) is not None:
            self._say(problem)
        elif active is not None and (other := why_not(active)) is not None:
            self._say(f"{other} Restore would take '{self.layer_box.currentText()}'.")
        else:
            self._say("Ready.")

    def restore(self) -> None:
        """Start restoring the chosen layer."""
        if self._job is not None:
            return
        request = self._request()
        if isinstance(request, str):
            self._say(request)
            return
        job = RestoreJob(request)
        job.progressed.connect(self._on_progressed)
        job.ended.connect(self._on_ended)
        self.destroyed.connect(job.cancel)
        self._job, self._job_layer = job, self.layer()
        self._set_running(True)
        if not job.start():
            self._job = None
            self._set_running(False)
            self._say(BUSY)
            return
        warning = size_warning(request.source)
        self._say(" ".join(filter(None, (f"Restoring '{request.source.name}': loading the model …", warning))))

    def _request(self) -> Request | str:
        """Collect the run's settings, or say what is missing."""
        layer, model = self.layer(), self.model()
        outputs = tuple(output for output, box in self.output_boxes.items() if box.isChecked())
        if (problem := why_not(layer)) is not None:
            return problem
        if model is None:
            return models_problem(none=True) or "No model is installed."
        if not outputs:
            return "Choose at least one layer to add: background, noise or noise map."
        return Request(
            source=capture(layer),
            task=model.task,
            model=model.path,
            device=choice(self.device_box, DEVICES),
            precision=choice(self.precision_box, PRECISIONS),
            tile=choice(self.tile_box, TILES),
            outputs=outputs,
        )

    def cancel(self) -> None:
        """Stop the run at the next tile."""
        if self._job is None:
            return
        self._job.cancel()
        self.cancel_button.setEnabled(False)
        self._say("Stopping after this tile …")

    def _set_running(self, running: bool) -> None:
        self.restore_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.progress_bar.setRange(0, 0 if running else 1)
        self.progress_bar.reset()
        self.progress_bar.setVisible(running)

    def _on_progressed(self, event: RestoreEvent) -> None:
        job = self._job
        if job is None:
            return
        self.progress_bar.setRange(0, event.total)
        self.progress_bar.setValue(event.done)
        if not job.is_canceled():
            name = job.request.source.name
            frames = f", frame {event.frame + 1} of {event.frames}" if event.frames > 1 else ""
            self._say(f"Restoring '{name}': tile {event.done} of {event.total}{frames}")

    def _on_ended(self, outcome: Outcome) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        self._set_running(False)
        name = job.request.source.name
        if isinstance(outcome, Cancelled):
            self._say("Cancelled. Nothing was added.")
        elif isinstance(outcome, Failed):
            self._say(f"Could not restore '{name}': {outcome.message}", details=outcome.details)
        else:
            add_layers(self._viewer, outcome.layers)
            gone = self._job_layer not in self._viewer.layers
            self._say(_summary(name, outcome.provenance, gone=gone))
        self._job_layer = None

    def showEvent(self, event: QShowEvent) -> None:
        """Look for models anew: the folder may have changed meanwhile."""
        self.refresh_models()
        super().showEvent(event)

    def event(self, event: QEvent) -> bool:
        """Stop the run when the dock widget around this one is closed (hidden is not closed)."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                self._close_down()
        return bool(super().event(event))

    def _close_down(self) -> None:
        self._docked = False
        self._follow(self._viewer.layers, connect=False)
        if self._job is not None:
            job, self._job = self._job, None
            job.progressed.disconnect(self._on_progressed)
            job.ended.disconnect(self._on_ended)
            job.cancel()

    def _say(self, text: str, *, details: str = "") -> None:
        self.status.setText(breakable(text))
        self.status.setToolTip(details)


_OUTPUT_TIPS = (
    "The image without its noise: without rain, haze or reflection.",
    "What was taken out, such as the rain streaks.",
    "Where the noise lies: 0 is clean, 1 is all noise.",
)


def _summary(name: str, provenance: dict[str, Any], *, gone: bool) -> str:
    parts = [f"Restored '{name}'"]
    if isinstance(provenance.get("seconds"), int | float):
        parts.append(f" in {provenance['seconds']:.1f} s")
    if provenance.get("device"):
        parts.append(f" on {str(provenance['device']).upper()}")
    parts.append(".")
    for key, what in (("clipped_pixels", "clipped to the data type"), ("nonfinite_pixels", "NaN or infinite")):
        if provenance.get(key):
            parts.append(f" {provenance[key]} pixels {what}.")
    parts += [f" {text}." for text in provenance.get("fallbacks") or ()]
    if gone:
        parts.append(" The layer was removed meanwhile; its results were added all the same.")
    return "".join(parts)
