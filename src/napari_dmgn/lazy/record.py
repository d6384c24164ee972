"""What an unfinished run has done: a file of lines beside its results, so that a second run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.lazy.pieces import Outcome

if TYPE_CHECKING:
    from napari_dmgn.inference import WindowSums
    from napari_dmgn.lazy.recipe import Limits

__all__ = ["Counts", "Place", "Record", "UnfinishedError"]

Place = tuple[int, int]
"""Batch of frames, and window."""


class UnfinishedError(ValueError):
    """There is an unfinished run of other settings."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of a window: the pixels that were saturated, and that are NaN or infinite; and as in `Outcome`."""

    clipped: int
    nonfinite: int
    fallbacks: tuple[str, ...] = ()
    halo_error: float | None = None


@dataclass(kw_only=True)
class Record:
    """A run's record; every line is on its own, so that the loss of the last one costs a window.

    Attributes
    ----------
    path : the file
    settings : all that the results depend on
    tile : side of a window, which "auto" may choose otherwise another time
    limits : intensities that become 0 and 1, by channel, once they are known
    sums : of the windows of which phase 1 is done
    done : the windows that are written
    moving : whether all is done, and the results are on the way to their places
    """

    path: Path
    settings: dict[str, Any]
    tile: int | None
    limits: list[Limits] | None = None
    sums: dict[Place, Outcome[WindowSums]] = field(default_factory=dict)
    done: dict[Place, Counts] = field(default_factory=dict)
    moving: bool = False

    @classmethod
    def start(cls, path: Path, settings: Mapping[str, Any], tile: int | None) -> Record:
        """Begin a record with all that the results depend on, JSON-ready, and the tile that was chosen."""
        record = cls(path=path, settings=dict(settings), tile=tile)
        record._write({"settings": record.settings, "tile": tile}, mode="w")
        return record

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """Read the record of an unfinished run; None where there is none."""
        if not path.is_file():
            return None
        entries = list(_entries(path.read_text(encoding="utf-8").splitlines()))
        if not entries or "settings" not in entries[0]:
            return None
        first, others = entries[0], entries[1:]
        record = cls(path=path, settings=first["settings"], tile=first["tile"])
        for entry in others:
            record._take(entry)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")  # after a line that was cut off
        return record

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than these.

        Raises
        ------
        UnfinishedError
            It names the first setting that differs.
        """
        wanted = json.loads(json.dumps(settings))
        for name in wanted:
            if self.settings.get(name) != wanted.get(name):
                raise UnfinishedError(
                    f"an unfinished run lies in {str(self.path.parent)!r} whose {name} was "
                    f"{self.settings.get(name)!r}, now {wanted.get(name)!r}; pass --overwrite to start anew"
                )

    def keep_limits(self, limits: list[Limits]) -> None:
        """Write the intensities down."""
        self.limits = limits
        self._write({"limits": limits})

    @property
    def fallbacks(self) -> list[str]:
        """What was done where memory ran out, each once."""
        told = [one.fallbacks for one in self.sums.values()] + [one.fallbacks for one in self.done.values()]
        return list(dict.fromkeys(text for texts in told for text in texts))

    def keep_sums(self, place: Place, sums: Outcome[WindowSums]) -> None:
        """Write a window's sums down."""
        self.sums[place] = sums
        values = vars(sums.value).items()
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values}
        self._write({"sums": plain, "place": place, "fallbacks": sums.fallbacks})

    def keep_done(self, place: Place, counts: Counts) -> None:
        """Write down that a window's results are on the disk."""
        self.done[place] = counts
        self._write({"done": vars(counts), "place": place})

    def keep_moving(self) -> None:
        """Write down that the results are complete."""
        self.moving = True
        self._write({"moving": True})

    def _write(self, entry: Mapping[str, Any], mode: str = "a") -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _take(self, entry: Mapping[str, Any]) -> None:
        from napari_dmgn.inference import WindowSums

        if "limits" in entry:
            self.limits = [(low, high) for low, high in entry["limits"]]
        self.moving = self.moving or "moving" in entry
        if "place" not in entry:
            return
        batch, window = entry["place"]
        if "sums" in entry:
            arrays: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in entry["sums"].items()}
            self.sums[batch, window] = Outcome(value=WindowSums(**arrays), fallbacks=tuple(entry.get("fallbacks", ())))
        else:
            counts = entry["done"]
            self.done[batch, window] = Counts(**counts | {"fallbacks": tuple(counts.get("fallbacks", ()))})


def _entries(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
