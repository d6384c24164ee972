"""What a restoration returns, and what it tells on the way."""

from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_dmgn.api.layers import layers_of_viewers
from napari_dmgn.images import Array

__all__ = ["Events", "Restoration", "RestoreEvent"]


@dataclass(frozen=True)
class Restoration:
    """What the network made of an image.

    Attributes
    ----------
    background : the clean image; shape and, unless asked otherwise, dtype of the input
    noise : the layer that lay over it, as the model estimates it: streaks, haze's veil, the reflection. float32 in
        the input's units of intensity; RGB without alpha, other axes as the input. What was taken out of the input is
        the input less `background`, which is another thing where the layer also dims what lies behind it
    noise_map : float32 in [0, 1], how much noise a pixel holds; the input's axes without colours
    coarse : the first estimate of the background, before refinement; like `background`
    provenance : what it was made with: model and its sha256, versions, device, range, seconds ...
    masks : what each deep-masking cell let pass, by name, if asked for; rows and columns of the cell
    source : of a viewer's layer, where it lay and how it looked
    """

    background: Array
    noise: npt.NDArray[np.float32]
    noise_map: npt.NDArray[np.float32]
    coarse: Array
    provenance: dict[str, Any]
    masks: dict[str, npt.NDArray[np.float32]] | None = None
    source: Any = field(default=None, repr=False, compare=False)

    def add_to(self, viewer: Any, outputs: str | Collection[str] = ("background", "noise", "noise_map")) -> list[Any]:
        """Add the results to a viewer as layers, the background on top, and return them.

        Results of a layer lie where it lay when it was restored.

        Parameters
        ----------
        viewer : the viewer whose layers `restore` takes
        outputs : of background, noise, noise_map, coarse and, where a layer was restored, residual
            The input is not kept: the residual reads the layer's pixels anew.

        Raises
        ------
        ValueError
            If an output is none of these, or the pixels that the residual needs have changed since.
        """
        layers: list[Any] = layers_of_viewers().add_restoration(self, self.source, viewer, outputs)
        return layers


@dataclass(frozen=True, kw_only=True)
class RestoreEvent:
    """Progress after one step of one frame; the last event carries the restoration.

    Attributes
    ----------
    done, total : steps over all frames; a window is a step in each of the network's phases, and so is a strip that is
        carried back from a smaller image
    frame, frames : the frame at work, counted from 0, and how many there are
    restoration : the result, in the last event only
    """

    done: int
    total: int
    frame: int
    frames: int
    restoration: Restoration | None = None


Events = Generator[RestoreEvent, None, None]
