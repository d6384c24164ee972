"""What is evaluated: models, and any other function that restores a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.model.cost import cost
from napari_dmgn.tiling import downscale_factor

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["Method", "method_of_model"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to restore a picture.

    Attributes
    ----------
    name : what it is called in tables
    task : what it removes; None for one that serves any
    run : takes (H, W, 3) uint8, uint16 or floats in [0, 1] and returns the like
    gmac : takes height and width and returns the cost in 10^9 multiplications with addition
    facts : JSON-ready, for the report: file, checksum, parameters ...
    """

    name: str
    task: str | None
    run: Callable[[Array], Array]
    gmac: Callable[[int, int], float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def method_of_model(
    model: str | Path | Model,
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
) -> Method:
    """Return a model as a method; it is loaded now.

    The arguments are those of `restore`.

    Raises
    ------
    ValueError
        There is no such model or device, or another argument is wrong.
    """
    from napari_dmgn.api import restore
    from napari_dmgn.api.arguments import check_downscale, check_engine, check_ensemble
    from napari_dmgn.devices import resolve_precision
    from napari_dmgn.zoo import shared_model

    loaded = shared_model(model, device=device) if isinstance(model, (str, Path)) else model
    metadata = loaded.metadata
    resolved = check_engine(device, precision, tile, halo)
    asked, mirrored = check_downscale(downscale), check_ensemble(ensemble)

    def run(picture: Array) -> Array:
        # A range that no picture's own extremes move: what is black and white is the same for all.
        scale: Any = "dtype" if picture.dtype.kind == "u" else (0.0, 1.0)
        background = restore(
            picture,
            metadata.task,
            model=loaded,
            rgb=True,
            intensity_range=scale,
            device=device,
            precision=precision,
            tile=tile,
            halo=halo,
            downscale=asked,
            ensemble=mirrored,
        ).background
        return background if background.dtype.kind == "u" else np.clip(background, 0, 1)

    def gmac(height: int, width: int) -> float:
        factor = downscale_factor(asked, metadata.card, (height, width))
        return cost(loaded.config, -(-height // factor), -(-width // factor)).macs / 1e9 * (2 if mirrored else 1)

    return Method(
        name=metadata.name,
        task=metadata.task,
        run=run,
        gmac=gmac,
        facts={
            "file": None if metadata.path is None else metadata.path.name,
            "sha256": metadata.sha256,
            "device": resolved,
            "precision": resolve_precision(precision, resolved),
            "downscale": asked,
            "ensemble": mirrored,
            "parameters": sum(parameter.numel() for parameter in loaded.network.parameters()),
            "gmac_256": round(cost(loaded.config, 256, 256).macs / 1e9, 3),
        },
    )
