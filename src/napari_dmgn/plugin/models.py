"""Models in words, for people who choose one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from napari_dmgn import zoo


def model_label(model: zoo.ModelInfo) -> str:
    """Name a model in a list of choices."""
    return f"{model.name} (shipped)" if model.shipped else model.name


def model_summary(model: zoo.ModelInfo) -> str:
    """Sum a model's card up in a few lines; cards of other origin may lack any field."""
    lines = [f"Removes {model.task}. {_rounded(model.parameters)} parameters."]
    pictures = _mapping(model.card.get("training")).get("pictures")
    if pictures:
        lines[0] += f" Trained on {pictures} pictures."
    if gains := list(_gains(_mapping(model.card.get("scores")))):
        lines.append(f"PSNR on pictures it had not seen: {', '.join(gains)}.")
    if limits := model.card.get("not_trained_for"):
        lines.append(f"Not trained for {_text(limits)}.")
    return "\n".join(lines)


def models_problem(*, none: bool) -> str | None:
    """Say that no model is installed, or that files in the models folder cannot be used."""
    lines = [f"No model is installed. Put a .safetensors file into {zoo.models_folder()}"] if none else []
    for path, message in zoo.broken_models():
        # The name of the file will do; which folder it is in, a tooltip of the list tells.
        text = " ".join(message.split()).replace(str(path), path.name)
        lines.append(f"Left out: {text if path.name in text else f'{path.name}: {text}'}")
    return "\n".join(lines) or None


def _gains(scores: Mapping[str, Any]) -> Iterator[str]:
    for key, after in scores.items():
        part, _, end = key.rpartition(" ")
        before = scores.get(f"{part} input")
        if end == "output" and isinstance(before, int | float) and isinstance(after, int | float):
            yield f"{part} {before:.1f} to {after:.1f} dB"


def _rounded(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 100_000 else f"{math.ceil(count / 1000)} thousand"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).rstrip(".")
    return text if len(text) <= 160 else f"{text[:157]}…"
