"""Scores on fixed pairs of held-out pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_dmgn import metrics
from napari_dmgn.data import Held, PicturePool, noise_of_pair
from napari_dmgn.model.network import DMGN
from napari_dmgn.synthesis import mixtures
from napari_dmgn.synthesis.degradation import Sources, TensorPair
from napari_dmgn.training.run import Run

__all__ = ["mean_score", "validate", "validation_pairs"]

# Not the run's seed: runs with different seeds are compared on the same pairs.
SEED = 0


@torch.inference_mode()
def validate(network: DMGN, held: Held, run: Run, depth: PicturePool | None = None) -> dict[str, float]:
    """Score the network on fixed pairs: mean PSNR in dB of the task's protocol, before and after, by part.

    Parameters
    ----------
    network : DMGN
    held : Held
    run : Run
        For its settings, device and precision.
    depth : PicturePool or None
        Depth maps for degradations that want one.
    """
    protocol = metrics.PROTOCOL_OF_TASK[run.config.task]
    scores = {}
    for part, pair in validation_pairs(held, run, depth):
        restored = []
        for i in range(0, len(pair.input), 8):
            with run.autocast():
                output = network(pair.input[i : i + 8].to(run.device))
            restored.append(output.background.float().cpu())
        wanted = _bytes(pair.background)
        for name, images in (("input", pair.input), ("output", torch.cat(restored))):
            each = [_psnr(a, b, protocol) for a, b in zip(_bytes(images), wanted, strict=True)]
            scores[f"{part} {name}"] = round(float(np.mean(each)), 3)
    return scores


def _psnr(image: Any, wanted: Any, protocol: str) -> float:
    # Infinite for equal images, which no mean survives; at 8 bits an error of one level in one
    # pixel of a thousand is 78 dB.
    return min(100.0, float(metrics.psnr(image, wanted, protocol)))


def validation_pairs(held: Held, run: Run, depth: PicturePool | None = None) -> Iterator[tuple[str, TensorPair]]:
    """Yield the name and the pairs of each part that is scored; the same at every call."""
    size = run.config.validation_crop
    if held.clean is not None:
        clean = held.clean.centres(size)[:, 0]
        # The next picture, upside down: also where there is but one it is another.
        extra = Sources(layer=clean.roll(1, 0).flip(2), depth=_depth(depth, len(clean), size, run.config.keeps_upright))
        used = run.config.degradation
        for part, degrade in mixtures.validation_parts(run.config.kind).items():
            if used and not used.get(part):
                continue  # what is not trained on says nothing about the training
            yield part, degrade(clean, torch.Generator().manual_seed(SEED), extra)
    if held.pairs is not None:
        image, background = held.pairs.centres(size).unbind(1)
        noise = noise_of_pair(image, background, run.config.task)
        yield "pairs", TensorPair(input=image, background=background, noise=noise, parameters={})


def _depth(pool: PicturePool | None, count: int, size: int, upright: bool) -> Tensor | None:
    if pool is None:
        return None
    return pool.crops(count, size, torch.Generator().manual_seed(SEED), upright=upright)[:, 0, :1].cpu()


def mean_score(scores: dict[str, float]) -> float:
    """Return the mean over the parts of what the network made of them; what "best" means."""
    return round(float(np.mean([value for name, value in scores.items() if name.endswith(" output")])), 4)


def _bytes(images: Tensor) -> Any:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
