"""What every window of a volume is restored by; small enough to be sent to wherever the window is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn import zoo
from napari_dmgn.devices import resolve_device, resolve_precision
from napari_dmgn.images import Array, FloatArray, Frame, Layout, Picture, Results
from napari_dmgn.images.frames import _FILL_ROUNDS
from napari_dmgn.lazy.pieces import Outcome, in_pieces

if TYPE_CHECKING:
    from napari_dmgn.inference import Gains, Part, Plan, WindowSums
    from napari_dmgn.model.config import NetworkConfig
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.tiling import Window

__all__ = ["FILL_REACH", "ModelSource", "Recipe", "engine_here"]

Limits = tuple[float, float]

FILL_REACH = _FILL_ROUNDS + 1
"""Pixels around a part that can decide what a pixel without a value in it is filled with."""

_LOADING = threading.Lock()


def engine_here(device: str, precision: str) -> dict[str, str]:
    """Return what "auto" means in this process, as the provenance has it."""
    import torch

    found = resolve_device(device)
    return {"device": found, "precision": resolve_precision(precision, found), "torch": str(torch.__version__)}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model file, found again by whoever needs it.

    Attributes
    ----------
    name, path : of the file here; another machine may have it elsewhere, under the same name
    sha256 : of the file
    """

    name: str
    path: str
    sha256: str

    def load(self, device: str) -> Model:
        """Load the model; once in a process, however many windows ask for it.

        Raises
        ------
        ValueError
            If there is no file of this name here, or only another one.
        """
        with _LOADING:
            return _load(self, device)


@lru_cache(maxsize=4)
def _load(source: ModelSource, device: str) -> Model:
    for name in (source.path, source.name):
        try:
            if zoo.find_model(name).sha256 == source.sha256:
                return zoo.load_model(name, device)
        except (ValueError, OSError):
            continue
    raise ValueError(
        f"no model {source.name!r} with sha256 {source.sha256[:12]}... here: neither as {source.path!r} "
        f"nor in {str(zoo.models_folder())!r}"
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Model and settings of a volume, and the steps of one window.

    Attributes
    ----------
    model : a file, or the model itself where it was never in one
    shape : (H, W) of a frame
    rgb : whether a frame's last axis is RGB or RGBA
    dtype : of the background
    device, precision : as in `restore`; "auto" is decided where the window is
    tile, halo : as `Plan` has them
    config : of the model
    """

    model: ModelSource | Model
    shape: tuple[int, int]
    rgb: bool
    dtype: np.dtype[Any]
    device: str
    precision: str
    tile: int | None
    halo: int
    config: NetworkConfig

    def region(self, window: Window, kind: np.dtype[Any]) -> tuple[slice, slice]:
        """Rows and columns to read for a window, within the frame.

        In images of floats, those from which pixels that are NaN or infinite are filled too.
        """
        margin = FILL_REACH if kind.kind == "f" else 0
        rows, columns = (
            slice(max(0, span.read[0] - margin), min(length, span.read[1] + margin))
            for span, length in zip((window.rows, window.columns), self.shape, strict=True)
        )
        return rows, columns

    def sums(self, values: Sequence[Array], window: Window, limits: Sequence[Limits]) -> Outcome[WindowSums]:
        """Phase 1 of a window.

        Parameters
        ----------
        values : (h, w) or (h, w, 3 or 4) arrays
            The pixels of the window's `region` in each frame of a batch.
        window : one of a plan's
        limits : intensities that the network sees as 0 and 1, of each frame

        Raises
        ------
        MemoryError
            If no part of the window, however small, fits.
        """
        from napari_dmgn.inference import window_sums

        model, plan = self._ready()
        planes = _Seen(self, values, window, limits).padded()

        def work(piece: Window, plan: Plan) -> WindowSums:
            return window_sums(model, _within(planes, window, piece), piece, plan)

        (first, *others), said = in_pieces(work, window, plan, self.config)
        return Outcome(value=sum(others, first), fallbacks=tuple(said))

    def gains(self, sums: list[Outcome[WindowSums]]) -> Gains:
        """Join the sums of all windows of a batch of frames, in their order."""
        from napari_dmgn.inference import gains

        return gains(self._ready()[0], [one.value for one in sums])

    def restore(
        self, values: Sequence[Array], window: Window, limits: Sequence[Limits], known: Gains
    ) -> Outcome[Results]:
        """Phase 2 of a window; returns the pixels that are its own, a frame each of the batch's."""
        from napari_dmgn.inference import restore_window

        model, plan = self._ready()
        seen = _Seen(self, values, window, limits)
        planes = seen.padded()

        def work(piece: Window, plan: Plan) -> Part:
            return restore_window(model, _within(planes, window, piece), piece, known, plan)

        parts, said = in_pieces(work, window, plan, self.config)
        return Outcome(value=seen.results(parts), fallbacks=tuple(said))

    def restore_whole(self, values: Sequence[Array], window: Window, limits: Sequence[Limits]) -> Outcome[Results]:
        """Both phases of frames that are one window."""
        from napari_dmgn.inference import Planes, iter_infer

        model, plan = self._ready()
        seen = _Seen(self, values, window, limits)
        kept, said = _Kept(), []
        # Strips, which it takes where memory runs out, need no halo: they are exact for every network.
        for step in iter_infer(
            model, seen.planes(), device=plan.device, precision=plan.precision, tile=None, sink=kept
        ):
            if isinstance(step, Planes):
                said = step.report["fallbacks"]
        return Outcome(value=seen.results(kept.parts), fallbacks=tuple(said))

    def _ready(self) -> tuple[Model, Plan]:
        from napari_dmgn.inference import Plan

        device = resolve_device(self.device)
        model = self.model.load(device) if isinstance(self.model, ModelSource) else self.model
        precision = resolve_precision(self.precision, device)
        plan = Plan(shape=self.shape, device=device, precision=precision, tile=self.tile, halo=self.halo, parts=())
        return model, plan


def _within(planes: FloatArray, window: Window, piece: Window) -> FloatArray:
    """Cut what a piece of a window reads out of what the window does."""
    rows, columns = (
        slice(part.read[0] - whole.read[0], part.read[1] - whole.read[0])
        for part, whole in ((piece.rows, window.rows), (piece.columns, window.columns))
    )
    return np.ascontiguousarray(planes[..., rows, columns])


class _Kept:
    """Takes the parts of planes."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def put(self, part: Part) -> None:
        """Keep a part."""
        self.parts.append(part)


class _Seen:
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
