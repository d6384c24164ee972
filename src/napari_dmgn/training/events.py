"""What a training tells after each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_dmgn.model.network import DMGN
from napari_dmgn.training.run import Timing

__all__ = ["Comparison", "TrainEvent"]

# Less than this many decibels is no difference that anybody sees, and within the noise of a rerun.
_GAIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A fine-tuned model beside the one that it started from, on the same validation pairs.

    Attributes
    ----------
    base : str
        Name of the model that the run started from.
    before, after : float
        Mean PSNR in dB of both.
    best : float or None
        That of the best model of the run, `best.safetensors`.
    """

    base: str
    before: float
    after: float
    best: float | None = None

    @property
    def better(self) -> bool:
        """Whether fine-tuning gained anything worth having."""
        return self.after - self.before >= _GAIN

    @property
    def best_better(self) -> bool:
        """Whether the best model of the run is the one that gained it."""
        return self.best is not None and self.best - self.before >= _GAIN

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        numbers = f"{self.after:.2f} dB after fine-tuning, {self.before:.2f} dB before"
        if self.better:
            return f"better than {self.base} on the validation pictures: {numbers}"
        if self.best_better:
            return (
                f"the last model is not better than {self.base} on the validation pictures: {numbers}; "
                f"best.safetensors is: {self.best:.2f} dB"
            )
        return f"NOT better than {self.base} on the validation pictures: {numbers}; keep using {self.base}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = {
            "base": self.base,
            "before": self.before,
            "after": self.after,
            "better": self.better,
            "verdict": self.verdict,
        }
        return values if self.best is None else {**values, "best": self.best}


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """What happened in one step.

    Attributes
    ----------
    step, steps : int
        Steps done and wanted.
    loss : float
    terms : dict of str to float
        Each loss before its weight.
    learning_rate, seconds : float
        `seconds` counts the whole run, resumed parts included.
    timing : Timing
        Where the seconds of this step went.
    validation : dict or None
        PSNR in dB by part, where the step was followed by a validation.
    best : Path or None
        Where this validation's was the best score so far: the model that has it.
    model : Path or None
        The finished model, in the last event.
    comparison : Comparison or None
        In the last event of a run that started from a model.
    stopped : str
        Why the run ends before its last step, in the last event.
    network : callable or None
        Where the step was followed by a validation: returns the network that was validated, as long
        as the next event is not asked for.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    seconds: float
    timing: Timing = field(default_factory=Timing)
    validation: dict[str, float] | None = None
    best: Path | None = None
    model: Path | None = None
    comparison: Comparison | None = None
    stopped: str = ""
    network: Callable[[], DMGN] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to tell, as JSON-ready values."""
        values: dict[str, Any] = {k: v for k, v in vars(self).items() if v not in (None, "") and k != "network"}
        values["timing"] = {k: round(v, 5) for k, v in vars(self.timing).items()}
        if self.comparison is not None:
            values["comparison"] = self.comparison.to_dict()
        for name in ("best", "model"):
            if name in values:
                values[name] = str(values[name])
        return values
