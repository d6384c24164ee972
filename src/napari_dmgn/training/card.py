"""The model card that a finished run writes into its model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import napari_dmgn
from napari_dmgn import metrics
from napari_dmgn.data import Collection
from napari_dmgn.training.events import Comparison
from napari_dmgn.training.run import Run
from napari_dmgn.training.settings import TrainConfig

__all__ = ["code_commit", "hardware", "model_card"]


# Where the data lay and where the run went is nobody's business but the trainer's.
_PRIVATE = ("card", "data", "depth", "run", "sources", "validation")


def model_card(
    run: Run, collection: Collection, scores: Mapping[str, float], comparison: Comparison | None = None
) -> dict[str, Any]:
    """Describe a run's model, as JSON-ready values.

    Parameters
    ----------
    run : Run
    collection : Collection
        What it was trained and validated on.
    scores : mapping
        Of the last validation.
    comparison : Comparison or None
        With the model that the run started from.
    """
    config, held = run.config, collection.held
    made = f", synthetic {config.kind}" if held.clean is not None else ""
    card: dict[str, Any] = {
        "name": config.name or config.task,
        "task": config.task,
        "version": napari_dmgn.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input_range": [0, 1],
        "training": {
            "pictures": sum(len(source.pool) for source in collection.sources),
            "validation": len(held),
            "data_sha256": collection.digest,
            "steps": run.step,
            "seconds": round(run.seconds),
            "hardware": f"{hardware(run.device)}, {run.precision}",
            "torch": str(torch.__version__),
            "recipe": _recipe(config),
            "settings": _settings(config),
        },
        "scores": {
            "protocol": f"{metrics.PROTOCOL_OF_TASK[config.task]} PSNR in dB, mean of {len(held)} held-out pictures, "
            f"central {config.validation_crop} px{made}",
            **scores,
        },
    }
    if commit := code_commit(Path(__file__)):
        card["training"]["commit"] = commit
    if run.processes.size > 1:
        card["training"]["processes"] = run.processes.size
    if comparison is not None:
        card["comparison"] = comparison.to_dict()
    return {**card, **config.card}


def code_commit(file: Path) -> str | None:
    """Return the commit of the working copy that a file of ours lies in, "+" behind it if tracked files were changed.

    None where there is no working copy: an installed package lies in somebody else's, or in none.
    """
    top = file.resolve().parents[3]
    if not ((top / ".git").exists() and (top / "src" / "napari_dmgn").is_dir()):
        return None
    texts = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        command = ["git", "-C", str(top), *words]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        texts.append(told.stdout.strip())
    return texts[0] + ("+" if texts[1] else "")


def _recipe(config: TrainConfig) -> dict[str, str]:
    first, second = config.betas
    wide, narrow = config.charbonnier
    weights = asdict(config.loss_weights())
    losses = ", ".join(f"{name} {value:g}" for name, value in weights.items())
    shape = "plain L1" if config.recipe == "paper" else f"Charbonnier {wide:g} to {narrow:g}"
    muon = f"Muon at {config.muon_rate:g} times the rate, and " if config.optimiser == "muon" else ""
    recipe = {
        "optimiser": f"{muon}AdamW, rate {config.learning_rate:g}, warm-up over {config.warmup:.0%} of the steps, "
        f"cosine to {config.final_rate:.0%}, betas {first:g} and {second:g}, weight decay {config.weight_decay:g}",
        "losses": f"{losses}; {shape}",
        "ema": f"{config.ema:g}",
    }
    if weights["adversarial"]:
        norm = "spectral norm" if config.spectral_norm else "instance norm"
        recipe["discriminator"] = (
            f"{config.adversarial}, {norm}, {config.discriminator_width} channels, Adam, "
            f"rate {config.discriminator_rate:g}"
        )
    return recipe


def _settings(config: TrainConfig) -> dict[str, Any]:
    settings = {k: v for k, v in config.to_dict().items() if k not in _PRIVATE}
    for name in ("start", "features"):
        if settings[name] is not None:
            settings[name] = Path(settings[name]).name
    return settings


def hardware(device: torch.device) -> str:
    """Name a device: the GPU, or the processor and its cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = "CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name
    return f"{name}, {os.cpu_count()} cores"
