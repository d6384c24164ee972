"""What a source of training pictures is, as settings name it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from napari_dmgn.data.matching import check_rule

__all__ = ["SourceSpec"]


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A folder of clean pictures, or two folders of pairs."""

    clean: str | None = None
    """Folder of clean pictures, which the degradation is put on."""
    input: str | None = None
    """Folder of pictures with noise; wants `background`."""
    background: str | None = None
    """Folder of the same pictures without it."""
    match: str = "auto"
    """How pairs are found: auto, name, stem, number, last number, or two patterns of stems such as
    "rain-{} norain-{}"; see `data.matching`."""
    weight: float = 1.0
    """Share of the batches' pictures, relative to other sources."""

    def __post_init__(self) -> None:
        """Check the combination."""
        for name in ("clean", "input", "background"):
            value = getattr(self, name)
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, value := os.fspath(value))
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"source has {name} {value!r}; wanted a folder")
        if (self.clean is None) == (self.input is None) or (self.input is None) != (self.background is None):
            given = sorted(n for n in ("clean", "input", "background") if getattr(self, n) is not None)
            raise ValueError(f"source has {given or 'no folder'}; wanted clean, or input and background")
        check_rule(self.match)
        w = self.weight
        if not isinstance(w, int | float) or isinstance(w, bool) or not 0 < w < math.inf:
            raise ValueError(f"source weight is {w!r}; wanted a number above 0")

    @property
    def label(self) -> str:
        """Folders, for messages."""
        return self.clean or f"{self.input} + {self.background}"

    @classmethod
    def from_dict(cls, values: object) -> SourceSpec:
        """Build from a table of settings; ValueError for an unknown or wrong one."""
        if not isinstance(values, Mapping):
            raise ValueError(f"source is {values!r}; wanted a table of clean, or input and background")
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"unknown source settings {unknown}; known are {known}")
        return cls(**values)
