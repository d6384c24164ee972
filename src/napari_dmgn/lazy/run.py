"""A whole image on the disk, window by window, here or on a cluster; what is done is not done again."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from napari_dmgn.api import RestoreEvent
from napari_dmgn.files import Block, blocks, write_collection
from napari_dmgn.lazy.record import Place, Record, UnfinishedError
from napari_dmgn.lazy.stores import PARTS, Input, StoreJob
from napari_dmgn.lazy.volume import describe

__all__ = ["Destination", "StoreRun", "Workers"]

_RECORD = ".napari-dmgn.jsonl"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the three images of the results go.

    Attributes
    ----------
    paths : the final folder of each part
    work : the folder that they are made in
    collection : the folder that holds all parts and becomes an image itself, or None
    """

    paths: Mapping[str, Path]
    work: Path
    collection: Path | None

    @classmethod
    def of(cls, output: Path, paths: Mapping[str, Path], name: str) -> Destination:
        """Results in a folder of their own (`output` ends in .zarr), or beside each other in `output`."""
        if output.suffix.lower() == ".zarr":
            return cls(paths=paths, work=output.with_name(f".{output.name}.part"), collection=output)
        folder = paths["background"].parent
        return cls(paths=paths, work=folder / f".{name}.part", collection=None)

    def finish(self) -> None:
        """Move the results to their places, in place of older ones."""
        for stray in self.work.rglob("*.partial"):  # chunks that were cut off
            stray.unlink()
        if self.collection is not None:
            write_collection(self.work, list(PARTS))
            _replace(self.work, self.collection)
            (self.collection / _RECORD).unlink()
            return
        for part in PARTS:
            _replace(self.work / part, self.paths[part])
        shutil.rmtree(self.work)


def _replace(made: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


class Workers(Protocol):
    """Who does the windows: this process or a cluster."""

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
    overwrite : replace an unfinished run of other settings
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
        array = image.open().array
        volume = describe(array.shape, array.dtype, task, regular=True, **settings)
        self.destination = destination
        self.settings = {
            **image.identity(),
            **{name: volume.provenance[name] for name in ("version", "task", "sha256", "axes", "intensity_range")},
            **{name: settings[name] for name in ("device", "precision", "tile", "halo")},
            "type of the results": volume.recipe.dtype.str,
        }
        self.record = Record.load(destination.work / _RECORD)
        if self.record is not None:
            try:
                self.record.check(self.settings)
            except UnfinishedError:
                if not overwrite and (self.record.sums or self.record.done):
                    raise
                self.record = None
            else:  # "auto" may mean another size today
                tile = self.record.tile
                volume = describe(array.shape, array.dtype, task, regular=True, **settings | {"tile": tile})
        volume.warn()
        self.provenance = volume.provenance
        self.job = StoreJob(image=image, folder=str(destination.work.absolute()), volume=volume)

    def steps(self, workers: Workers) -> Generator[RestoreEvent, None, None]:
        """Do what is left to do."""
        started = time.perf_counter()
        record = self._begin() if self.record is None else self.record
        before = len(record.done)
        phases = 1 if len(self.job.volume.windows) == 1 else 2
        frames = self.job.volume.layout.frames
        batches = self.job.volume.batches
        total = phases * len(batches) * len(self.job.volume.windows)
        done = phases * before + sum(place not in record.done for place in record.sums)
        for batch, _ in workers.run(self.job, record):
            done += 1
            yield RestoreEvent(done=done, total=total, frame=batches[batch][0], frames=frames)
        for part in PARTS:
            path = Path(self.job.folder, part)
            for level in blocks(path):
                workers.fill(path, level)
        self.destination.finish()
        limits = [list(pair) for pair in record.limits or ()]
        self.provenance |= {
            "intensity_range": limits[0] if all(pair == limits[0] for pair in limits) else limits,
            "windows_done_before": before,
            "clipped_pixels": sum(counts.clipped for counts in record.done.values()),
            "nonfinite_pixels": sum(counts.nonfinite for counts in record.done.values()),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _begin(self) -> Record:
        work = self.destination.work
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        self.job.create()
        return Record.start(work / _RECORD, self.settings, self.job.volume.recipe.tile)
