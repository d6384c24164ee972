"""The validation crop that a training is watched by, as layers: input, base model, current, target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.plugin.results import METADATA_KEY

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

__all__ = ["ExampleLayers", "is_example"]

_GAP = 1.06  # of a crop's side, from one to the next
_PLACES = ((0, 0), (1, 0), (1, 1), (0, 1))  # row and column of input, base, fine-tuned, target


def is_example(layer: Layer) -> bool:
    """Tell whether a layer shows a validation crop: nothing to train on."""
    return bool(layer.metadata.get(METADATA_KEY, {}).get("output") == "validation")


class ExampleLayers:
    """Four small layers, right of everything else: input and target, below them base and fine-tuned.

    Parameters
    ----------
    viewer : ViewerModel
    base : str
        Name of the base model.
    placement : dict
        Pixel size (scale) and units of the pictures, where they are known.
    """

    def __init__(self, viewer: ViewerModel, base: str, placement: dict[str, Any]) -> None:
        self._viewer = viewer
        self._names = ["validation: input", f"validation: {base}", "validation: fine-tuned", "validation: target"]
        self._placement = placement
        self._current: Layer | None = None

    def show(self, path: Path, step: int) -> None:
        """Show what the process has written; a layer that the user has removed stays away."""
        try:
            planes = np.load(path, allow_pickle=False)
        except (OSError, ValueError):  # replaced or removed meanwhile; the next one comes
            return
        if self._current is None:
            self._add(planes)
        elif self._current in self._viewer.layers:
            self._current.data = _plain(planes)[2]
            self._current.name = f"{self._names[2]}, step {step}"

    def _add(self, planes: NDArray[np.uint8]) -> None:
        viewer, scale = self._viewer, np.array(self._placement.get("scale", (1.0, 1.0)))
        selection = viewer.layers.selection
        selected, active = set(selection), selection.active
        start = np.zeros(2)
        if len(viewer.layers):
            low, high = viewer.layers.extent.world[:, -2:]
            start = np.array([low[0], high[1] + (_GAP - 1) * planes.shape[2] * scale[1]])
        step = _GAP * scale * planes.shape[1:3]
        ends = planes[[0, -1]]
        # One contrast for all four, which shows what there is to see in a dim picture.
        limits = (int(ends.min()), max(int(ends.max()), int(ends.min()) + 1))
        for i, (name, image) in enumerate(zip(self._names, _plain(planes), strict=True)):
            translate = start + step * _PLACES[i]
            colour = {"rgb": True} if image.ndim == 3 else {"rgb": False, "contrast_limits": limits}
            settings = {**colour, **self._placement, "metadata": {METADATA_KEY: {"output": "validation"}}}
            layer = viewer.add_image(image, name=name, translate=translate, **settings)
            if i == 2:
                self._current = layer
        if active is not None:
            selection.active = active
            selection.update(selected)
        viewer.reset_view()


def _plain(planes: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the images of (4, H, W, 3), as (H, W) where input and target are gray."""
    ends = planes[[0, -1]]
    if (ends != ends[..., :1]).any():
        return list(planes)
    # The network's three channels differ a little; of a gray picture their mean is the result.
    return [plane.mean(axis=-1).round().astype(np.uint8) for plane in planes]
