"""The windows of an image on the disk, on the workers of a Dask cluster that share the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn.files import Block, fill
from napari_dmgn.lazy.extremes import Extremes, needs_extremes, volume_limits
from napari_dmgn.lazy.recipe import engine_here
from napari_dmgn.lazy.record import Counts, Place, Record

if TYPE_CHECKING:
    from napari_dmgn.inference import Gains, WindowSums
    from napari_dmgn.lazy.pieces import Outcome
    from napari_dmgn.lazy.recipe import Limits
    from napari_dmgn.lazy.stores import StoreJob

__all__ = ["Cluster"]

_LOG = logging.getLogger(__name__)


class Cluster:
    """A connection to a Dask scheduler; a context manager.

    Parameters
    ----------
    address : of the scheduler, such as ``tcp://10.0.0.1:8786``

    Raises
    ------
    ModuleNotFoundError
        If the package distributed is missing.
    OSError
        If no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            message = "a cluster needs the package distributed: pip install 'napari-dmgn[large]'"
            raise ModuleNotFoundError(message, name=error.name) from None
        self._client = distributed.Client(address, set_as_default=False)
        self._as_completed = distributed.as_completed

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def engine(self, device: str, precision: str) -> dict[str, str]:
        """Return what "auto" means to the workers, all that it means where they differ."""
        found = list(self._client.run(engine_here, device, precision).values())
        if not found:  # no worker has come yet: wait for one
            found = [self._submit(engine_here, device, precision).result()]
        return {name: ", ".join(sorted({one[name] for one in found})) for name in found[0]}

    def run(self, job: StoreJob, record: Record) -> Iterator[Place]:
        """Do every window that is not on record, all frames at once; yield each step when it is done."""
        shared = self._submit(_same, job)  # sent to a worker once, not with every window
        limits = self._limits(job, shared, record)
        steps: dict[Any, Place] = {}
        sums: dict[Any, Place] = {}
        for places in job.batches():
            missing = [place for place in places if place not in record.done]
            gains = None
            if missing and len(places) > 1:
                parts = {
                    place: self._submit(_sums, shared, *place, limits) for place in places if place not in record.sums
                }
                sums |= {future: place for place, future in parts.items()}
                gains = self._submit(_gains, shared, [parts.get(place) or record.sums[place] for place in places])
            steps |= {self._submit(_restore, shared, *place, limits, gains): place for place in missing}
        told = set(record.fallbacks)
        for future in self._finished([*sums, *steps]):
            outcome = future.result()
            for text in set(outcome.fallbacks) - told:  # the workers' own logs are elsewhere
                _LOG.warning("%s (on a worker)", text)
                told.add(text)
            if future in sums:
                record.keep_sums(sums[future], outcome)
                yield sums[future]
            else:
                record.keep_done(steps[future], outcome)
                yield steps[future]

    def fill(self, path: Path, level: list[Block]) -> None:
        """Make the blocks of a coarser level."""
        for future in self._finished([self._submit(fill, path, block) for block in level]):
            future.result()

    def _submit(self, function: Any, *arguments: Any) -> Any:
        # Not pure: a result of an earlier run would be taken for this one's, and nothing written.
        return self._client.submit(function, *arguments, pure=False)

    def _finished(self, futures: list[Any]) -> Iterator[Any]:
        try:
            # Named, since a client that is not the default one is not looked for.
            yield from self._as_completed(futures, loop=self._client.loop)
        finally:  # also where one failed, or nobody wants the rest
            self._client.cancel([future for future in futures if not future.done()])

    def _limits(self, job: StoreJob, shared: Any, record: Record) -> list[Limits]:
        if record.limits is None:
            volume = job.volume
            found: list[Extremes] = []
            if needs_extremes(volume.wanted_range, volume.dtype):
                places = [place for places in job.batches() for place in places]
                futures = [self._submit(_extremes, shared, *place) for place in places]
                found = [one for future in self._finished(futures) for one in future.result()]
            record.keep_limits(
                volume_limits(found, layout=volume.layout, dtype=volume.dtype, wanted=volume.wanted_range)
            )
        assert record.limits is not None
        return record.limits


# What the workers run.


def _same(job: StoreJob) -> StoreJob:
    return job


def _extremes(job: StoreJob, batch: int, window: int) -> list[Extremes]:
    return job.extremes(batch, window)


def _sums(job: StoreJob, batch: int, window: int, limits: list[Limits]) -> Outcome[WindowSums]:
    return job.sums(batch, window, job.read(batch, window), limits)


def _gains(job: StoreJob, sums: list[Outcome[WindowSums]]) -> Gains:
    return job.volume.recipe.gains(sums)


def _restore(job: StoreJob, batch: int, window: int, limits: list[Limits], gains: Gains | None) -> Counts:
    results = job.restore(batch, window, job.read_again(batch, window), limits, gains)
    return job.write(batch, window, results)
