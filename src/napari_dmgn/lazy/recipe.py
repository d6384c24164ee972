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
from napari_dmgn.images import Array, FloatArray, Results
from napari_dmgn.images.frames import _FILL_ROUNDS
from napari_dmgn.lazy.pieces import Outcome, in_pieces, try_once
from napari_dmgn.lazy.seen import Seen
from napari_dmgn.tiling import Window, widened

if TYPE_CHECKING:
    from napari_dmgn.inference import Gains, Part, Plan, WindowSums
    from napari_dmgn.model.config import NetworkConfig
    from napari_dmgn.model.descriptor import Model

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
                return zoo.shared_model(name, device)
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
        planes = Seen(self, values, window, limits).padded()

        def work(piece: Window, plan: Plan) -> WindowSums:
            return window_sums(model, _within(planes, window, piece), piece, plan)

        (first, *others), said = in_pieces(work, window, plan, self.config)
        return Outcome(value=sum(others, first), fallbacks=tuple(said))

    def gains(self, sums: list[Outcome[WindowSums]]) -> Gains:
        """Join the sums of all windows of a batch of frames, in their order."""
        from napari_dmgn.inference import gains

        return gains(self._ready()[0], [one.value for one in sums])

    @property
    def approximate(self) -> bool:
        """Whether windows differ from a whole frame by more than rounding."""
        return self.tile is not None and (self.halo < self.config.receptive_radius or not self.config.exact_tiles)

    def wider(self, window: Window) -> Window:
        """Return the window with a halo that its own can be judged by: an exact one, or else twice as much."""
        radius, stride = self.config.receptive_radius, self.config.stride
        halo = radius if self.config.exact_tiles else 2 * max(radius, self.halo)
        return widened(window, size=self.config.working_size(*self.shape), halo=halo, stride=stride)

    def restore(
        self, values: Sequence[Array], window: Window, limits: Sequence[Limits], known: Gains, *, measured: bool = False
    ) -> Outcome[Results]:
        """Phase 2 of a window; returns the pixels that are its own, a frame each of the batch's.

        Where `measured`, `values` are of the `wider` window's region, and the halo's error is found.
        """
        from napari_dmgn.inference import restore_window
        from napari_dmgn.inference.memory import release

        model, plan = self._ready()
        read = self.wider(window) if measured else window
        seen = Seen(self, values, read, limits)
        planes = seen.padded()

        def work(piece: Window, plan: Plan) -> Part:
            return restore_window(model, _within(planes, read, piece), piece, known, plan)

        parts, said = in_pieces(work, window, plan, self.config)
        error = None
        if measured:
            exact, failure = try_once(work, read, plan)
            if failure is None:
                error = max(_difference(part, exact[0]) for part in parts)
            else:
                release(failure, plan.device)
                said.append("out of memory: the halo's error was not measured everywhere")
        return Outcome(value=seen.results(parts), fallbacks=tuple(said), halo_error=error)

    def restore_whole(self, values: Sequence[Array], window: Window, limits: Sequence[Limits]) -> Outcome[Results]:
        """Both phases of frames that are one window."""
        from napari_dmgn.inference import Planes, iter_infer

        model, plan = self._ready()
        seen = Seen(self, values, window, limits)
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


def _difference(part: Part, whole: Part) -> float:
    """Largest difference of a pixel to the same one of a part that this one lies in."""
    (top, bottom), (left, right) = part.rows, part.columns
    place = (
        slice(top - whole.rows[0], bottom - whole.rows[0]),
        slice(left - whole.columns[0], right - whole.columns[0]),
    )
    names = ("background", "noise", "noise_map")
    return max(float(np.abs(getattr(part, name) - getattr(whole, name)[(..., *place)]).max()) for name in names)


class _Kept:
    """Takes the parts of planes."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def put(self, part: Part) -> None:
        """Keep a part."""
        self.parts.append(part)
