"""A whole image on the disk, window by window, here or on a cluster; what is done is not done again."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from napari_dmgn.api import RestoreEvent
from napari_dmgn.files import Block, blocks
from napari_dmgn.lazy.destination import Destination
from napari_dmgn.lazy.lock import Lock
from napari_dmgn.lazy.record import Place, Record, UnfinishedError
from napari_dmgn.lazy.stores import PARTS, Input, StoreJob
from napari_dmgn.lazy.volume import Volume, describe

__all__ = ["StoreRun", "Workers"]

_LOG = logging.getLogger(__name__)


class Workers(Protocol):
    """Who does the windows: this process or a cluster."""

    def engine(self, device: str, precision: str) -> dict[str, str]:
        """Return what "auto" means to them: device, precision, and torch's version."""

    def run(self, job: StoreJob, record: Record) -> Iterator[Place]:
        """Do what is not on record; yield after each step."""

    def fill(self, path: Path, level: list[Block]) -> None:
        """Make the blocks of a coarser level."""


class StoreRun:
    """The restoration of an image on the disk into OME-Zarr images.

    The arguments are checked, and an earlier run that was stopped is found, when it is made; work
    starts with `steps`. `provenance` is complete when they end.

    Parameters
    ----------
    image, destination : where from and where to
    overwrite : start anew where there is an unfinished run
    task, settings : as in `restore`

    Raises
    ------
    ValueError
        If an argument cannot be served.
    UnfinishedError
        If the unfinished run had other settings.
    """

    def __init__(
        self, image: Input, destination: Destination, task: str, *, overwrite: bool = False, **settings: Any
    ) -> None:
        self.image = image
        self.destination = destination
        self._task = task
        self._overwrite = overwrite
        self._wanted = settings
        self._find({}).warn()

    def _find(self, engine: Mapping[str, str]) -> Volume:
        """Decide what there is to do, and find what an earlier run has done of it."""
        array = self.image.open().array
        volume = describe(array.shape, array.dtype, self._task, regular=True, **self._wanted)
        self.settings = {
            **self.image.identity(),
            **{name: volume.provenance[name] for name in ("version", "task", "sha256", "axes", "intensity_range")},
            **{name: self._wanted[name] for name in ("tile", "halo")},
            **{name: engine[name] for name in ("device", "precision") if engine},
            "type of the results": volume.recipe.dtype.str,
        }
        self.record = None if self._overwrite else self._recorded()
        if self.record is not None:  # "auto" may mean another size today
            settings = self._wanted | {"tile": self.record.tile}
            volume = describe(array.shape, array.dtype, self._task, regular=True, **settings)
        self.provenance = volume.provenance | {"input": Path(self.image.path).name, "level": self.image.level}
        self.job = StoreJob(image=self.image, folder=str(self.destination.work.absolute()), volume=volume)
        return volume

    def _recorded(self) -> Record | None:
        record = Record.load(self.destination.record)
        if record is None:
            return None
        if not self.destination.holds_all(moving=record.moving):
            _LOG.warning("%s lacks some of its images: starting anew", self.destination.work)
            return None
        try:
            record.check(self.settings)
        except UnfinishedError:
            if record.sums or record.done:
                raise
            return None
        return record

    def steps(self, workers: Workers) -> Generator[RestoreEvent, None, None]:
        """Do what is left to do.

        Raises
        ------
        BusyError
            If another run is at it.
        UnfinishedError
            If "auto" meant another device or precision to the unfinished run.
        """
        started = time.perf_counter()
        engine = workers.engine(self._wanted["device"], self._wanted["precision"])
        with Lock(self.destination.lock):
            self._find(engine)  # again: another run may have been at it since
            record = self._begin() if self.record is None else self.record
            before = len(record.done)
            yield from self._windows(workers, record)
            self.provenance |= engine | {
                "intensity_range": _range_of(record),
                **_halo_error(record),
                "fallbacks": _fallbacks(self.provenance["fallbacks"], record),
                "windows_done_before": before,
                "clipped_pixels": sum(counts.clipped for counts in record.done.values()),
                "nonfinite_pixels": sum(counts.nonfinite for counts in record.done.values()),
                "seconds": round(time.perf_counter() - started, 3),
            }
            if not record.moving:
                self._complete(workers)
                record.keep_moving()
            self.destination.finish()

    def _windows(self, workers: Workers, record: Record) -> Generator[RestoreEvent, None, None]:
        volume = self.job.volume
        phases = 1 if len(volume.windows) == 1 else 2
        batches, frames = volume.batches, volume.layout.frames
        total = phases * len(batches) * len(volume.windows)
        done = phases * len(record.done) + sum(place not in record.done for place in record.sums)
        for batch, _ in workers.run(self.job, record):
            done += 1
            yield RestoreEvent(done=done, total=total, frame=batches[batch][0], frames=frames)

    def _complete(self, workers: Workers) -> None:
        """Make the coarser levels, and say in the images what they were made with."""
        for part in PARTS:
            path = Path(self.job.folder, part)
            for level in blocks(path):
                workers.fill(path, level)
        self.job.note(self.provenance)

    def _begin(self) -> Record:
        work = self.destination.work
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        self.job.create()
        return Record.start(self.destination.record, self.settings, self.job.volume.recipe.tile)


def _halo_error(record: Record) -> dict[str, float]:
    errors = [counts.halo_error for counts in record.done.values() if counts.halo_error is not None]
    return {"halo_error": max(errors)} if errors else {}


def _fallbacks(known: list[str], record: Record) -> list[str]:
    """What the results are not: what was known before, now with its number, and where memory ran out."""
    error = _halo_error(record)
    number = f"; twice the halo changed a pixel by {error['halo_error']:.1e} at most" if error else ""
    return [*(f"{text}{number}" for text in known), *record.fallbacks]


def _range_of(record: Record) -> list[Any]:
    limits = [list(pair) for pair in record.limits or ()]
    same: list[Any] = limits[0] if all(pair == limits[0] for pair in limits) else limits
    return same
