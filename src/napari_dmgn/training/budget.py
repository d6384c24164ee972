"""How many steps fit into a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from napari_dmgn.data import Batches
from napari_dmgn.training.run import Run

__all__ = ["fit_steps"]

_PROBES = 2
_SHARE = 0.9  # the rest is for what is not measured: optimiser and average, saved states, a busier machine
_FIRST = 20  # steps at least, or the schedule means nothing


def fit_steps(run: Run, batches: Batches, minutes: float, validate: Callable[[], object]) -> int:
    """Measure steps of each phase and a validation, and return the steps that fill the time.

    The steps tried change nothing of the run. Where several processes train, all get the same number.

    Parameters
    ----------
    run : Run
        Before its first step.
    batches : Batches
    minutes : float
        For everything, these measurements included.
    validate : callable
        Does one validation.
    """
    config = run.config
    began = time.monotonic()
    per_step, start = 0.0, 0.0
    for end, crop, batch in config.phases:
        run.probe(batches, crop, batch)  # kernels are chosen and compiled here
        seconds = sum(run.probe(batches, crop, batch) for _ in range(_PROBES))
        per_step += (end - start) * seconds / _PROBES
        start = end
    clock = time.monotonic()
    validate()
    validation = time.monotonic() - clock
    left = _SHARE * 60 * minutes - (time.monotonic() - began) - validation  # the last step is always validated
    steps = int(left / (per_step + validation / config.validate_every))
    return max(_FIRST, int(run.agreed({"steps": steps})["steps"]))
