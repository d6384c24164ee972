"""File > Open Sample > DMGN."""

from __future__ import annotations

from typing import Any

from napari_dmgn import samples


def light_rain() -> list[tuple[Any, ...]]:
    """A cat in light rain."""
    return _rainy("chelsea", "light", "rainy cat")


def heavy_rain() -> list[tuple[Any, ...]]:
    """An astronaut in heavy rain."""
    return _rainy("astronaut", "heavy", "rainy astronaut")


def _rainy(picture: str, strength: str, name: str) -> list[tuple[Any, ...]]:
    sample = samples.rainy_sample(picture, strength=strength)
    return [(sample.input, {"name": name, "rgb": True}, "image")]
