"""Restoring planes twice, as they are and mirrored, and taking the mean.

What a network takes for noise depends a little on which side is left; what lies over a picture does not. The mean of
what two views of it bring has fewer such errors (geometric self-ensemble: Timofte, Rothe and Van Gool, "Seven ways to
improve example-based single image super resolution", CVPR 2016). A mirror is the one symmetry that photographs have:
turned, a scene stands on its head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.inference.engine import count_steps, iter_infer
from napari_dmgn.inference.planes import (
    FloatArray,
    Part,
    Pixels,
    Planes,
    Sink,
    Step,
    finished,
    passed_on,
    taken_by,
    whole_mask,
)

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["iter_infer_ensemble"]


def iter_infer_ensemble(
    model: Model,
    batch: Pixels,
    *,
    masks: bool = False,
    sink: Sink | None = None,
    **engine: Any,
) -> Generator[Step | Planes, None, None]:
    """Restore planes as they are and mirrored, one step at a time; the last item holds the mean of both.

    Beside what one view takes, the first one's results are in memory: ten float32 values of every pixel.

    Parameters
    ----------
    model : Model
    batch : (N, 3, H, W) float32 array in [0, 1], or what reads like one
        Read twice, piece by piece.
    masks : bool
        Keep every cell's mask, those of the planes as they are.
    sink : Sink or None
        As in `iter_infer`.
    **engine
        The other arguments of `iter_infer`.

    Raises
    ------
    ValueError, MemoryError
        As `iter_infer` does.
    """
    first = iter_infer(model, batch, masks=masks, **engine)  # which checks all of them
    later = count_steps(model, batch.shape, **engine)
    kept, put = taken_by(sink, batch.shape)
    own, done = yield from passed_on(first, later=later)
    mean = _Mean(own, put)
    other, _ = yield from passed_on(iter_infer(model, _Mirrored(batch), sink=mean, **engine), done=done)
    yield finished(batch.shape[0], kept, masks=masks, report=_joined(own.report, other.report))


class _Mirrored:
    """Planes with left and right exchanged, as they are read."""

    def __init__(self, batch: Pixels) -> None:
        self._batch = batch

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""
        return self._batch.shape

    def __getitem__(self, place: tuple[slice, ...], /) -> NDArray[Any]:
        """Return the part at four slices."""
        width = self.shape[-1]
        first, last, _ = place[-1].indices(width)
        return self._batch[(*place[:-1], slice(width - last, width - first))][..., ::-1].copy()


class _Mean:
    """The sink that takes parts of the mirrored planes, and passes on the mean of these and of the planes' own."""

    def __init__(self, own: Planes, put: Callable[[Part], None]) -> None:
        self._own = own
        self._put = put
        self._masks = {name: whole_mask(mask) for name, mask in (own.masks or {}).items()}

    def put(self, part: Part) -> None:
        """Take a part; where its step fails it comes again."""
        width = self._own.noise_map.shape[-1]
        columns = width - part.columns[1], width - part.columns[0]
        place = (..., slice(*part.rows), slice(*columns))

        def mean(name: str) -> FloatArray:
            own: FloatArray = getattr(self._own, name)[place]
            both: FloatArray = (own + getattr(part, name)[..., ::-1]) / np.float32(2)
            return both

        self._put(
            Part(
                rows=part.rows,
                columns=columns,
                background=mean("background"),
                coarse=mean("coarse"),
                noise=mean("noise"),
                noise_map=mean("noise_map"),
                masks=self._masks,
            )
        )
        self._masks = {}


def _joined(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the report of both views: device and settings are those with which the second ended."""
    joined = other | {
        "windows": own["windows"] + other["windows"],
        "fallbacks": list(dict.fromkeys([*own["fallbacks"], *other["fallbacks"]])),
    }
    errors = [report["halo_error"] for report in (own, other) if "halo_error" in report]
    return joined | ({"halo_error": max(errors)} if errors else {})
