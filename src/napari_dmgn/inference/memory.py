"""Running out of memory: how to tell, and how to let go of what the failed attempt held."""

from __future__ import annotations

import gc
import traceback

import torch

__all__ = ["is_out_of_memory", "release", "words"]

# What allocators say that raise a plain RuntimeError: torch's on the CPU (Linux and macOS, Windows), MPS.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


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
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
