"""Synthesis of superimposed images: batched torch on any device, randomness as an argument.

`synthesize` is the same for one array; torch is loaded when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pair", "synthesize"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A superimposed image and its layers, as arrays like the clean image.

    Attributes
    ----------
    input, background, noise : (H, W, 3) or (H, W) arrays
        In the clean image's dtype.
    parameters : dict
        What was drawn, JSON-ready.
    """

    input: NDArray[Any]
    background: NDArray[Any]
    noise: NDArray[Any]
    parameters: dict[str, Any]


def synthesize(clean: NDArray[Any], task: str = "rain", *, seed: int = 0, strength: str = "mixed") -> Pair:
    """Superimpose noise on a clean image.

    Parameters
    ----------
    clean : (H, W, 3) or (H, W) array
        Unsigned integers over their dtype's range, or floats in [0, 1].
    task : str
        "rain"; other tasks have no synthesis yet.
    seed : int
        The same seed gives the same pair.
    strength : str
        "light", "heavy", or "mixed" (one of both, drawn).

    Returns
    -------
    Pair

    Raises
    ------
    ValueError
        Another task, strength, shape or dtype, an empty image, or floats outside [0, 1].
    """
    import torch

    from napari_dmgn.synthesis.degradation import Degradation
    from napari_dmgn.synthesis.rain import HeavyRain, LightRain, rain_mixture

    makers: dict[str, Degradation] = {"light": LightRain(), "heavy": HeavyRain(), "mixed": rain_mixture(none=0)}
    if task != "rain":
        raise ValueError(f"no synthesis for task {task!r} yet; wanted 'rain'")
    if strength not in makers:
        raise ValueError(f"unknown strength {strength!r}; wanted one of {', '.join(makers)}")
    unit = _unit_range(clean)
    planes = unit if clean.ndim == 3 else np.repeat(unit[..., None], 3, axis=2)
    batch = torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))[None]
    generator = torch.Generator().manual_seed(seed)
    pair = makers[strength](batch, generator)

    def array(image: torch.Tensor) -> NDArray[Any]:
        pixels = image[0].permute(1, 2, 0).numpy()
        pixels = pixels if clean.ndim == 3 else pixels.mean(axis=2)
        if clean.dtype.kind == "f":
            return np.asarray(pixels.astype(clean.dtype))
        top = np.iinfo(clean.dtype).max
        return np.asarray(np.rint(pixels.astype(np.float64) * top).astype(clean.dtype))

    drawn = {name: value[0].tolist() for name, value in pair.parameters.items()}
    return Pair(
        input=array(pair.input),
        background=clean.copy(),
        noise=array(pair.noise),
        parameters={"task": task, "strength": strength, "seed": seed, **drawn},
    )


def _unit_range(clean: NDArray[Any]) -> NDArray[np.float32]:
    if clean.ndim not in (2, 3) or (clean.ndim == 3 and clean.shape[2] != 3) or clean.size == 0:
        raise ValueError(f"clean image has shape {clean.shape}; wanted (H, W, 3) or (H, W)")
    if clean.dtype.kind == "u":
        return np.asarray(clean / np.float32(np.iinfo(clean.dtype).max), np.float32)
    if clean.dtype.kind != "f":
        raise ValueError(f"clean image is {clean.dtype}; wanted unsigned integers or floats")
    if not (clean.min() >= 0 and clean.max() <= 1):
        raise ValueError(f"clean image spans {clean.min()} to {clean.max()}; wanted [0, 1]")
    return clean.astype(np.float32)
