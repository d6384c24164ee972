"""Which image layer a widget is about: a box of those that are there, which follows the viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QComboBox

from napari_dmgn.plugin.form import refill
from napari_dmgn.plugin.source import why_not

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import Viewer

__all__ = ["LayerChoice"]


class LayerChoice(QObject):
    """A box of the viewer's image layers; the one that becomes active is chosen."""

    changed = Signal()  # another layer is chosen, or the same one has changed its name or place

    def __init__(self, viewer: Viewer, box: QComboBox) -> None:
        super().__init__(box)
        self._viewer = viewer
        self._box = box
        self._layers: list[Image] = []
        box.currentIndexChanged.connect(self._on_row_chosen)

    def follow(self) -> None:
        """Fill the box, and keep it as the viewer's layers are."""
        for emitter, callback in self._emitters():
            emitter.connect(callback)
        self._on_layers_changed()
        self._on_active_changed()

    def leave(self) -> None:
        """Follow the viewer no longer."""
        for emitter, callback in self._emitters():
            emitter.disconnect(callback)

    def _emitters(self) -> list[tuple[Any, Callable[..., None]]]:
        events = self._viewer.layers.events
        changes = [events.inserted, events.removed, events.reordered, events.renamed]
        return [
            *((emitter, self._on_layers_changed) for emitter in changes),
            (self._viewer.layers.selection.events.active, self._on_active_changed),
        ]

    def layer(self) -> Layer | None:
        """Return the chosen image layer, or the layer that was selected in its place."""
        index = self._box.currentIndex()
        if 0 <= index < len(self._layers):
            return self._layers[index]
        return self._viewer.layers.selection.active

    def image(self) -> Image | None:
        """Return the chosen layer if it can be restored."""
        layer = self.layer()
        return layer if why_not(layer) is None else None

    def hint(self) -> str:
        """Say before any click what a click would do, where that is not plain."""
        if (problem := why_not(self.layer())) is not None:
            return problem
        active = self._viewer.layers.selection.active
        if active is not None and (other := why_not(active)) is not None:
            return f"{other} Restore would take '{self._box.currentText()}'."
        return "Ready."

    def _on_layers_changed(self, event: object = None) -> None:
        before = self.layer()
        self._layers = [layer for layer in self._viewer.layers if why_not(layer) is None]
        refill(self._box, [layer.name for layer in self._layers], "no image layer")
        self._choose(before)
        self.changed.emit()

    def _on_active_changed(self, event: object = None) -> None:
        self._choose(self._viewer.layers.selection.active)
        self.changed.emit()

    def _choose(self, layer: Layer | None) -> None:
        for index, known in enumerate(self._layers):
            if known is layer or known == layer:
                blocked = self._box.blockSignals(True)
                self._box.setCurrentIndex(index)
                self._box.blockSignals(blocked)

    def _on_row_chosen(self, index: int) -> None:
        self.changed.emit()
