"""File > Open Sample > DMGN."""

from __future__ import annotations

from typing import Any

from napari_dmgn import samples


def light_rain() -> list[tuple[Any, ...]]:
    """A cat in light rain."""
    return _photo(samples.rainy_sample("chelsea", strength="light"), "rainy cat")


def heavy_rain() -> list[tuple[Any, ...]]:
    """An astronaut in heavy rain."""
    return _photo(samples.rainy_sample("astronaut", strength="heavy"), "rainy astronaut")


def haze() -> list[tuple[Any, ...]]:
    """A rocket in haze."""
    return _photo(samples.hazy_sample("rocket", strength="medium"), "hazy rocket")


def reflection() -> list[tuple[Any, ...]]:
    """A cup of coffee behind a pane that reflects."""
    return _photo(samples.reflection_sample("coffee", strength="linear"), "coffee behind glass")


def striped_cells() -> list[tuple[Any, ...]]:
    """A stack of cells with a light sheet's shadows; half a micrometre a pixel, planes two apart."""
    sample = samples.striped_cells()
    settings = {
        "name": "striped cells",
        "rgb": False,
        "colormap": "green",
        "scale": (2.0, 0.5, 0.5),
        "units": ("micrometer",) * 3,
        "axis_labels": ("z", "y", "x"),
        "contrast_limits": (0, int(sample.input.max())),
    }
    return [(sample.input, settings, "image")]


def _photo(sample: samples.Sample, name: str) -> list[tuple[Any, ...]]:
    return [(sample.input, {"name": name, "rgb": True}, "image")]
