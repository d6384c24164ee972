"""The part of the form that says what is trained on: layers or folders, pairs or clean pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn.paths import expanded
from napari_dmgn.plugin.finetune_example import is_example
from napari_dmgn.plugin.finetune_pictures import LayerPictures, capture_clean, capture_pairs
from napari_dmgn.plugin.finetune_request import KINDS
from napari_dmgn.plugin.form import choice, combo, refill
from napari_dmgn.plugin.source import why_not

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["DataForm", "FolderField", "TrainingData"]

WAYS = [
    ("Pairs of layers", "layer pairs"),
    ("Pairs in two folders", "folder pairs"),
    ("Clean layers + made noise", "clean layers"),
    ("Clean folder + made noise", "clean folder"),
]
KIND_ROWS = [(kind.label, key) for key, kind in KINDS.items()]
MATCHES = ["auto", "name", "stem", "number", "last number", "noisy-{} clean-{}"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on: layers that are still to be written, or folders."""

    layers: LayerPictures | None = None
    sources: tuple[dict[str, str], ...] = ()
    kind: str | None = None


class FolderField(QWidget):
    """A folder's path, typed or chosen."""

    changed = Signal()

    def __init__(self, what: str, tip: str) -> None:
        super().__init__()
        self._what = what
        self.edit = QLineEdit()
        self.edit.setPlaceholderText("folder")
        self.edit.setToolTip(tip)
        self.edit.editingFinished.connect(self.changed)
        self.button = QPushButton("…")
        self.button.setToolTip(f"Choose the {what}")
        self.button.setFixedWidth(34)
        self.button.clicked.connect(self._choose)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.edit)
        row.addWidget(self.button)

    def _choose(self) -> None:
        if path := QFileDialog.getExistingDirectory(self, f"Choose the {self._what}", self.edit.text()):
            self.edit.setText(path)
            self.changed.emit()

    def folder(self) -> str:
        """Return the path; ValueError where it is none."""
        text = str(self.edit.text()).strip()
        if not text:
            raise ValueError(f"Choose the {self._what}.")
        path = expanded(text)
        if not path.is_dir():
            raise ValueError(f"The {self._what} does not exist: {path}")
        return str(path.absolute())


class DataForm(QWidget):
    """Fields of one of four ways to give training data."""

    changed = Signal()  # the height may be another
    refused = Signal(str)  # why a click did nothing

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[Layer] = []
        self._pairs: list[tuple[Layer, Layer]] = []
        self.way_box = combo("What to learn from.", WAYS)
        self.pages = {
            "layer pairs": self._build_layer_pairs(),
            "folder pairs": self._build_folder_pairs(),
            "clean layers": self._build_clean_layers(),
            "clean folder": self._build_clean_folder(),
        }
        self.kind_box = combo("What is put on the clean pictures while training.", KIND_ROWS)
        self.kind_box.setCurrentIndex(list(KINDS).index("dark stripes"))
        self._kind_row = QWidget()
        _form(self._kind_row).addRow("Noise", self.kind_box)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        top = QWidget()
        _form(top).addRow("Data", self.way_box)
        for widget in (top, *self.pages.values(), self._kind_row):
            column.addWidget(widget)
        self.way_box.currentIndexChanged.connect(self._show_way)
        self._show_way()

    def _build_layer_pairs(self) -> QWidget:
        self.noisy_box = combo("The image layer with noise. A stack is as many pictures.")
        self.clean_box = combo("The layer that shows the same without noise.")
        self.add_button = QPushButton("Add pair")
        self.add_button.setToolTip("Add these two to the list. One pair alone needs no list.")
        self.add_button.clicked.connect(self.add_pair)
        self.remove_button = QPushButton("Remove")
        self.remove_button.setToolTip("Remove the selected pairs from the list.")
        self.remove_button.clicked.connect(self._remove_pairs)
        self.pair_list = _list("Pairs to train on, with noise → clean.")
        self.pair_list.setVisible(False)
        page = QWidget()
        form = _form(page)
        form.addRow("With noise", self.noisy_box)
        form.addRow("Clean", self.clean_box)
        row = QHBoxLayout()
        row.addWidget(self.add_button)
        row.addWidget(self.remove_button)
        form.addRow("", row)
        form.addRow(self.pair_list)
        return page

    def _build_folder_pairs(self) -> QWidget:
        self.input_field = FolderField("folder of pictures with noise", "With noise: PNG, JPEG, WebP, BMP, TIFF.")
        self.background_field = FolderField("folder of clean pictures", "The same pictures without noise.")
        self.match_box = QComboBox()
        self.match_box.setEditable(True)
        self.match_box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.match_box.addItems(MATCHES)
        self.match_box.setToolTip(
            "How files are paired. 'auto' tries name, name without suffix, first and last number;\n"
            "or two patterns of names without suffix, such as  noisy-{} clean-{}"
        )
        page = QWidget()
        form = _form(page)
        form.addRow("With noise", self.input_field)
        form.addRow("Clean", self.background_field)
        form.addRow("Pair by", self.match_box)
        return page

    def _build_clean_layers(self) -> QWidget:
        self.layer_list = _list("Tick layers without noise. A stack is as many pictures.")
        self.all_button = QPushButton("Tick all")
        self.all_button.setToolTip("Tick all layers of the list.")
        self.all_button.clicked.connect(self._tick_all)
        page = QWidget()
        form = _form(page)
        form.addRow(self.layer_list)
        form.addRow("", self.all_button)
        return page

    def _build_clean_folder(self) -> QWidget:
        self.clean_field = FolderField("folder of clean pictures", "Without noise: PNG, JPEG, WebP, BMP, TIFF.")
        page = QWidget()
        _form(page).addRow("Clean", self.clean_field)
        return page

    def way(self) -> str:
        """Return which of the four ways is chosen."""
        return str(choice(self.way_box, WAYS))

    def _show_way(self) -> None:
        way = self.way()
        for name, page in self.pages.items():
            page.setVisible(name == way)
        self._kind_row.setVisible(way.startswith("clean"))
        self.changed.emit()

    def set_layers(self, layers: Sequence[Layer]) -> None:
        """Offer the image layers among these, keeping what was chosen."""
        chosen = [self._layer(box) for box in (self.noisy_box, self.clean_box)]
        ticked = self.ticked()
        self._layers = [layer for layer in layers if why_not(layer) is None and not is_example(layer)]
        names = [layer.name for layer in self._layers]
        for box, layer, otherwise in zip((self.noisy_box, self.clean_box), chosen, (0, 1), strict=True):
            refill(box, names, "no image layer")
            box.setCurrentIndex(self._layers.index(layer) if layer in self._layers else min(otherwise, len(names) - 1))
        self.layer_list.clear()
        for layer in self._layers:
            item = QListWidgetItem(layer.name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if layer in ticked else Qt.CheckState.Unchecked)
            self.layer_list.addItem(item)
        self._pairs = [pair for pair in self._pairs if all(layer in self._layers for layer in pair)]
        self._show_pairs()

    def _layer(self, box: QComboBox) -> Layer | None:
        index = box.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def ticked(self) -> list[Layer]:
        """Return the clean layers that are ticked."""
        rows = [self.layer_list.item(row) for row in range(self.layer_list.count())]
        ticks = [item.checkState() == Qt.CheckState.Checked for item in rows]
        return [layer for layer, tick in zip(self._layers, ticks, strict=True) if tick]

    def _tick_all(self) -> None:
        for row in range(self.layer_list.count()):
            self.layer_list.item(row).setCheckState(Qt.CheckState.Checked)

    def add_pair(self) -> None:
        """Add the chosen two layers to the list of pairs."""
        noisy, clean = self._layer(self.noisy_box), self._layer(self.clean_box)
        pairs = [] if noisy is None or clean is None else [(noisy, clean)]
        try:
            capture_pairs(pairs)
        except ValueError as error:
            self.refused.emit(str(error))
            return
        if pairs[0] in self._pairs:
            self.refused.emit(f"'{pairs[0][0].name}' → '{pairs[0][1].name}' is in the list already.")
            return
        self._pairs += pairs
        self._show_pairs()

    def _remove_pairs(self) -> None:
        if not self.pair_list.selectedItems():
            self.refused.emit("Select in the list which pairs to remove.")
            return
        gone = {self.pair_list.row(item) for item in self.pair_list.selectedItems()}
        self._pairs = [pair for row, pair in enumerate(self._pairs) if row not in gone]
        self._show_pairs()

    def _show_pairs(self) -> None:
        self.pair_list.clear()
        self.pair_list.addItems([f"{noisy.name} → {clean.name}" for noisy, clean in self._pairs])
        self.pair_list.setVisible(bool(self._pairs))
        self.remove_button.setEnabled(bool(self._pairs))
        self.changed.emit()

    def data(self) -> TrainingData:
        """Return what is chosen; ValueError says in a sentence what is missing."""
        way, kind = self.way(), str(choice(self.kind_box, KIND_ROWS))
        if way == "layer pairs":
            chosen = (self._layer(self.noisy_box), self._layer(self.clean_box))
            one = [] if chosen[0] is None or chosen[1] is None else [(chosen[0], chosen[1])]
            return TrainingData(layers=capture_pairs(self._pairs or one))
        if way == "clean layers":
            return TrainingData(layers=capture_clean(self.ticked()), kind=kind)
        if way == "clean folder":
            return TrainingData(sources=({"clean": self.clean_field.folder()},), kind=kind)
        source = {
            "input": self.input_field.folder(),
            "background": self.background_field.folder(),
            "match": str(self.match_box.currentText()).strip() or "auto",
        }
        return TrainingData(sources=(source,))


def _form(widget: QWidget) -> QFormLayout:
    form = QFormLayout(widget)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def _list(tip: str) -> QListWidget:
    rows = QListWidget()
    rows.setToolTip(tip)
    rows.setMaximumHeight(52)
    rows.setMinimumWidth(0)
    rows.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
    return rows
