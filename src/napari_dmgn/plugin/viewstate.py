"""What a view looked like, to put it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from napari.components import ViewerModel
    from napari.layers import Layer

__all__ = ["ViewState", "grid_of"]


def grid_of(viewer: ViewerModel) -> Any:
    """Return a viewer's grid, which napari 0.9 has moved."""
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid


class ViewState:
    """Visible layers and grid of a viewer, as they were when this was made.

    A viewer has one at a time. Were a second one made while a first one's view is shown, it would hold that
    view for the user's own, and the first one's end would leave the second one without what it shows.

    Parameters
    ----------
    viewer : ViewerModel
    end : callable
        Ends the view that this is made for, and calls `restore`; called when another one begins.
    """

    def __init__(self, viewer: ViewerModel, end: Callable[[], object]) -> None:
        # Widgets get a proxy each of the viewer, which is the same behind all of them.
        self._key = id(getattr(viewer, "__wrapped__", viewer))
        if (other := _CURRENT.get(self._key)) is not None:
            other._end()
        _CURRENT[self._key] = self
        self._viewer = viewer
        self._end: Callable[[], object] = end
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
        if _CURRENT.get(self._key) is self:
            del _CURRENT[self._key]


# By the viewer's id, which is its own as long as the state, which holds the viewer, lives.
_CURRENT: WeakValueDictionary[int, ViewState] = WeakValueDictionary()
