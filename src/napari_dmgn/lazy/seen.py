"""The pixels that were read for a window, as planes of the network and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_dmgn.images import Array, FloatArray, Frame, Layout, Picture, Results

if TYPE_CHECKING:
    from napari_dmgn.inference import Part
    from napari_dmgn.lazy.recipe import Limits, Recipe
    from napari_dmgn.tiling import Window

__all__ = ["Seen"]


class Seen:
    """The pixels that were read for a window, of each frame of a batch, as planes and back."""

    def __init__(self, recipe: Recipe, values: Sequence[Array], window: Window, limits: Sequence[Limits]) -> None:
        self._recipe = recipe
        self._window = window
        self._pictures = [
            Picture(frame, rgb=recipe.rgb, low=low, high=high)
            for frame, (low, high) in zip(values, limits, strict=True)
        ]
        rows, columns = recipe.region(window, values[0].dtype)
        self._origin = rows.start, columns.start

    def _parts(self, rows: tuple[int, int], columns: tuple[int, int]) -> list[Frame]:
        """A part of each frame, by its place in the frame; what is beyond the frame's end is left out."""
        top, left = self._origin
        down = slice(rows[0] - top, min(rows[1], self._recipe.shape[0]) - top)
        across = slice(columns[0] - left, min(columns[1], self._recipe.shape[1]) - left)
        return [picture.part(down, across) for picture in self._pictures]

    def planes(self) -> FloatArray:
        """What the window reads of the frames."""
        window = self._window
        return np.concatenate([part.planes for part in self._parts(window.rows.read, window.columns.read)])

    def padded(self) -> FloatArray:
        """What the network sees: the last row and column repeated up to its stride, as `read_window` does."""
        planes = self.planes()
        missing = [(0, 0), (0, 0)]
        for span, length in zip((self._window.rows, self._window.columns), planes.shape[2:], strict=True):
            missing.append((0, span.read[1] - span.read[0] - length))
        return np.pad(planes, missing, mode="edge") if any(after for _, after in missing) else planes

    def results(self, parts: Sequence[Part]) -> Results:
        """The window's own pixels in the user's units, with an axis of frames before the others."""
        window, (height, width) = self._window, self._recipe.shape
        (top, bottom), (left, right) = window.rows.paste, window.columns.paste
        rgb, dtype = self._recipe.rgb, self._recipe.dtype
        colours = self._pictures[0].part(slice(0, 1), slice(0, 1))
        shape = (len(self._pictures), min(bottom, height) - top, min(right, width) - left)
        layout = Layout(shape=(*shape, 3 if colours.alpha is None else 4) if rgb else shape, rgb=rgb)
        results = Results(layout, dtype)
        for part in parts:
            rows = slice(part.rows[0] - top, part.rows[1] - top)
            columns = slice(part.columns[0] - left, part.columns[1] - left)
            for index, frame in enumerate(self._parts(part.rows, part.columns)):
                own = slice(index, index + 1)
                results.put(
                    index,
                    frame,
                    background=part.background[own],
                    noise=part.noise[own],
                    noise_map=part.noise_map[own],
                    coarse=part.coarse[own],
                    rows=rows,
                    columns=columns,
                )
        return results
