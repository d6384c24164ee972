"""How torch's work shares a process with napari's GUI, which must go on answering."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["beside_gui", "load_early"]

_EARLY = "napari-dmgn loads torch"


class _QuietCollector:
    """Keep what is there already out of Python's garbage collection, while any user of this is at work.

    A full collection in a process with napari and torch walks through half a million objects, a quarter of a second
    in which no other thread runs Python, and the GUI stands still; the work's own objects are few. The price: what
    was there before and refers to itself in a circle, a removed layer say, is freed when the work is over.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._frozen = False

    def __enter__(self) -> None:
        with self._lock:
            # What someone else has put aside is not ours to bring back.
            if self._users == 0 and gc.get_freeze_count() == 0:
                gc.freeze()
                self._frozen = True
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._frozen:
                gc.unfreeze()
                self._frozen = False


class _SpareCore:
    """Leave a core to the GUI's thread while torch computes, in any number of runs at once.

    Torch's number of threads is the process's: the last run gives back what the first one found.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs = 0
        self._before = 1

    def __enter__(self) -> None:
        _load_library()
        import torch

        with self._lock:
            if self._runs == 0:
                self._before = torch.get_num_threads()
            self._runs += 1
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            if self._before >= cores > 1:
                torch.set_num_threads(cores - 1)

    def __exit__(self, *_: object) -> None:
        import torch

        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                torch.set_num_threads(self._before)


_quiet_collector = _QuietCollector()
_spare_core = _SpareCore()


@contextlib.contextmanager
def beside_gui() -> Iterator[None]:
    """Leave a core and Python's lock to the GUI's thread while torch computes in another; any number at once."""
    with _quiet_collector, _spare_core:
        from napari_dmgn.inference.memory import reused

        with reused():  # from frame to frame, too
            yield


def load_early() -> None:
    """Load torch in a thread of its own, while the user still looks at the widget.

    What torch does in Python's lock holds the GUI up for an eighth of a second: better now than in a run.
    """
    if "torch" not in sys.modules and not any(thread.name == _EARLY for thread in threading.enumerate()):
        # No daemon: the interpreter waits for it, and does not end in the middle of an import.
        threading.Thread(target=_import_torch, name=_EARLY).start()


def _import_torch() -> None:
    with _quiet_collector, contextlib.suppress(ImportError, OSError):  # the run that needs it says why
        _load_library()
        import torch  # noqa: F401


def _load_library() -> None:
    """Load torch's largest library without Python's lock, where that is known to work.

    `import torch` holds the lock for an eighth of a second while the library is loaded, and the GUI with it;
    a foreign function, as dlopen is one, is called without.
    """
    if "torch" in sys.modules or sys.platform != "linux":
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    # In torch's own order, and as torch loads them. Where that fails torch's import says why.
    for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
        dlopen(os.fsencode(Path(spec.origin).parent / "lib" / name), os.RTLD_NOW | mode)
