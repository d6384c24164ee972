"""The layers that a run gives back: where they lie, how they look, and what is known of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.plugin.source import Source

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

OUTPUTS = ("background", "noise", "noise_map", "coarse", "residual")
DEFAULT_OUTPUTS = OUTPUTS[:3]
TITLES = {
    "background": "background",
    "noise": "noise",
    "noise_map": "noise map",
    "coarse": "coarse background",
    "residual": "residual",
}
METADATA_KEY = "napari_dmgn"
MASKS_KEY = "napari_dmgn_masks"

# Noise counts as signed where negative values are more than this share of the whole.
SIGNED_SHARE = 0.02
# Of larger arrays not every row is looked at for limits.
_LOOK_AT_VALUES = 1 << 24
# Of a volume on the disk so many frames are looked at for limits.
_LOOK_AT = 3


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """One image layer to add: the arguments of ``viewer.add_image``."""

    data: Any
    settings: Mapping[str, Any]


def result_layers(
    source: Source,
    arrays: Mapping[str, Any],
    provenance: Mapping[str, Any],
    masks: Mapping[str, NDArray[np.float32]] | None = None,
) -> list[NewLayer]:
    """Describe the layers to add, lowest first, the background on top.

    Pure work on arrays: it runs in the worker's thread.

    Parameters
    ----------
    source : what was restored
    arrays : results by their names in `OUTPUTS`
    provenance : goes into every layer's metadata
    masks : of the cells; the topmost layer's metadata hold them
    """
    result = []
    outputs = [output for output in reversed(OUTPUTS) if output in arrays]
    for output in outputs:
        data, appearance = shown(output, source, arrays[output])
        record = {**provenance, "source_layer": source.name, "output": output}
        metadata: dict[str, Any] = {METADATA_KEY: record}
        if masks and output == outputs[-1]:
            metadata[MASKS_KEY] = dict(masks)
        settings = {
            "name": f"{source.name} {TITLES[output]}",
            **source.placement,
            **appearance,
            "metadata": metadata,
        }
        result.append(NewLayer(data=data, settings=settings))
    return result


def add_layers(viewer: ViewerModel, layers: Collection[NewLayer]) -> list[Layer]:
    """Add the layers on top and leave the selection as it was. Nothing is overwritten: napari numbers names."""
    selection = viewer.layers.selection
    selected, active = set(selection), selection.active
    added = [viewer.add_image(layer.data, **layer.settings) for layer in layers]
    if active is not None and active in viewer.layers:
        selection.active = active
        selection.update(selected)
    return added


def shown(output: str, source: Source, data: Any) -> tuple[Any, dict[str, Any]]:
    """Choose the form in which a result can be seen, and its colours and limits."""
    if output in ("background", "coarse"):
        return data, {"rgb": source.rgb, **source.appearance}
    if output == "noise_map":
        return data, {"rgb": False, "colormap": "magma", "contrast_limits": (0.0, 1.0)}
    values = _sample(data, rows=-3 if output == "noise" and source.rgb else -2)
    if output == "residual":
        limit = max(float(np.abs(values).max(initial=0.0)), 1e-6)
        return data, {"rgb": False, "colormap": "PiYG", "contrast_limits": (-limit, limit)}
    return _noise(data, values, source)


def _noise(noise: Any, values: NDArray[np.float32], source: Source) -> tuple[Any, dict[str, Any]]:
    """Choose a form in which the noise can be seen: float noise of an 8-bit picture is no RGB for napari."""
    total = float(np.abs(values).sum(dtype=np.float64))
    signed = -float(np.minimum(values, 0).sum(dtype=np.float64)) > SIGNED_SHARE * total
    if source.rgb and not signed:
        return _in_type_of(noise, source.dtype), {"rgb": True}
    if source.rgb:
        # An RGB layer would clip what is below zero.
        noise, values = noise.mean(axis=-1), values.mean(axis=-1)
    limit = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    limits, colormap = ((-limit, limit), "PiYG") if signed else ((0.0, limit), "gray")
    return noise, {"rgb": False, "colormap": colormap, "contrast_limits": limits}


def _sample(data: Any, rows: int) -> NDArray[np.float32]:
    """Return values to choose limits by: some frames of what is on the disk, and some rows of what is large.

    Parameters
    ----------
    data : (..., H, W) or (..., H, W, 3)
    rows : the axis of the rows, from the last
    """
    if not isinstance(data, np.ndarray):
        frames = data.shape[0] if data.ndim > 2 else 1
        steps = sorted({0, frames // 2, frames - 1}) if data.ndim > 2 and frames > _LOOK_AT else None
        data = data if steps is None else data[steps]
    step = -(-int(data.size) // _LOOK_AT_VALUES)
    if step > 1:
        data = data[(..., slice(None, None, step), *(slice(None),) * (-rows - 1))]
    data = np.asarray(data)
    return np.where(np.isfinite(data), data, 0).astype(np.float32, copy=False)


def _in_type_of(values: Any, dtype: np.dtype[Any]) -> Any:
    # float32 holds every integer of 16 bits; wider RGB images have no display of their own anyway.
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return values
    finite = np.where(np.isfinite(values), values, 0)
    return np.clip(np.rint(finite), 0, np.iinfo(dtype).max).astype(dtype.newbyteorder("="))
