"""Where the images of a run's results go, and where they are made until then."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_dmgn.files import write_collection
from napari_dmgn.lazy.stores import PARTS

__all__ = ["Destination"]

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

    @property
    def record(self) -> Path:
        """File of what an unfinished run has done."""
        return self.work / _RECORD

    @property
    def lock(self) -> Path:
        """File that is there while a run is at work."""
        return self.work.with_name(f"{self.work.name}.lock")

    @property
    def unfinished(self) -> bool:
        """Whether a run was stopped, also in the middle of moving its results, and can go on."""
        return self.record.is_file()

    def holds_all(self, *, moving: bool) -> bool:
        """Whether no part of an unfinished run is missing; once they are moved, a part may be in its place."""
        return all(
            (self.work / part).is_dir() or (moving and self.collection is None and self.paths[part].is_dir())
            for part in PARTS
        )

    def finish(self) -> None:
        """Move the results to their places, in place of older ones; done again after a stop, it does the rest."""
        for stray in self.work.rglob("*.partial"):  # chunks that were cut off
            stray.unlink()
        if self.collection is not None:
            write_collection(self.work, list(PARTS))
            old = self.collection.with_name(f".{self.collection.name}.old")
            _replace(self.work, self.collection, old)
            shutil.rmtree(old, ignore_errors=True)
            (self.collection / _RECORD).unlink()
            return
        for part in PARTS:
            if (self.work / part).exists():
                _replace(self.work / part, self.paths[part], self.work / f"{part}.old")
        shutil.rmtree(self.work)


def _replace(made: Path, target: Path, old: Path) -> None:
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    made.rename(target)
