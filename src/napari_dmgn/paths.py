"""Paths as users write them."""

from contextlib import suppress
from pathlib import Path

__all__ = ["expanded"]


def expanded(path: str | Path) -> Path:
    """Return a path with a leading ~ or ~user replaced; where there is no such user, the path as it is.

    Nothing lies there, which whoever opens it says better than an error about home directories.
    """
    path = Path(path)
    with suppress(RuntimeError):
        return path.expanduser()
    return path
