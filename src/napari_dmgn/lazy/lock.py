"""One run at a time in a folder: a file that is there while one is at work."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from types import TracebackType

__all__ = ["BusyError", "Lock"]


class BusyError(ValueError):
    """Another run is at work in the same folder."""


class Lock:
    """A file with the host and the process that holds it; a context manager.

    A lock whose process is gone, on this host, is taken over. Of a process on another host nothing can be
    known: its lock holds until the file is deleted.

    Parameters
    ----------
    path : of the file; its folder is made

    Raises
    ------
    BusyError
        On entering, if another run holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._make()
        except FileExistsError:
            host, pid = self._holder()
            if host != socket.gethostname() or _alive(pid):
                raise BusyError(
                    f"another run (process {pid or 'unknown'} on {host or 'an unknown host'}) writes these results; "
                    f"wait for it, or delete {str(self.path)!r} if it is no more"
                ) from None
            self._take_over(pid)
        return self

    def _take_over(self, gone: int) -> None:
        """Replace the lock of a process that is gone; of several that try, one does."""
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.rename(aside)
            held = json.loads(aside.read_text(encoding="utf-8"))["pid"]
            if held != gone:  # another one was faster: this is its own
                aside.rename(self.path)
                raise FileExistsError
            aside.unlink()
            self._make()
        except (OSError, ValueError, KeyError, TypeError):
            raise BusyError("another run has just begun to write these results; wait for it") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)

    def _make(self) -> None:
        with self.path.open("x", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)

    def _holder(self) -> tuple[str, int]:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            return str(held["host"]), int(held["pid"])
        except (OSError, ValueError, KeyError, TypeError):  # not written yet
            return "", 0


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # there, a signal of 0 would end the process
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # to query, no more
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
