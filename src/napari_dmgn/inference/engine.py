"""Restoring planes of any size: a generator, one step per piece and phase.

Phase 1 gathers what depends on the whole image, phase 2 restores with that fixed. Large images pass in strips of
whole rows, where every operator keeps the few rows that it reaches back to, so that nothing is computed twice but
what is cheaper to compute than to keep. Square windows, which a caller may ask for, carry a halo of the network's
receptive field. Either way a large image equals a whole one up to the rounding of floats.

Where memory runs out, the pieces are halved and the work goes on from the one that failed; where they cannot be
smaller, it goes on on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dmgn.inference import phases
from napari_dmgn.inference.memory import is_out_of_memory, release, reused, words
from napari_dmgn.inference.noise import noise_store
from napari_dmgn.inference.planes import Pixels, Planes, Sink, Step, finished, taken_by
from napari_dmgn.inference.plans import Plan, plan
from napari_dmgn.inference.work import Job, Work, begin, pieces

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["count_steps", "iter_infer"]

_LOG = logging.getLogger(__name__)


def iter_infer(
    model: Model,
    batch: Pixels,
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    masks: bool = False,
    sink: Sink | None = None,
) -> Generator[Step | Planes, None, None]:
    """Restore planes, one step at a time; the last item holds the result.

    Parameters
    ----------
    model : Model
        Moved to the device where it is not there.
    batch : (N, 3, H, W) float32 array in [0, 1], or what reads like one
        Never modified; read piece by piece.
    device, precision, tile, halo
        See `plan`; but "auto" takes strips of rows where the whole plane is not small, and a network
        whose result depends on a pixel's position takes strips of `tile` rows, which are exact.
        Where the halo is less than exact, three windows are restored with the exact one, too, and
        the report's `halo_error` is the largest difference at a pixel of background, noise or map.
    masks : bool
        Keep every cell's mask.
    sink : Sink or None
        Takes each part as soon as it is restored, and the arrays of the result stay empty.

    Raises
    ------
    ValueError
        See `plan`.
    MemoryError
        The smallest piece does not fit.
    """
    if len(batch.shape) != 4 or batch.shape[1] != 3 or batch.shape[0] < 1:
        raise ValueError(f"batch has shape {batch.shape}; wanted (N, 3, H, W), not empty")
    made = _plan(model, batch.shape, device=device, precision=precision, tile=tile, halo=halo)
    return _run(model, batch, made, masks, sink)


def count_steps(
    model: Model,
    shape: tuple[int, ...],
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
) -> int:
    """Return the steps in which `iter_infer` restores (N, 3, H, W) planes, if the memory suffices."""
    return 2 * pieces(_plan(model, shape, device=device, precision=precision, tile=tile, halo=halo))


def _plan(
    model: Model, shape: tuple[int, ...], *, device: str, precision: str, tile: int | str | None, halo: int | str
) -> Plan:
    n, _, h, w = shape
    made = plan(
        model,
        (h, w),
        device=device,
        precision=precision,
        tile="strips" if tile == "auto" else tile,
        halo=halo,
        batch=n,
    )
    if not model.config.exact_tiles and made.tile is not None:
        whole = plan(model, (h, w), device=device, precision=precision, tile=None)
        made = replace(whole, strip=made.tile)
    return made


def _run(
    model: Model, batch: Pixels, made: Plan, masks: bool, sink: Sink | None
) -> Generator[Step | Planes, None, None]:
    kept, put = taken_by(sink, batch.shape)
    job = Job(model=model, pixels=batch, plan=made, masks=masks, put=put)
    if made.strip is not None:
        job.noise = noise_store(model.config, batch.shape, made)
    try:
        with reused():
            yield from _work(job)
    finally:
        if job.noise is not None:
            job.noise.close()
    yield finished(batch.shape[0], kept, masks=masks, report=_report(job))


def _work(job: Job) -> Generator[Step, None, None]:
    done = 0
    for phase in (1, 2):
        work = begin(job)
        while work.left:
            failure = _try(work)
            if failure is not None:
                work = _smaller(job, work, failure)
                continue
            done += 1
            yield Step(done=done, total=done + work.left + (pieces(job.plan) if phase == 1 else 0))
        if phase == 1:
            assert job.sums is not None
            job.known = phases.gains(job.model, job.sums)


def _try(work: Work) -> BaseException | None:
    """Do the next piece; return the error where memory ran out."""
    try:
        work.step()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return error  # handled outside of this block, which keeps what the failed piece holds alive
    return None


def _smaller(job: Job, work: Work, error: BaseException) -> Work:
    """Go on in smaller pieces, or on the CPU; say so in a warning and in the report."""
    device, seen = job.plan.device, f"{work.what}"
    message = words(error)
    release(error, device)
    less = work.smaller()
    if less is not None:
        text = f"out of memory on {device} with {seen}: halved to {less.what}"
    elif device != "cpu":
        job.plan = replace(job.plan, device="cpu")
        work.moved()
        less = work
        text = f"out of memory on {device} with {seen}: went on on the CPU"
    else:
        raise MemoryError(f"out of memory on {device} with {seen}, which cannot be smaller: {message}")
    job.fallbacks.append(text)
    _LOG.warning("%s (%s)", text, message)
    return less


def _report(job: Job) -> dict[str, Any]:
    made = job.plan
    report: dict[str, Any] = {
        "device": made.device,
        "precision": made.precision,
        "tile": made.tile if made.strip is None else made.strip,
        "halo": made.halo,
        "windows": pieces(job.plan),
        "fallbacks": job.fallbacks,
    }
    if job.errors:
        report["halo_error"] = max(job.errors)
    return report
