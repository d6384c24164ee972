"""Scores on fixed pairs of held-out pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_dmgn import metrics
from napari_dmgn.data import PicturePool
from napari_dmgn.model.network import DMGN
from napari_dmgn.synthesis.rain import HeavyRain, LightRain
from napari_dmgn.training.run import Run

__all__ = ["validate"]

# Not the run's seed: runs with different seeds are compared on the same pairs.
SEED = 0


@torch.inference_mode()
def validate(network: DMGN, pool: PicturePool, run: Run) -> dict[str, float]:
    """Score the network on fixed pairs: mean PSNR in dB (`rain-y`) before and after, by part."""
    clean = pool.centres(run.config.validation_crop)
    scores = {}
    for part, degrade in (("light", LightRain()), ("heavy", HeavyRain())):
        pairs = degrade(clean, torch.Generator().manual_seed(SEED))
        restored = []
        for i in range(0, len(clean), 8):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
                output = network(pairs.input[i : i + 8].to(run.device))
            restored.append(output.background.float().cpu())
        wanted = _bytes(clean)
        for name, images in (("input", pairs.input), ("output", torch.cat(restored))):
            each = [metrics.psnr_y(a, b) for a, b in zip(_bytes(images), wanted, strict=True)]
            scores[f"{part} {name}"] = round(float(np.mean(each)), 3)
    return scores


def _bytes(images: Tensor) -> Any:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
