"""A training process as napari sees it: started, listened to, stopped, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from qtpy.QtCore import QObject, QTimer, Signal

from napari_dmgn.plugin.finetune_request import EVENTS, OUTPUT

__all__ = ["FineTuneJob", "command"]

_EVERY = 100  # ms between two looks at the process


def command(folder: Path, *, check: bool) -> list[str]:
    """Return the command line of a run's process."""
    # -P: the folder that napari was started in is no place to import from.
    line = [sys.executable, "-P", "-m", "napari_dmgn.plugin.finetune_process", str(folder)]
    return [*line, "--check"] if check else line


class FineTuneJob(QObject):
    """One process and what it tells.

    A timer reads the lines that the process adds to a file: no thread waits, and nothing that happens
    to either side blocks the other. The process stops when its standard input ends, as it does with
    napari, by whatever cause.

    Parameters
    ----------
    folder : Path
        Of the run, with its request.
    check : bool
        Look at the data only.
    """

    told = Signal(object)  # a message, dict
    ended = Signal(str)  # what went wrong, or ""

    running: ClassVar[dict[Path, FineTuneJob]] = {}
    """By folder; a job stays here until its process has ended, also when its widget is gone."""

    def __init__(self, folder: Path, *, check: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self.check = check
        self.stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._last: dict[str, Any] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(_EVERY)
        self._timer.timeout.connect(self._look)

    def start(self, *, replay: bool = False) -> None:
        """Start the process.

        Parameters
        ----------
        replay : bool
            Tell first what the run told before, when it goes on.

        Raises
        ------
        OSError
            The process cannot be started.
        """
        events = self.folder / EVENTS
        if replay:
            self._listen(old=True)
        elif events.exists():
            self._read = events.stat().st_size
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NO_WINDOW
        with (self.folder / OUTPUT).open("ab") as output:
            self._process = subprocess.Popen(
                command(self.folder, check=self.check),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                **options,
            )
        FineTuneJob.running[self.folder] = self
        self._timer.start()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return None if self._process is None else self._process.pid

    def go(self) -> None:
        """Let it train although pictures are left out."""
        self._order(b"go\n")

    def stop(self) -> None:
        """Have it stop after the present step, with its state saved."""
        self.stopping = True
        self._order(b"stop\n")

    def abandon(self) -> None:
        """Stop it, and tell nobody any more; it is still waited for."""
        self.blockSignals(True)
        self.stop()

    def _order(self, word: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it has ended already
            self._process.stdin.write(word)
            self._process.stdin.flush()

    def _look(self) -> None:
        assert self._process is not None
        status = self._process.poll()
        self._listen()
        if status is None:
            return
        self._timer.stop()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        FineTuneJob.running.pop(self.folder, None)
        self.ended.emit(self._problem(status))

    def _listen(self, *, old: bool = False) -> None:
        try:
            with (self.folder / EVENTS).open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if not old:
                self._last = message
            if not old or message.get("kind") in ("base", "step"):
                self.told.emit({**message, "old": old})

    def _problem(self, status: int) -> str:
        kind = self._last.get("kind")
        if kind == "error":
            return str(self._last.get("message"))
        if status == 0 and (kind in ("done", "stopped") or self.check):
            return ""
        by = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        words = _last_line(self.folder / OUTPUT)
        said = f" It last said: {words}" if words else ""
        return f"The training process broke off ({by}).{said}"


def _last_line(path: Path) -> str:
    """Return the last line that the process printed, such as an exception's."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""
