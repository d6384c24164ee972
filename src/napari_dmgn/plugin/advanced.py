"""The section Advanced of the restore form: how the network runs, and where the results go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QDoubleValidator
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn.plugin.form import choice, combo, select
from napari_dmgn.plugin.preferences import Preferences

if TYPE_CHECKING:
    from napari_dmgn.images import IntensityRange

__all__ = ["AdvancedBox"]

_GPU = [("Apple GPU (MPS)", "mps")] if sys.platform == "darwin" else [("NVIDIA or AMD GPU (CUDA)", "cuda")]
DEVICES = [("Automatic", "auto"), ("CPU", "cpu"), *_GPU]
PRECISIONS = [("Automatic", "auto"), ("Full (float32)", "float32"), ("Fast (bfloat16)", "bf16")]
SIZES: list[tuple[str, str | int]] = [
    ("Automatic", "auto"),
    ("Full size", 1),
    *((f"1/{factor}", factor) for factor in (2, 3, 4, 6, 8)),
]
VIEWS: list[tuple[str, bool]] = [("As it is", False), ("And mirrored", True)]
_VIEWS_TIP = (
    "Restored as it is and mirrored, the mean of both errs a little less: by a tenth or two of a decibel in small "
    "pictures, hardly in large ones. It takes up to twice as long."
)
_SIZE_TIP = (
    "The size at which the network sees the image; the results have all pixels. At 1/3 it sees the means of blocks of "
    "3 × 3 pixels, and what it makes of them is carried back to all pixels, whose edges and texture stay. Good for "
    "haze and reflections in large photographs, and faster. Not for fine noise, such as rain, which the means blur. "
    "Automatic follows the model's card; without a word there it is the full size."
)
TILES: list[tuple[str, str | int | None]] = [
    ("Automatic", "auto"),
    ("Whole image", None),
    *((f"{side} × {side} pixels", side) for side in (128, 256, 512, 1024, 2048)),
]
# Of the network's reach. The shipped rain model on 512 x 512 photographs with heavy rain, in tiles of 256 pixels:
# a half differs from the whole by 0.04 % of the range at most, a quarter by 23 %, and an eighth by 63 %.
HALOS = [("Half", 2), ("Quarter, approximate", 4)]
_HALO_TIP = (
    "What a tile of a chosen size sees beyond its border. Half is faster and hardly differs from exact; with a "
    "quarter single pixels, of the noise map above all, may differ by a fifth of the range. "
    "Each run measures by how much, and says it."
)
TYPES = [
    ("As the layer", "same"),
    ("8 bits (uint8)", "uint8"),
    ("16 bits (uint16)", "uint16"),
    ("Float (float32)", "float32"),
]
RANGES = [("Automatic", "auto"), ("Limits of the data type", "dtype"), ("From … to …", "fixed")]
PLACES = [("Memory", "memory"), ("OME-Zarr store …", "store")]


class AdvancedBox(QWidget):
    """A button that unfolds the settings most people leave alone."""

    changed = Signal()
    unfolded = Signal()

    def __init__(self, start: Preferences) -> None:
        super().__init__()
        self.store: Path | None = None
        self.button = QToolButton()
        self.button.setText("Advanced")
        self.button.setToolTip("Show or hide how the network runs, and where the results go.")
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self.device_box = combo("Where to compute. Automatic takes a CUDA GPU where there is one.", DEVICES)
        self.precision_box = combo("Automatic takes bfloat16 where the hardware is fast at it.", PRECISIONS)
        self.size_box = combo(_SIZE_TIP, SIZES)
        self.views_box = combo(_VIEWS_TIP, VIEWS)
        self.tile_box = combo("Smaller tiles need less memory. The result is the same.", TILES)
        self.halo_box = combo(_HALO_TIP)
        self._halos: list[tuple[str, str | int]] = []
        self.offer_halos(None)
        self.type_box = combo("Data type of the background. Values are rounded and cut off, not rescaled.", TYPES)
        self.range_box = combo("The intensities that the network takes for black and white.", RANGES)
        self.place_box = combo("On the disk they are written frame by frame: for stacks that fill the memory.", PLACES)
        self._preset(start)
        self.settings = QWidget()
        form = QFormLayout(self.settings)
        form.setContentsMargins(12, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for label, box in (
            ("Device", self.device_box),
            ("Precision", self.precision_box),
            ("Working size", self.size_box),
            ("Seen", self.views_box),
            ("Tiles", self.tile_box),
            ("Halo", self.halo_box),
            ("Type", self.type_box),
            ("Range", self.range_box),
        ):
            form.addRow(label, box)
        form.addRow("", self._build_limits())
        form.addRow("Results in", self.place_box)
        self.settings.setVisible(False)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.button)
        column.addWidget(self.settings)
        self.button.toggled.connect(self._unfold)
        for box in (self.device_box, self.precision_box, self.size_box, self.views_box, self.tile_box, self.type_box):
            box.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.tile_box.currentIndexChanged.connect(self._allow_halo)
        self._allow_halo()
        self.range_box.currentIndexChanged.connect(self._show_limits)
        self.place_box.activated.connect(self._ask_store)

    def _preset(self, start: Preferences) -> None:
        select(self.device_box, DEVICES, start.device)
        select(self.precision_box, PRECISIONS, start.precision)
        select(self.size_box, SIZES, start.downscale_setting())
        select(self.views_box, VIEWS, start.ensemble)
        select(self.tile_box, TILES, start.tile_setting())
        select(self.type_box, TYPES, start.output_type)

    def _build_limits(self) -> QWidget:
        self.low_edit, self.high_edit = QLineEdit("0"), QLineEdit("1")
        self.limits = QWidget()
        row = QHBoxLayout(self.limits)
        row.setContentsMargins(0, 0, 0, 0)
        for edit, tip in ((self.low_edit, "black"), (self.high_edit, "white")):
            edit.setValidator(QDoubleValidator())
            edit.setToolTip(f"The intensity that is {tip} for the network.")
            row.addWidget(edit)
        self.limits.setVisible(False)
        return self.limits

    def _unfold(self, shown: bool) -> None:
        self.settings.setVisible(shown)
        self.button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.unfolded.emit()

    def offer_halos(self, reach: int | None) -> None:
        """Offer the halos that make sense for a network, keeping the choice.

        Parameters
        ----------
        reach : its receptive field to each side, in pixels; None where it is not known
        """
        before = max(0, self.halo_box.currentIndex())
        self._halos = [("Exact" if reach is None else f"Exact ({reach} pixels)", "exact")]
        if reach is not None:
            self._halos += [(f"{label} ({reach // part} pixels)", reach // part) for label, part in HALOS]
        # Not refill: whether the box can be used is for the tiles to say.
        blocked = self.halo_box.blockSignals(True)
        self.halo_box.clear()
        self.halo_box.addItems([label for label, _ in self._halos])
        self.halo_box.setCurrentIndex(before if before < len(self._halos) else 0)
        self.halo_box.blockSignals(blocked)

    def _allow_halo(self) -> None:
        """Only tiles of a size have a halo: the strips of Automatic need none."""
        self.halo_box.setEnabled(isinstance(choice(self.tile_box, TILES), int))

    def _show_limits(self) -> None:
        self.limits.setVisible(choice(self.range_box, RANGES) == "fixed")
        self.unfolded.emit()
        self.changed.emit()

    def _ask_store(self) -> None:
        if choice(self.place_box, PLACES) == "memory":
            self.set_store(None)
            return
        path, _ = QFileDialog.getSaveFileName(self, "Results in a store", "restored.zarr", "OME-Zarr (*.zarr)")
        self.set_store(Path(path if path.lower().endswith(".zarr") else f"{path}.zarr") if path else None)

    def set_store(self, path: Path | None) -> None:
        """Send the results to a store, or keep them in memory."""
        self.store = path
        select(self.place_box, PLACES, "memory" if path is None else "store")
        self.place_box.setItemText(1, PLACES[1][0] if path is None else f"Store {path.name}")
        self.place_box.setToolTip(PLACES[0][0] if path is None else str(path))
        self.changed.emit()

    def values(self) -> dict[str, Any]:
        """Return the settings by their names in a request.

        Raises
        ------
        ValueError
            The range is no range.
        """
        return {
            "device": choice(self.device_box, DEVICES),
            "precision": choice(self.precision_box, PRECISIONS),
            "downscale": choice(self.size_box, SIZES),
            "ensemble": choice(self.views_box, VIEWS),
            "tile": choice(self.tile_box, TILES),
            "halo": choice(self.halo_box, self._halos) if self.halo_box.isEnabledTo(self) else "exact",
            "dtype": choice(self.type_box, TYPES),
            "intensity_range": self._range(),
            "store": self.store,
        }

    def _range(self) -> IntensityRange:
        kind: str = choice(self.range_box, RANGES)
        if kind != "fixed":
            return "dtype" if kind == "dtype" else "auto"
        try:
            low, high = (float(edit.text().replace(",", ".")) for edit in (self.low_edit, self.high_edit))
        except ValueError:
            low, high = 0.0, 0.0
        if not low < high:
            raise ValueError(
                f"The range under Advanced is '{self.low_edit.text()}' to '{self.high_edit.text()}'; "
                "wanted two numbers, the smaller one first."
            )
        return low, high
