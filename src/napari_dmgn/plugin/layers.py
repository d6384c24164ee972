"""What a run takes from an image layer, and the layers that it gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from napari.components import ViewerModel
    from numpy.typing import NDArray

    from napari_dmgn.api import Restoration

OUTPUTS = ("background", "noise", "noise_map")
TITLES = {"background": "background", "noise": "noise", "noise_map": "noise map"}
METADATA_KEY = "napari_dmgn"

# Noise counts as signed where negative values are more than this share of the whole.
SIGNED_SHARE = 0.02
# From here on the user is told what a run will need; below it nobody asks.
LARGE_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that a run needs from its layer, which may change or vanish meanwhile."""

    name: str
    data: Any
    rgb: bool
    placement: Mapping[str, Any]
    appearance: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of the pixels in memory, read or not."""
        return int(math.prod(self.data.shape) * np.dtype(self.data.dtype).itemsize)


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """One image layer to add: the arguments of ``viewer.add_image``."""

    data: NDArray[Any]
    settings: Mapping[str, Any]


def why_not(layer: Layer | None) -> str | None:
    """Say why a layer cannot be restored; None where it can."""
    if layer is None:
        return "No image layer is selected. Open an image, or one of File > Open Sample > DMGN."
    if isinstance(layer, Labels) or not isinstance(layer, Image):
        # __class__, not type(): napari hands its objects to plugins behind a proxy.
        return f"'{layer.name}' is a {layer.__class__.__name__} layer. Select an image layer."
    return None


def capture(layer: Image) -> Source:
    """Copy from an image layer what a run needs; of a multiscale layer the full resolution."""
    data = layer.data[0] if layer.multiscale else layer.data
    rgb = bool(layer.rgb)
    appearance: dict[str, Any] = {}
    if not rgb:
        appearance = {
            "colormap": layer.colormap.name,
            "contrast_limits": tuple(float(limit) for limit in layer.contrast_limits),
            "gamma": float(layer.gamma),
        }
    return Source(name=str(layer.name), data=data, rgb=rgb, placement=placement(layer), appearance=appearance)


def placement(layer: Layer) -> dict[str, Any]:
    """Copy the seven fields that say where a layer lies."""
    return {
        "scale": np.array(layer.scale),
        "translate": np.array(layer.translate),
        "rotate": np.array(layer.rotate),
        "shear": np.array(layer.shear),
        "affine": np.array(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }


def size_warning(source: Source) -> str | None:
    """Say what a large layer will need; None for a layer of everyday size."""
    # The input, its background, and the noise and map in float32.
    pixels = math.prod(source.data.shape)
    needed = 2 * source.nbytes + 4 * pixels + 4 * pixels // (3 if source.rgb else 1)
    if needed < LARGE_BYTES:
        return None
    read = "" if isinstance(source.data, np.ndarray) else " It is read into memory as a whole."
    return f"'{source.name}' and its results need about {needed / 2**30:.1f} GiB of memory.{read}"


def result_layers(source: Source, restoration: Restoration, outputs: Collection[str]) -> list[NewLayer]:
    """Describe the layers to add, lowest first: noise map, noise, background on top.

    Pure work on arrays: it runs in the worker's thread.
    """
    result = []
    for output in reversed(OUTPUTS):
        if output not in outputs:
            continue
        data, appearance = _shown(output, source, restoration)
        record = {**restoration.provenance, "source_layer": source.name, "output": output}
        settings = {
            "name": f"{source.name} {TITLES[output]}",
            **source.placement,
            **appearance,
            "metadata": {METADATA_KEY: record},
        }
        result.append(NewLayer(data=data, settings=settings))
    return result


def add_layers(viewer: ViewerModel, layers: Collection[NewLayer]) -> list[Layer]:
    """Add the layers on top and leave the selection as it was. Nothing is overwritten: napari numbers names."""
    selection = viewer.layers.selection
    selected, active = set(selection), selection.active
    added = [viewer.add_image(layer.data, **layer.settings) for layer in layers]
    if active is not None:
        selection.active = active
        selection.update(selected)
    return added


def _shown(output: str, source: Source, restoration: Restoration) -> tuple[NDArray[Any], dict[str, Any]]:
    if output == "background":
        return restoration.background, {"rgb": source.rgb, **source.appearance}
    if output == "noise":
        return _noise(restoration.noise, source)
    return restoration.noise_map, {"rgb": False, "colormap": "magma", "contrast_limits": (0.0, 1.0)}


def _noise(noise: NDArray[Any], source: Source) -> tuple[NDArray[Any], dict[str, Any]]:
    """Choose a form in which the noise can be seen: float noise of an 8-bit picture is no RGB for napari."""
    values = np.where(np.isfinite(noise), noise, 0).astype(np.float32, copy=False)
    total = float(np.abs(values).sum(dtype=np.float64))
    signed = -float(np.minimum(values, 0).sum(dtype=np.float64)) > SIGNED_SHARE * total
    if source.rgb and not signed:
        return _in_type_of(values, np.dtype(source.data.dtype)), {"rgb": True}
    if source.rgb:
        # An RGB layer would clip what is below zero.
        noise, values = noise.mean(axis=-1), values.mean(axis=-1)
    limit = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    limits, colormap = ((-limit, limit), "PiYG") if signed else ((0.0, limit), "gray")
    return noise, {"rgb": False, "colormap": colormap, "contrast_limits": limits}


def _in_type_of(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    # float32 holds every integer of 16 bits; wider RGB images have no display of their own anyway.
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return values
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype.newbyteorder("="))
