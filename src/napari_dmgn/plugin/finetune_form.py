"""The form of "Fine-tune model": base model, data, budget, name, and settings for those who want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn import zoo
from napari_dmgn.paths import expanded
from napari_dmgn.plugin.advanced import DEVICES
from napari_dmgn.plugin.finetune_data import DataForm, FolderField
from napari_dmgn.plugin.finetune_request import check_name, runs_folder
from napari_dmgn.plugin.form import breakable, choice, combo, note, refill
from napari_dmgn.plugin.models import model_label, model_summary, models_problem
from napari_dmgn.plugin.preferences import preferences

__all__ = ["FineTuneForm"]

BUDGETS = [("minutes", "minutes"), ("steps", "steps")]
RATES = [("Gentle (0.0003)", 3e-4), ("Usual (0.001)", 1e-3), ("Bold (0.002)", 2e-3)]


class FineTuneForm(QWidget):
    """What is asked of the user before a training."""

    changed = Signal()  # the height may be another

    def __init__(self) -> None:
        super().__init__()
        self._models: list[zoo.ModelInfo] = []
        self.folder = Path()  # that the models were read from
        self.model_box = combo("The model to start from.")
        self.model_box.currentIndexChanged.connect(self._show_model)
        self.model_note = note()
        self.data_form = DataForm()
        self.data_form.changed.connect(self.changed)
        self.name_edit = QLineEdit()
        self.name_edit.setPlaceholderText("my-model")
        self.name_edit.setToolTip("What the new model will be called in the list of models.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        top, bottom = _form(), _form()
        top.addRow("Start from", self.model_box)
        top.addRow(self.model_note)
        bottom.addRow("Budget", self._build_budget())
        bottom.addRow("Hold out", self._build_share())
        bottom.addRow("New name", self.name_edit)
        column.addLayout(top)
        column.addWidget(self.data_form)
        column.addLayout(bottom)
        column.addWidget(self._build_advanced())
        self._align()

    def _align(self) -> None:
        """Give the labels of all rows, which several layouts hold, one width."""
        layouts = self.findChildren(QFormLayout)
        role = QFormLayout.ItemRole.LabelRole
        items = [layout.itemAt(row, role) for layout in layouts for row in range(layout.rowCount())]
        labels = [item.widget() for item in items if item is not None and item.widget() is not None]
        for label in labels:
            label.setMinimumWidth(max(other.sizeHint().width() for other in labels))

    def _build_budget(self) -> QHBoxLayout:
        self.budget_box = QDoubleSpinBox()
        self.budget_box.setToolTip("How long to train; more helps as long as the validation scores rise.")
        self.budget_unit = combo("Minutes for the training, or optimiser steps.", BUDGETS)
        self.budget_unit.setMinimumContentsLength(7)
        self.budget_unit.currentIndexChanged.connect(self._show_budget)
        self._show_budget()
        row = QHBoxLayout()
        row.addWidget(self.budget_box)
        row.addWidget(self.budget_unit)
        return row

    def _show_budget(self) -> None:
        minutes = choice(self.budget_unit, BUDGETS) == "minutes"
        self.budget_box.setDecimals(1 if minutes else 0)
        self.budget_box.setRange(0.1 if minutes else 1, 10_000 if minutes else 1_000_000)
        self.budget_box.setValue(10 if minutes else 500)

    def _build_share(self) -> QSpinBox:
        self.share_box = QSpinBox()
        self.share_box.setRange(5, 50)
        self.share_box.setValue(20)
        self.share_box.setSuffix(" % for validation")
        self.share_box.setToolTip(
            "Share of the pictures that is not trained on (at least one, at most 24):\n"
            "on these the new model is set beside the one it starts from."
        )
        return self.share_box

    def _build_advanced(self) -> QWidget:
        self.advanced_button = QToolButton()
        self.advanced_button.setText("Advanced")
        self.advanced_button.setToolTip("Learning rate, device, and where runs are kept: settings most leave alone.")
        self.advanced_button.setCheckable(True)
        self.advanced_button.setAutoRaise(True)
        self.advanced_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced_button.setArrowType(Qt.ArrowType.RightArrow)
        self.rate_box = combo("How far each step goes. Bold suits noise that the base model has never seen.", RATES)
        self.rate_box.setCurrentIndex(1)
        self.device_box = combo("Where to train. Automatic takes a CUDA GPU where there is one.", DEVICES)
        self.root_field = FolderField("folder for runs", "Where the run's pictures, state and models are kept.")
        self.advanced = QWidget()
        form = _form(self.advanced)
        form.addRow("Learning rate", self.rate_box)
        form.addRow("Device", self.device_box)
        form.addRow("Runs in", self.root_field)
        self.advanced.setVisible(False)
        self.advanced_button.toggled.connect(self._show_advanced)
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.advanced_button)
        column.addWidget(self.advanced)
        return holder

    def _show_advanced(self, shown: bool) -> None:
        self.advanced.setVisible(shown)
        self.advanced_button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.changed.emit()

    def refresh_models(self) -> None:
        """Read the list of models anew, from the folder of the Preferences page, keeping the choice."""
        preferences()
        self.folder = zoo.models_folder()
        self.model_box.setToolTip(f"The model to start from. Your own files are looked for in {self.folder}")
        self.root_field.edit.setPlaceholderText(str(runs_folder()))
        before = self.model()
        self._models = list(zoo.list_models())
        refill(self.model_box, [model_label(model) for model in self._models], "no model installed")
        for index, model in enumerate(self._models):
            if before is not None and model.path == before.path:
                self.model_box.setCurrentIndex(index)
        self._show_model()

    def model(self) -> zoo.ModelInfo | None:
        """Return the chosen base model."""
        index = self.model_box.currentIndex()
        return self._models[index] if 0 <= index < len(self._models) else None

    def _show_model(self) -> None:
        model = self.model()
        parts = [] if model is None else [model_summary(model)]
        if problem := models_problem(none=model is None):
            parts.append(problem)
        self.model_note.setText(breakable("\n".join(parts)))
        self.changed.emit()

    def root(self) -> Path:
        """Return the folder for runs; one that the user has typed need not exist."""
        text = str(self.root_field.edit.text()).strip()
        return expanded(text) if text else runs_folder()

    def settings(self, *, check: bool = False) -> dict[str, Any]:
        """Return the settings of a `FineTuneRequest`, without its data; ValueError says what is missing.

        Parameters
        ----------
        check : bool
            Only the data is looked at: the name may be missing.
        """
        model = self.model()
        if model is None:
            raise ValueError(models_problem(none=True) or "No model is installed.")
        amount, unit = float(self.budget_box.value()), choice(self.budget_unit, BUDGETS)
        return {
            "name": "check" if check else check_name(str(self.name_edit.text())),
            "base": str(model.path.absolute()),
            "task": model.task,
            "minutes": amount if unit == "minutes" else None,
            "steps": int(amount) if unit == "steps" else None,
            "share": self.share_box.value() / 100,
            "learning_rate": choice(self.rate_box, RATES),
            "device": choice(self.device_box, DEVICES),
        }


def _form(widget: QWidget | None = None) -> QFormLayout:
    form = QFormLayout(widget)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form
