"""Whether there is memory for an image, asked before it is read."""

import contextlib
import os
from pathlib import Path

__all__ = ["NoRoomError", "check_room"]

_MEMORY = Path("/proc/meminfo")


class NoRoomError(MemoryError, ValueError):
    """An image that the free memory does not hold.

    Both: memory is what lacks, and the file, whole or not, is the wrong one to give to this machine.
    """


def check_room(path: Path, shape: tuple[int, ...], wanted: int) -> None:
    """Refuse a file whose header claims more than the free memory holds.

    Systems promise memory that they do not have and end the process that takes it, which leaves
    nobody to say why.

    Parameters
    ----------
    path : for the message
    shape : of the image
    wanted : bytes that reading takes at its peak

    Raises
    ------
    NoRoomError
    """
    free = _free_memory()
    if free is not None and wanted > free:
        sides = " x ".join(map(str, shape))
        raise NoRoomError(
            f"cannot read {str(path)!r}: {sides} values take {_gibibytes(wanted)} of memory "
            f"to read, {_gibibytes(free)} are free"
        )


def _free_memory() -> int | None:
    """Bytes that the system can still give, or all that it has where it tells no more, or None."""
    with contextlib.suppress(OSError):
        for line in _MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
