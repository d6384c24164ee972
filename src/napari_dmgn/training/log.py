"""The run's log: each line as JSON, and the same numbers as a table for spreadsheets."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

from napari_dmgn.training.events import TrainEvent

__all__ = ["LOG", "TABLE", "Log"]

LOG = "log.jsonl"
TABLE = "log.csv"
_EVERY = 20  # steps

_logger = logging.getLogger(__name__)


class Log:
    """Writes every twentieth event, and those with a validation.

    Parameters
    ----------
    folder : Path
    step : int
        Step that the run goes on from; lines of later steps, of a run that was killed, are removed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._folder = folder
        self._step = step
        self._opened = False
        self._columns: list[str] = []

    def __call__(self, event: TrainEvent) -> None:
        """Write an event, if it is one to write; a full disk costs the line, not the run."""
        if event.step % _EVERY and event.validation is None:
            return
        try:
            if not self._opened:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._cut()
                self._opened = True
            with (self._folder / LOG).open("a", encoding="utf-8") as file:
                values = {k: v for k, v in event.to_dict().items() if k not in ("best", "model")}
                file.write(json.dumps(values) + "\n")
            self._add_row(event)
        except OSError as error:
            _logger.warning("step %d is not in the log: %s", event.step, error)

    def _cut(self) -> None:
        log, table = self._folder / LOG, self._folder / TABLE
        if log.exists():
            kept = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line) <= self._step]
            log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            self._columns = rows[0] if rows else []
            full = [row for row in rows[1:] if len(row) == len(self._columns) and row[0].isdigit()]
            with table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([self._columns, *(row for row in full if int(row[0]) <= self._step)])

    def _add_row(self, event: TrainEvent) -> None:
        row = _row(event)
        table = self._folder / TABLE
        if not set(row) <= set(self._columns):  # the first validation brings new columns
            self._widen(table, row)
        with table.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _widen(self, table: Path, row: dict[str, Any]) -> None:
        rows: list[dict[str, str]] = []
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self._columns += [name for name in row if name not in self._columns]
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that was cut off
        return float("inf")


def _row(event: TrainEvent) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": event.step,
        "loss": event.loss,
        "learning rate": event.learning_rate,
        "seconds": round(event.seconds, 2),
    }
    row |= {f"seconds {name}": round(value, 4) for name, value in vars(event.timing).items()}
    row |= {f"loss {name}": value for name, value in event.terms.items()}
    row |= {f"dB {name}": value for name, value in (event.validation or {}).items()}
    return row
