"""Layers of viewers, told from arrays by what they have: nothing below the plugin imports a viewer."""

from importlib import import_module
from typing import Any

__all__ = ["is_layer", "layers_of_viewers"]

# Attributes of a layer, and of a part of one; no array has them. `data` comes last: that of an array of dates raises.
_LAYER_MARKS = (("affine", "axis_labels", "data"), ("placement", "crop", "data"))


def is_layer(image: object) -> bool:
    """Tell a viewer's layer, or a part of one, from an array by what it has."""
    return any(all(hasattr(image, name) for name in names) for names in _LAYER_MARKS)


def layers_of_viewers() -> Any:
    """Return the module that knows the layers of viewers."""
    return import_module("napari_dmgn.plugin.scripting")
