"""What became of every file of the training data, for a look before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from napari_dmgn.data.pictures import Picture

__all__ = ["DataReport", "SourceReport"]

_EXAMPLES = 3


@dataclass(kw_only=True)
class SourceReport:
    """What one source gave.

    Attributes
    ----------
    label : str
        Its folders.
    rule : str or None
        How pairs were matched.
    files, pictures : int
        Files (or pairs of files) found, and pictures made of them.
    pairs : list of (str, str)
        Names of input and background.
    sizes, dtypes : dict of str to int
        How many pictures have which.
    excluded : dict of str to list of str
        Files left out, by reason: unreadable, unequal, unmatched, ambiguous, too small, overlap.
    """

    label: str
    rule: str | None = None
    files: int = 0
    pictures: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, list[str]] = field(default_factory=dict)

    def exclude(self, reason: str, name: str) -> None:
        """Note that a file or picture is left out."""
        self.excluded.setdefault(reason, []).append(name)

    def count(self, pictures: Iterable[Picture]) -> None:
        """Count the pictures read."""
        pictures = list(pictures)
        self.pictures = len(pictures)
        self.sizes = dict(Counter(p.size for p in pictures).most_common())
        self.dtypes = dict(Counter(p.dtype for p in pictures).most_common())

    def problems(self) -> list[str]:
        """Return a line for each reason that files are left out for."""
        return [f"{self.label}: {len(names)} {reason}: {_some(names)}" for reason, names in self.excluded.items()]


@dataclass(kw_only=True)
class DataReport:
    """What a training would see.

    Attributes
    ----------
    sources : list of SourceReport
    crop, validation_crop : int
        Sides that training and validation pictures need.
    training, validation : int
        Pictures of each.
    megabytes : float
        Memory that the pictures take.
    """

    sources: list[SourceReport]
    crop: int
    validation_crop: int
    training: int = 0
    validation: int = 0
    megabytes: float = 0.0

    def problems(self) -> list[str]:
        """Return a line for each source and reason that files are left out for."""
        return [line for source in self.sources for line in source.problems()]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = []
        for s in self.sources:
            kind = "pairs" if s.rule else "pictures"
            matched = f", matched by {s.rule}" if s.rule else ""
            lines.append(f"{s.label}: {s.files} files -> {s.pictures} {kind}{matched}")
            lines += [f"  {first} -> {second}" for first, second in s.pairs[:_EXAMPLES]]
            if len(s.pairs) > _EXAMPLES:
                lines.append(f"  ... and {len(s.pairs) - _EXAMPLES} more")
            for what, counts in (("sizes", s.sizes), ("types", s.dtypes)):
                if counts:
                    lines.append(f"  {what}: {_counts(counts)}")
            lines += [f"  left out, {reason} ({len(names)}): {_some(names)}" for reason, names in s.excluded.items()]
        lines.append(
            f"training {self.training} pictures (crops of {self.crop} px), validation {self.validation} "
            f"(central {self.validation_crop} px), {self.megabytes:.1f} MB in memory"
        )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return asdict(self)


def _some(names: list[str]) -> str:
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:6]]
    return ", ".join(shown) + (f" and {len(counts) - 6} other" if len(counts) > 6 else "")
