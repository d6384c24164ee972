"""The widget "Masks": what each deep-masking cell of the network let pass (the paper's figure 1)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtWidgets import QFormLayout, QListWidget, QPushButton, QVBoxLayout

from napari_dmgn.plugin.form import DockedWidget, breakable, combo, note, refill
from napari_dmgn.plugin.results import MASKS_KEY, METADATA_KEY
from napari_dmgn.plugin.source import placement, shifted
from napari_dmgn.plugin.viewstate import ViewState

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

_PARTS = {"background": "Background", "noise": "Noise", "refine": "Refinement"}
# Many cells let one or two percent pass: on a scale up to 1 they would all look the same, and empty.
_LEAST_SCALE = 0.05
_SCALE = "Dark is 0%; yellow is the second percentage in the list, or more: each cell has a scale of its own."
_BESIDE = 0.6  # opacity of a mask that lies on the picture
_LABEL = 6.5  # points, for the longest name to fit a tile on a laptop
_HINT = "No masks yet: tick Masks in the widget Restore background, and restore a layer."


class MasksWidget(DockedWidget):
    """Show a restored layer's masks: one at a time, or all in the grid."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._layers: list[Image] = []
        self._shown: Image | None = None
        self._all: list[Image] = []
        self._state: ViewState | None = None
        self._build()
        layers = napari_viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.connect(self._on_layers_changed)
        self._on_layers_changed()
        self._fill()

    def _build(self) -> None:
        self.layer_box = combo("A restored layer that has its masks with it.")
        self.list = QListWidget()
        self.list.setToolTip(
            "The cells of the network: its two branches, and the refinement behind them, each from input to output.\n"
            "How much a cell lets pass on average, and which share is shown as yellow."
        )
        self.all_button = QPushButton("All side by side")
        self.all_button.setCheckable(True)
        self.all_button.setToolTip("All masks as layers in napari's grid; press again for the view before.")
        self.status = note()
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Result", self.layer_box)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.list, 1)
        column.addWidget(self.all_button)
        column.addWidget(self.status)
        self.setMinimumWidth(280)
        self.layer_box.currentIndexChanged.connect(self._fill)
        self.list.currentRowChanged.connect(self.show_mask)
        self.all_button.toggled.connect(self._show_all)

    def _on_layers_changed(self, event: object = None) -> None:
        before = self.layer()
        known = [layer for layer in self._viewer.layers if MASKS_KEY in layer.metadata]
        if self._shown is not None and self._shown not in self._viewer.layers:
            self._shown = None
        if known == self._layers and getattr(event, "type", "") != "renamed":
            return
        self._layers = known
        refill(self.layer_box, [layer.name for layer in known], "no masks")
        if before in known:
            self.layer_box.setCurrentIndex(known.index(before))
        elif known:
            self.layer_box.setCurrentIndex(len(known) - 1)
        if before not in known or before is None:
            self._fill()

    def layer(self) -> Image | None:
        """Return the layer whose masks are shown."""
        index = self.layer_box.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def masks(self) -> Mapping[str, NDArray[np.float32]]:
        """Return the masks by the names of their cells."""
        layer = self.layer()
        found: Mapping[str, NDArray[np.float32]] = {} if layer is None else layer.metadata[MASKS_KEY]
        return found

    def _fill(self, index: int = 0) -> None:
        if self.all_button.isChecked():
            self.all_button.setChecked(False)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        for name, mask in self.masks().items():
            height, width = mask.shape[-2:]
            self.list.addItem(f"{words(name)}: {float(mask.mean()):.0%} pass, yellow is {scale(mask):.0%}")
            self.list.item(self.list.count() - 1).setToolTip(f"{width} × {height} positions")
        self.list.blockSignals(blocked)
        self.all_button.setEnabled(bool(self.masks()))
        self.status.setText("Choose a cell to see it on the picture." if self.masks() else _HINT)

    def show_mask(self, row: int) -> None:
        """Show the mask of a cell in a layer, the same for all cells."""
        layer, names = self.layer(), list(self.masks())
        if layer is None or not 0 <= row < len(names):
            return
        name = names[row]
        settings = _settings(layer, name, self.masks()[name])
        if self._shown is None:
            active = self._viewer.layers.selection.active
            self._shown = self._viewer.add_image(**settings, opacity=_BESIDE)
            self._viewer.layers.selection.active = active
        else:
            for field in ("data", "name", "contrast_limits", "scale", "translate", "rotate", "shear", "affine"):
                setattr(self._shown, field, settings[field])
            self._shown.visible = True
        self.status.setText(breakable(f"Shown: {words(name)}. {_SCALE}"))

    def _show_all(self, on: bool) -> None:
        if not on:
            for layer in self._all:
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
            if self._state is not None:
                self._state.restore()
            self._all, self._state = [], None
            return
        source = self.layer()
        if source is None:
            return
        self._state = ViewState(self._viewer, lambda: self.all_button.setChecked(False))
        active = self._viewer.layers.selection.active
        for name, mask in self.masks().items():
            settings = {**_settings(source, name, mask), "name": tile_name(name, mask)}
            self._all.append(_labelled(self._viewer.add_image(**settings)))
        self._viewer.layers.selection.active = active
        self._state.side_by_side(self._all, shape=_shape(self.masks()))
        self._viewer.reset_view()
        self.status.setText(breakable(f"All {len(self._all)} masks of {source.name}. {_SCALE}"))

    def _close_down(self) -> None:
        layers = self._viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.disconnect(self._on_layers_changed)
        self.all_button.setChecked(False)


def words(name: str) -> str:
    """Put a cell's name into words, short enough for a label on its mask."""
    part, _, number = name.partition("/")
    return f"{_PARTS.get(part, part.capitalize())} {number}".strip()


def scale(mask: NDArray[np.float32]) -> float:
    """Return the share that is shown brightest: nearly the mask's largest, for what little passes to be seen."""
    return max(float(np.percentile(mask, 99.5)), _LEAST_SCALE)


def tile_name(name: str, mask: NDArray[np.float32]) -> str:
    """Name a mask among many, with its scale."""
    return f"{words(name)} (0–{scale(mask):.0%})"


def _labelled(layer: Image) -> Image:
    """Have a layer's name stand in its corner of the canvas, where napari can do that (0.9)."""
    overlay = getattr(layer, "name_overlay", None)
    if overlay is not None:
        overlay.position, overlay.font_size, overlay.visible = "top_left", _LABEL, True
    return layer


def _shape(names: Iterable[str]) -> tuple[int, int]:
    """Rows and columns of a grid in which no row mixes parts of the network; where it cannot be, napari's own."""
    counts = Counter(name.partition("/")[0] for name in names)
    columns = math.gcd(*counts.values())
    return (sum(counts.values()) // columns, columns) if columns > 1 else (-1, -1)


def cell_side(length: int, positions: int) -> int:
    """Pixels that the network saw along one position of a mask: strides are powers of two, and round up."""
    side = 1
    while -(-length // side) > positions:
        side *= 2
    return side


def _settings(layer: Image, name: str, mask: NDArray[np.float32]) -> dict[str, Any]:
    """Return the arguments of ``viewer.add_image``; each position covers its part of the image."""
    pixels = layer.data.shape[: layer.ndim]
    record = layer.metadata.get(METADATA_KEY, {})
    downscale = record.get("downscale", 1)
    seen = [-(-side // downscale) for side in pixels[-2:]]
    factors = np.ones(layer.ndim)
    # Of a side shorter than half a position the largest stride cannot be told; it is the other side's.
    factors[-2:] = downscale * max(cell_side(side, n) for side, n in zip(seen, mask.shape[-2:], strict=True))
    moved = shifted(placement(layer), (factors - 1) / 2)
    return {
        "data": mask,
        "name": f"{record.get('source_layer', layer.name)} mask: {tile_name(name, mask)}",
        **moved,
        "scale": np.asarray(layer.scale) * factors,
        "rgb": False,
        "colormap": "viridis",
        "contrast_limits": (0.0, scale(mask)),
        "metadata": {METADATA_KEY: {**record, "output": f"mask {name}"}},
    }
