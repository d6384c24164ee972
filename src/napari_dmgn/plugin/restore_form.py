"""The form of the restore widget: which layer, which model, what to add; it starts nothing."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn import zoo
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.plugin.advanced import AdvancedBox
from napari_dmgn.plugin.form import breakable, choice, combo, note, refill
from napari_dmgn.plugin.models import model_card, model_label, model_summary, models_problem
from napari_dmgn.plugin.preferences import Preferences
from napari_dmgn.plugin.regions import REGIONS
from napari_dmgn.plugin.results import DEFAULT_OUTPUTS, OUTPUTS, TITLES

__all__ = ["RestoreForm"]

_TIPS = {
    "background": "The image without its noise: without rain, haze or reflection.",
    "noise": "What the model believes to lie over the image, such as the rain streaks.",
    "noise_map": "Where the noise lies: 0 is clean, 1 is all noise.",
    "coarse": "The first estimate of the background, before it is refined.",
    "residual": "Conservation check: what is left of the image without background and noise.",
}
_SHORT = {"coarse": "coarse"}
_MASKS_TIP = "What each cell of the network let pass. The widget Masks shows them."


class RestoreForm(QWidget):
    """Choices for a run."""

    changed = Signal()
    resized = Signal()

    def __init__(self, start: Preferences) -> None:
        super().__init__()
        self._models: list[zoo.ModelInfo] = []
        self._seen: object = None
        self.layer_box = combo("The image layer to restore. It follows the selection in the layer list.")
        self.level_box = combo("Which resolution of the layer to restore; 0 is the finest.")
        self.region_box = combo("Which part of the layer to restore: try a part before the whole.", REGIONS)
        self.model_box = combo("The model to use.")
        self.card_button = QToolButton()
        self.card_button.setText("Card")
        self.card_button.setToolTip("Show all that the model's file says about it, and its sha256.")
        self.card_button.clicked.connect(self.show_card)
        self.card_dialog: QDialog | None = None
        self.model_note, self.input_note = note(), note()
        self.input_note.setVisible(False)
        self.output_boxes = {output: QCheckBox(_SHORT.get(output, TITLES[output]).capitalize()) for output in OUTPUTS}
        self.masks_box = QCheckBox("Masks")
        self.masks_box.setToolTip(_MASKS_TIP)
        self.advanced_box = AdvancedBox(start)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        self._form = form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Layer", self.layer_box)
        form.addRow("Level", self.level_box)
        form.addRow("Region", self.region_box)
        row = QHBoxLayout()
        row.addWidget(self.model_box, 1)
        row.addWidget(self.card_button)
        form.addRow("Model", row)
        form.addRow(self.model_note)
        form.addRow(self.input_note)
        grid = QGridLayout()
        boxes = [*self.output_boxes.items(), ("masks", self.masks_box)]
        for place, (output, box) in enumerate(boxes):
            if output in _TIPS:
                box.setChecked(output in DEFAULT_OUTPUTS)
                box.setToolTip(_TIPS[output])
            grid.addWidget(box, place // 2, place % 2)
        form.addRow("Layers", grid)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(form)
        column.addWidget(self.advanced_box)
        self.show_levels([])

    def _connect(self) -> None:
        self.model_box.currentIndexChanged.connect(self._show_model)
        self.advanced_box.unfolded.connect(self.resized)
        self.advanced_box.changed.connect(self.changed)
        for box in (self.level_box, self.region_box, self.model_box):
            box.currentIndexChanged.connect(lambda _: self.changed.emit())
        for box in (*self.output_boxes.values(), self.masks_box):
            box.toggled.connect(lambda _: self.changed.emit())

    def refresh_models(self) -> None:
        """Read the list of models anew where it has changed, keeping the choice."""
        before = self.model()
        self.model_box.setToolTip(f"The model to use. Your own files are looked for in {zoo.models_folder()}")
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
        self.card_button.setEnabled(model is not None)
        self.advanced_box.offer_halos(_reach(model))
        parts = [] if model is None else [model_summary(model)]
        if problem := models_problem(none=model is None):
            parts.append(problem)
        self.model_note.setText(breakable("\n".join(parts)))
        self.resized.emit()

    def show_card(self) -> None:
        """Open a window with the model's card."""
        model = self.model()
        if model is None:
            return
        self.card_dialog = QDialog(self)
        self.card_dialog.setWindowTitle(f"Model {model.name}")
        self.card_dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
        text = QPlainTextEdit(model_card(model))
        text.setReadOnly(True)
        column = QVBoxLayout(self.card_dialog)
        column.addWidget(text)
        self.card_dialog.resize(560, 480)
        self.card_dialog.show()

    def show_levels(self, shapes: list[tuple[int, ...]]) -> None:
        """Offer the resolutions of a multiscale layer; none of another."""
        labels = [f"{level}: {' × '.join(map(str, reversed(shape)))}" for level, shape in enumerate(shapes)]
        if [self.level_box.itemText(i) for i in range(self.level_box.count())] != labels or not labels:
            refill(self.level_box, labels, "")
        shown = len(shapes) > 1
        self.level_box.setVisible(shown)
        self._form.labelForField(self.level_box).setVisible(shown)

    def level(self) -> int:
        """Return the chosen resolution."""
        return max(0, int(self.level_box.currentIndex()))

    def region(self) -> str:
        """Return the chosen kind of region."""
        kind: str = choice(self.region_box, REGIONS)
        return kind

    def outputs(self) -> tuple[str, ...]:
        """Return the results to add."""
        return tuple(output for output, box in self.output_boxes.items() if box.isChecked())

    def show_input_note(self, text: str) -> None:
        """Say in what the input is unlike the training data; nothing hides the note."""
        if text != self.input_note.text():
            self.input_note.setText(text)
            self.input_note.setVisible(bool(text))
            self.resized.emit()


def _reach(model: zoo.ModelInfo | None) -> int | None:
    """Pixels to each side that a pixel of the result depends on; None of a network of another version."""
    try:
        return None if model is None else int(NetworkConfig.from_dict(model.config).receptive_radius)
    except ValueError:
        return None
