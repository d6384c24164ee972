"""Models in words, for people who choose one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_dmgn import zoo


def model_label(model: zoo.ModelInfo) -> str:
    """Name a model in a list of choices."""
    return f"{model.name} (shipped)" if model.shipped else model.name


def model_summary(model: zoo.ModelInfo) -> str:
    """Sum a model's card up in a few lines; cards of other origin may lack any field."""
    lines = [f"Removes {_removed(model)}. {_rounded(model.parameters)} parameters."]
    pictures = _mapping(model.card.get("training")).get("pictures")
    if pictures:
        lines[0] += f" Trained on {pictures} pictures."
    if gain := _fine_tuned(model.card):
        lines.append(gain)
    elif gains := list(_gains(_mapping(model.card.get("scores")))):
        lines.append(f"PSNR on pictures it had not seen: {', '.join(gains)}.")
    if limits := model.card.get("not_trained_for"):
        lines.append(f"Not trained for {_text(limits)}.")
    if digest := _sha256(model):
        lines.append(f"sha256 {digest[:12]}…")
    return "\n".join(lines)


def model_card(model: zoo.ModelInfo) -> str:
    """Write out all that a model's file says about it."""
    about = {
        "name": model.name,
        "task": model.task,
        "file": str(model.path),
        "bytes": model.bytes,
        "sha256": _sha256(model) or "the file cannot be read",
        "parameters": model.parameters,
    }
    return "\n".join([*_lines(about), "", "Card", *_lines(model.card), "", "Network", *_lines(model.config)])


def _sha256(model: zoo.ModelInfo) -> str:
    try:
        status = model.path.stat()
        return _digest(model.path, status.st_mtime_ns, status.st_size)
    except OSError:  # removed since the list was read
        return ""


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int, size: int) -> str:
    """Hash a file; lists are read often, so the time and size stand for the content."""
    return zoo.find_model(path).sha256


def _lines(mapping: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    for key, value in mapping.items():
        head = f"{'    ' * indent}{key}:"
        if isinstance(value, Mapping):
            yield head
            yield from _lines(value, indent + 1)
        elif isinstance(value, list | tuple) and any(isinstance(item, str) for item in value):
            yield head
            yield from (f"{'    ' * (indent + 1)}{item}" for item in value)
        else:
            yield f"{head} {value}"


def models_problem(*, none: bool) -> str | None:
    """Say that no model is installed, or that files in the models folder cannot be used."""
    lines = [f"No model is installed. Put a .safetensors file into {zoo.models_folder()}"] if none else []
    for path, message in zoo.broken_models():
        # The name of the file will do; which folder it is in, a tooltip of the list tells.
        text = " ".join(message.split()).replace(str(path), path.name)
        lines.append(f"Left out: {text if path.name in text else f'{path.name}: {text}'}")
    return "\n".join(lines) or None


def _removed(model: zoo.ModelInfo) -> str:
    """What a model takes out: a fine-tuned one has its base's task, and its card says what it learned."""
    text = _text(model.card.get("removes") or model.task)
    return text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"


def _fine_tuned(card: Mapping[str, Any]) -> str:
    """What fine-tuning brought, beside the base model and beside doing nothing; "" where the card does not tell."""
    found = _mapping(card.get("comparison"))
    before, after, untouched = (found.get(key) for key in ("before", "after", "untouched"))
    if not (isinstance(before, int | float) and isinstance(after, int | float)):
        return ""
    base = found.get("base") or card.get("fine_tuned_from") or "another model"
    beside = f" (untouched {untouched:.1f})" if isinstance(untouched, int | float) else ""
    return f"Fine-tuned from {_text(base)}: {before:.1f} to {after:.1f} dB on the validation pictures{beside}."


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


def models_stamp() -> object:
    """What tells that the models folder has changed."""
    try:
        folder = zoo.models_folder()
        return folder, [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))]
    except (ImportError, OSError):
        return None
