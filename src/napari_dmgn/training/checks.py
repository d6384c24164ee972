"""Checks of single settings; each error names the setting, the value seen and the value wanted."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["check", "is_number", "is_whole", "known", "plain", "read_settings", "rows"]


def plain(value: Any) -> Any:
    """Return a setting as a file would have it: NumPy's numbers as Python's, paths as text, also inside of it."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check(name: str, value: object, good: bool, wanted: str) -> None:
    """Raise ValueError unless `good`."""
    if not good:
        raise ValueError(f"{name} is {value!r}; wanted {wanted}")


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def known(values: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    """Raise ValueError unless `values` is a table with these names only."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} settings are {values!r}; wanted a table of names and values")
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"unknown {what} settings {unknown}; known are {sorted(names)}")


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return what a TOML file states; ValueError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read training settings {path}: {error}") from error


def rows(name: str, values: Any) -> tuple[tuple[Any, ...], ...]:
    """Return lists of numbers as tuples; ValueError for anything else."""
    try:
        return tuple(tuple(row) for row in values)
    except TypeError:
        raise ValueError(f"{name} is {values!r}; wanted lists of numbers") from None
