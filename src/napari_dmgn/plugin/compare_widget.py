"""The widget "Compare": a source and its background side by side, or one in the place of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QPushButton, QVBoxLayout

from napari_dmgn.plugin import conservation
from napari_dmgn.plugin.form import DockedWidget, breakable, combo, note, refill
from napari_dmgn.plugin.results import METADATA_KEY
from napari_dmgn.plugin.source import why_not
from napari_dmgn.plugin.viewstate import ViewState, grid_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

_BLINK = 700  # milliseconds


class CompareWidget(DockedWidget):
    """Show two layers side by side, or turn one into the other; the view is put back afterwards."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._layers: list[Image] = []
        self._state: ViewState | None = None
        self._pair: tuple[Image, Image] | None = None
        self._build()
        layers = napari_viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.connect(self._on_layers_changed)
        self._on_layers_changed()

    def _build(self) -> None:
        self.source_box = combo("The layer that was restored.")
        self.result_box = combo("What to compare it with: its background, or any other image layer.")
        self.side_button, self.toggle_button = QPushButton("Side by side"), QPushButton("Toggle")
        self.side_button.setToolTip("Both layers beside each other; they move and zoom together.")
        self.toggle_button.setToolTip("One layer in the place of the other; press again to change.")
        self.blink_box = QCheckBox("Blink")
        self.blink_box.setToolTip("Change by itself, so that the eye sees what differs.")
        self.off_button = QPushButton("Back to the view before")
        self.off_button.setToolTip("Show the layers, and the grid, as they were before this widget changed the view.")
        self.off_button.setEnabled(False)
        self.status, self.numbers = note(), note()
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Source", self.source_box)
        form.addRow("Result", self.result_box)
        row = QHBoxLayout()
        row.addWidget(self.side_button, 1)
        row.addWidget(self.toggle_button, 1)
        row.addWidget(self.blink_box)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addLayout(row)
        for widget in (self.off_button, self.status, self.numbers):
            column.addWidget(widget)
        column.addStretch()
        self.setMinimumWidth(280)
        self._timer = QTimer(self)
        self._timer.setInterval(_BLINK)
        self._timer.timeout.connect(self.toggle)
        self.side_button.clicked.connect(self.side_by_side)
        self.toggle_button.clicked.connect(self.toggle)
        self.blink_box.toggled.connect(self._blink)
        self.off_button.clicked.connect(self.off)
        self.result_box.currentIndexChanged.connect(self._show_numbers)

    def _on_layers_changed(self, event: object = None) -> None:
        before = self.pair()
        self._layers = [layer for layer in self._viewer.layers if why_not(layer) is None]
        for box in (self.source_box, self.result_box):
            refill(box, [layer.name for layer in self._layers], "no image layer")
        if self._pair is not None and any(layer not in self._layers for layer in self._pair):
            self.off()
        inserted = getattr(event, "type", "") == "inserted"
        kept = before is not None and all(layer in self._layers for layer in before) and not inserted
        self._choose(before if kept else self._guess())
        self._show_numbers()

    def _guess(self) -> tuple[Image, Image] | None:
        """Return the latest background and its source."""
        for result in reversed(self._layers):
            record = result.metadata.get(METADATA_KEY)
            if isinstance(record, dict) and record.get("output") == "background":
                for source in self._layers:
                    if source.name == record.get("source_layer"):
                        return source, result
        return None

    def _choose(self, pair: tuple[Image, Image] | None) -> None:
        for box, layer in zip((self.source_box, self.result_box), pair or (), strict=False):
            box.setCurrentIndex(self._layers.index(layer))

    def pair(self) -> tuple[Image, Image] | None:
        """Return the two layers, None where there are no two."""
        places = self.source_box.currentIndex(), self.result_box.currentIndex()
        if any(not 0 <= place < len(self._layers) for place in places) or places[0] == places[1]:
            return None
        return self._layers[places[0]], self._layers[places[1]]

    def _begin(self) -> tuple[Image, Image] | None:
        if self._state is None and self.pair() is not None:
            self._state = ViewState(self._viewer, self.off)
        pair = self.pair()  # read anew: the layers of a view that this one has ended are gone
        if pair is None:
            self.off()
            self.status.setText("Choose two image layers: one that was restored, and its background.")
            return None
        self._pair = pair
        self.off_button.setEnabled(True)
        return pair

    def side_by_side(self) -> None:
        """Show both layers beside each other."""
        self.blink_box.setChecked(False)
        pair = self._begin()
        if pair is None or self._state is None:
            return
        self._state.side_by_side(pair, shape=(1, 2))
        self._viewer.reset_view()
        first, second = sorted(pair, key=list(self._viewer.layers).index)
        self._say(f"Left: {first.name}. Right: {second.name}.")

    def toggle(self) -> None:
        """Show the source, or the result where the source was shown."""
        pair = self._begin()
        if pair is None or self._state is None:
            return
        source, result = pair
        grid = grid_of(self._viewer)
        alone = not grid.enabled and source.visible and not result.visible
        grid.enabled = False
        self._state.show_only([result if alone else source])
        self._say(f"Shown: {(result if alone else source).name}")

    def _blink(self, on: bool) -> None:
        if on:
            self.toggle()
        (self._timer.start if on and self._pair is not None else self._timer.stop)()

    def off(self) -> None:
        """Put the view back as it was."""
        self._timer.stop()
        self.blink_box.setChecked(False)
        if self._state is not None:
            self._state.restore()
        self._state, self._pair = None, None
        self.off_button.setEnabled(False)
        self._say("")

    def _show_numbers(self, index: int = 0) -> None:
        place = self.result_box.currentIndex()
        record: Any = self._layers[place].metadata.get(METADATA_KEY) if 0 <= place < len(self._layers) else None
        found = record.get("conservation") if isinstance(record, dict) else None
        self.numbers.setText(conservation.sentence(found) if found else "")

    def _say(self, text: str) -> None:
        self.status.setText(breakable(text))

    def _close_down(self) -> None:
        layers = self._viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.disconnect(self._on_layers_changed)
        self.off()
