"""The windows of an image on the disk, one after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_dmgn.files import Block, fill
from napari_dmgn.lazy.extremes import Extremes, needs_extremes, volume_limits
from napari_dmgn.lazy.overlap import overlapped
from napari_dmgn.lazy.recipe import engine_here

if TYPE_CHECKING:
    from napari_dmgn.inference import Gains
    from napari_dmgn.lazy.recipe import Limits
    from napari_dmgn.lazy.record import Place, Record
    from napari_dmgn.lazy.stores import StoreJob

__all__ = ["Here"]

Value = TypeVar("Value")


class Here:
    """The process itself; the next window is read and the last one written while one is computed."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def engine(self, device: str, precision: str) -> dict[str, str]:
        """Return what "auto" means here."""
        return engine_here(device, precision)

    def run(self, job: StoreJob, record: Record) -> Iterator[Place]:
        """Do every window that is not on record, frame by frame; yield each step when it is done."""
        from napari_dmgn.inference.memory import reused

        with reused():  # from window to window
            yield from self._run(job, record)

    def _run(self, job: StoreJob, record: Record) -> Iterator[Place]:
        limits = _limits(job, record)
        if len(job.volume.windows) == 1:  # a frame is a window: go from one to the next without a pause
            yield from _restore(job, record, [place for places in job.batches() for place in places], limits, None)
            return
        for places in job.batches():
            if all(place in record.done for place in places):
                continue
            for place, sums in overlapped(
                [place for place in places if place not in record.sums],
                read=lambda place: job.read(*place),
                work=lambda place, values: job.sums(*place, values, limits),
                write=lambda _, sums: sums,
            ):
                record.keep_sums(place, _valid(sums))
                yield place
            gains = job.volume.recipe.gains([record.sums[place] for place in places])
            yield from _restore(job, record, places, limits, gains)

    def fill(self, path: Path, level: list[Block]) -> None:
        """Make the blocks of a coarser level."""
        for block in level:
            fill(path, block)


def _restore(
    job: StoreJob, record: Record, places: list[Place], limits: list[Limits], gains: Gains | None
) -> Iterator[Place]:
    for place, counts in overlapped(
        [place for place in places if place not in record.done],
        read=lambda place: job.read_again(*place),
        work=lambda place, values: job.restore(*place, values, limits, gains),
        write=lambda place, results: job.write(*place, results),
    ):
        record.keep_done(place, _valid(counts))
        yield place


def _limits(job: StoreJob, record: Record) -> list[Limits]:
    if record.limits is None:
        volume = job.volume
        found: list[Extremes] = []
        if needs_extremes(volume.wanted_range, volume.dtype):
            found = [one for places in job.batches() for place in places for one in job.extremes(*place)]
        record.keep_limits(volume_limits(found, layout=volume.layout, dtype=volume.dtype, wanted=volume.wanted_range))
    assert record.limits is not None
    return record.limits


def _valid(outcome: Value | Exception) -> Value:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
