"""The folder of a run: what it may hold before the training, and whether it can be written."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from napari_dmgn import checkpoint, zoo
from napari_dmgn.training.log import LOG, TABLE
from napari_dmgn.training.run import Run
from napari_dmgn.training.state import STATE, state_bytes

__all__ = ["BEST", "MODEL", "check_folder", "check_space", "check_writable", "clean", "model_step"]

MODEL = "model.safetensors"
BEST = "best.safetensors"


def check_folder(folder: Path, *, resume: bool, overwrite: bool, start: str | None) -> None:
    """Refuse a folder with an earlier run that would be lost or mixed up, or be the start of this one; ValueError."""
    there = [name for name in (STATE, MODEL, BEST) if (folder / name).exists()]
    if there and not (resume or overwrite):
        raise ValueError(f"{folder} holds an earlier run; resume it, or allow to overwrite it")
    if there and not overwrite and STATE not in there:
        raise ValueError(f"{folder} holds {there[0]} but no state to resume; wanted another folder, or overwrite")
    if there and overwrite and not resume and start is not None:
        first = zoo.find_model(start).path.resolve()
        if first.parent == folder.resolve():
            raise ValueError(f"{folder} holds {first.name}, which the run is to start from; wanted another folder")


def check_space(run: Run) -> None:
    """Refuse a disk that has no room for what the run writes; OSError."""
    folder = Path(run.config.run).absolute()
    while not folder.exists():
        folder = folder.parent
    # The new state is complete before the old one goes; two models beside them.
    needed, free = 3 * state_bytes(run), shutil.disk_usage(folder).free
    if free < needed:
        reason = f"{os.strerror(errno.ENOSPC)}: {free / 1e6:.0f} MB free, wanted {needed / 1e6:.0f}"
        raise OSError(errno.ENOSPC, reason, str(folder))


def check_writable(folder: Path) -> None:
    """Make the folder, and a file in it that goes at once; OSError where that fails, hours before it would matter."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        reason = f"{error.strerror}; wanted a folder that the run can be written to"
        raise OSError(error.errno, reason, str(folder)) from error


def clean(folder: Path, *, everything: bool) -> None:
    """Remove parts of files that a killed run left, or every file of a run."""
    for part in folder.glob(f".{'[0-9a-f]' * 32}.part"):  # of a write that was killed
        part.unlink()
    if everything:  # a state left here would be resumed if this run is killed early
        for name in (STATE, LOG, TABLE, BEST, MODEL):
            (folder / name).unlink(missing_ok=True)


def model_step(folder: Path) -> int | None:
    """Return the step that the folder's finished model is of; None where there is none."""
    try:
        return int(checkpoint.read_header(folder / MODEL).card["training"]["steps"])
    except (ValueError, KeyError, TypeError):
        return None
