"""The model card that a finished run writes into its model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import napari_dmgn
from napari_dmgn.data import PicturePool
from napari_dmgn.training.run import Run

__all__ = ["model_card"]


def model_card(run: Run, training: PicturePool, validation: PicturePool, scores: Mapping[str, float]) -> dict[str, Any]:
    """Describe a run's model, as JSON-ready values.

    Parameters
    ----------
    run : Run
    training, validation : PicturePool
    scores : mapping
        Of the last validation.
    """
    config = run.config
    return {
        "name": config.name,
        "task": config.task,
        "version": napari_dmgn.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input_range": [0, 1],
        "training": {
            "pictures": len(training),
            "data_sha256": training.digest,
            "steps": run.step,
            "seconds": round(run.seconds),
            "hardware": f"{_hardware(run.device)}, {run.precision}",
            "torch": str(torch.__version__),
            # Where the data lay and where the run went is nobody's business but the trainer's.
            "settings": {k: v for k, v in config.to_dict().items() if k not in ("data", "run", "card")},
        },
        "scores": {
            "protocol": f"rain-y PSNR in dB, mean of {len(validation)} held-out pictures, "
            f"central {config.validation_crop} px, synthetic rain",
            **scores,
        },
        **config.card,
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = "CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    return f"{name}, {os.cpu_count()} cores"
