"""What a view looked like, to put it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["ViewState", "grid_of"]


def grid_of(viewer: ViewerModel) -> Any:
    """Return a viewer's grid, which napari 0.9 has moved."""
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


class ViewState:
    """Visible layers and grid of a viewer, as they were when this was made."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._visible = {layer: bool(layer.visible) for layer in viewer.layers}
        self._grid = grid_of(viewer)
        self._before = (bool(self._grid.enabled), tuple(self._grid.shape), int(self._grid.stride))

    def show_only(self, layers: Collection[Layer]) -> None:
        """Hide all other layers."""
        for layer in self._viewer.layers:
            layer.visible = any(layer == shown for shown in layers)

    def side_by_side(self, layers: Collection[Layer], *, shape: tuple[int, int] = (-1, -1)) -> None:
        """Show these layers only, each in a cell of the grid, the lowest one first."""
        self.show_only(layers)
        self._grid.shape, self._grid.stride, self._grid.enabled = shape, 1, True

    def restore(self) -> None:
        """Put the view back; layers that came meanwhile stay as they are."""
        for layer, visible in self._visible.items():
            if layer in self._viewer.layers:
                layer.visible = visible
        self._grid.enabled, self._grid.shape, self._grid.stride = self._before
