"""Learning rate, crops, batches and losses' width as functions of the step alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_dmgn.training.settings import TrainConfig

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """What a step does; steps are counted from 0.

    Attributes
    ----------
    config : TrainConfig
    steps : int
        Steps of the whole run: the settings', or those that were fitted to a time.
    """

    config: TrainConfig
    steps: int

    def share_of_rate(self, step: int) -> float:
        """Return the rate of a step as a share of the highest: a linear rise, then a cosine."""
        c = self.config
        share = step / self.steps
        if share < c.warmup:
            return (step + 1) / math.ceil(c.warmup * self.steps)
        cosine = 0.5 + 0.5 * math.cos(math.pi * (share - c.warmup) / (1 - c.warmup))
        return c.final_rate + (1 - c.final_rate) * cosine

    def phase(self, step: int) -> tuple[int, int]:
        """Return crop size and batch size of a step."""
        share = step / self.steps
        return next((crop, batch) for end, crop, batch in self.config.phases if share < end)

    def epsilon(self, step: int) -> float:
        """Return the width of the losses' squares: falls geometrically over the first half."""
        if self.config.recipe == "paper":
            return 0.0
        start, end = self.config.charbonnier
        return float(start * (end / start) ** min(1.0, 2 * step / self.steps))
