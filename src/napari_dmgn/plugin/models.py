"""Models in words, for people who choose one."""

from __future__ import annotations

from typing import Any

from napari_dmgn import zoo


def model_label(model: zoo.ModelInfo) -> str:
    """Name a model in a list of choices."""
    return f"{model.name} (shipped)" if model.shipped else model.name


def model_summary(model: zoo.ModelInfo) -> str:
    """Sum a model's card up in a few lines; cards of other origin may lack any field."""
    card: dict[str, Any] = model.card
    version = f", version {card['version']}" if card.get("version") else ""
    lines = [f"Removes {model.task}{version}. {model.parameters / 1e6:.1f} million parameters."]
    for key, title in (("description", ""), ("training_data", "Trained on "), ("not_for", "Not meant for ")):
        if card.get(key):
            lines.append(f"{title}{_text(card[key])}")
    return "\n".join(lines)


def models_problem(*, none: bool) -> str | None:
    """Say that no model is installed, or that files in the models folder cannot be used."""
    broken = zoo.broken_models()
    lines = ["No model is installed."] if none else []
    lines += [f"Cannot be used: {path.name}: {message}" for path, message in broken]
    return "\n".join(lines) or None


def _text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 160 else f"{text[:157]}…"
