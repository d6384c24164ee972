"""Memory that is used again from piece to piece, and what to do where it runs out."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import traceback
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

__all__ = ["is_out_of_memory", "release", "reused", "words"]

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

# What allocators say that raise a plain RuntimeError: torch's on the CPU (Linux and macOS, Windows), MPS.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


class _Reused:
    def __init__(self) -> None:
        # The collector may end an abandoned run while the same thread is in here.
        self._lock = threading.RLock()
        self._users = 0

    def __enter__(self) -> None:
        libc = _glibc()
        if libc is not None:
            with self._lock:
                self._users += 1
                libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # where glibc's own, which moves, ends
                libc.mallopt(_TRIM_THRESHOLD, 1 << 30)

    def __exit__(self, *_: object) -> None:
        libc = _glibc()
        if libc is not None:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
                    libc.malloc_trim(0)


_reused = _Reused()


def reused() -> AbstractContextManager[None]:
    """Let the C library keep what is freed until the work is over, and then give it back to the system.

    Every piece of an image takes and frees the same maps. Given back in between, their pages come anew and must be
    cleared: a tenth of the time, measured with glibc's own thresholds. These move with what is freed; from here on they
    stay where they would end, at 32 MiB and twice that. With another C library, and where the user has set them
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES), this does nothing.
    """
    return _reused


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _USERS_OWN):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def words(error: BaseException) -> str:
    """Return an error's first line, or its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def release(error: BaseException, device: str) -> None:
    """Free what a failed attempt holds: the frames of its traceback, and torch's cache of the device."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen.__traceback__ = None
        seen = seen.__context__
    frozen = gc.get_freeze_count() > 0  # while a GUI looks on, say: what was there before may be what is let go of now
    if frozen:
        gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
