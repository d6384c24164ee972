"""Synthesis of superimposed images: batched torch on any device, randomness as an argument.

`synthesize` is the same for one array; torch is loaded when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.synthesis.photographs import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KINDS", "Pair", "synthesize"]

KINDS = ("rain", "haze", "reflection", "stripes", "veil", "background")
"""What can be superimposed: the tasks, and the kinds of noise of microscopes."""

# Maps among the parameters are told by their mean and range.
_MOST_NUMBERS = 64


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


def synthesize(
    clean: NDArray[Any],
    task: str = "rain",
    *,
    seed: int = 0,
    strength: str = "mixed",
    layer: NDArray[Any] | None = None,
) -> Pair:
    """Superimpose noise on a clean image.

    Parameters
    ----------
    clean : (H, W, 3) or (H, W) array
        Unsigned integers over their dtype's range, or floats in [0, 1].
    task : str
        One of `KINDS`: "rain", "haze", "reflection"; "stripes", "veil" (of light from other planes) or
        "background" (uneven), as microscopes have them.
    seed : int
        The same seed gives the same pair; from -2**63 up to 2**64.
    strength : str
        The name of one of the task's parts, such as "light" or "heavy" for rain, or "mixed" (a part is
        drawn; never "none").
    layer : (H, W, 3) or (H, W) array, optional
        For a reflection the picture that is reflected, for a veil the other plane of the specimen; of any
        size and of the dtypes of `clean`: it is scaled to cover the clean image, and cut. Without it,
        one of scikit-image's photographs, mirrored, is reflected (drawn by the seed, and another one
        than the clean image), and the clean image itself, upside down, is the other plane.

    Returns
    -------
    Pair
        ``parameters["part"]`` is the part that was drawn, ``parameters["layer"]`` the photograph if one
        of scikit-image's was taken.

    Raises
    ------
    ValueError
        Another task, seed, strength, shape or dtype, an empty image, floats outside [0, 1], or a layer for a
        task that has no use for it.
    """
    import torch

    from napari_dmgn.synthesis.degradation import Sources
    from napari_dmgn.synthesis.mixtures import DEFAULT_WEIGHTS, TASK_PARTS, mixture, validation_parts

    seed = _whole(seed)
    names = [*validation_parts(task), "none", "mixed"]
    if strength not in names:
        raise ValueError(f"unknown strength {strength!r}; wanted one of {', '.join(names)}")
    # Before anything is drawn: a wrong image is refused whatever the seed.
    batch = _tensor(clean, "clean image")
    every = mixture(task, {**DEFAULT_WEIGHTS[task], "none": 0})
    if layer is not None and not every.wants_layer:
        raise ValueError(f"a layer was given, which {task} has no use for; wanted it for reflection or veil only")
    reflected: dict[str, str] = {}
    if layer is None and task == "reflection":
        name = _photograph_for(clean, seed)
        layer, reflected = np.ascontiguousarray(photograph(name)[:, ::-1]), {"layer": name}
    other = None if layer is None else _cover(_tensor(layer, "layer"), clean)

    generator = torch.Generator().manual_seed(seed)
    part = list(every.parts)[int(every.draw(1, generator))] if strength == "mixed" else strength
    pair = TASK_PARTS[task][part]()(batch, generator, Sources(layer=other))

    def array(image: Tensor) -> NDArray[Any]:
        pixels = image[0].permute(1, 2, 0).numpy()
        pixels = pixels if clean.ndim == 3 else pixels.mean(axis=2)
        if clean.dtype.kind == "f":
            return np.asarray(pixels.astype(clean.dtype))
        top = np.iinfo(clean.dtype).max
        values = np.rint(pixels.astype(np.float64) * top)
        whole = np.full(values.shape, top, clean.dtype)
        inside = values < top  # as a float, the greatest integer of 8 bytes is one too large for its type
        whole[inside] = values[inside]
        return whole

    drawn = {name: _told(value[0]) for name, value in pair.parameters.items()}
    return Pair(
        # To the last digit, which the way through float32 may change.
        input=clean.copy() if part == "none" else array(pair.input),
        background=clean.copy(),
        noise=array(pair.noise),
        parameters={"task": task, "strength": strength, "part": part, "seed": seed, **reflected, **drawn},
    )


def _whole(seed: object) -> int:
    # What torch's generators take.
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and -(2**63) <= int(seed) < 2**64:
        return int(seed)
    raise ValueError(f"seed is {seed!r}; wanted an integer from -2**63 to 2**64 - 1")


def _told(value: Tensor) -> Any:
    if value.numel() <= _MOST_NUMBERS:
        return value.tolist()
    return {"mean": value.mean().item(), "min": value.min().item(), "max": value.max().item()}


def _tensor(image: NDArray[Any], name: str) -> Tensor:
    """Return an image as a (1, 3, H, W) float32 tensor in [0, 1]."""
    import torch

    unit = _unit_range(image, name)
    planes = unit if image.ndim == 3 else np.repeat(unit[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1)))[None]


def _unit_range(image: NDArray[Any], name: str) -> NDArray[np.float32]:
    if not isinstance(getattr(image, "dtype", None), np.dtype):  # torch has its own
        raise ValueError(f"{name} is a {type(image).__name__}; wanted a NumPy array (H, W, 3) or (H, W)")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; wanted (H, W, 3) or (H, W)")
    if image.dtype.kind == "u":
        return np.asarray(image / np.float32(np.iinfo(image.dtype).max), np.float32)
    if image.dtype.kind != "f":
        raise ValueError(f"{name} is {image.dtype}; wanted unsigned integers or floats")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"{name} spans {image.min()} to {image.max()}; wanted [0, 1]")
    return image.astype(np.float32)


def _photograph_for(clean: NDArray[Any], seed: int) -> str:
    """Return the name of one that is not the clean image."""
    name = PHOTOGRAPHS[seed % len(PHOTOGRAPHS)]
    return PHOTOGRAPHS[(seed + 1) % len(PHOTOGRAPHS)] if np.array_equal(photograph(name), clean) else name


def _cover(layer: Tensor, clean: NDArray[Any]) -> Tensor:
    """Scale and cut a layer to the clean image's size; gray where that is gray."""
    import torch.nn.functional as F

    h, w = clean.shape[:2]
    factor = max(h / layer.shape[2], w / layer.shape[3])
    if factor != 1:
        size = [max(side, round(factor * old)) for side, old in zip((h, w), layer.shape[2:], strict=True)]
        layer = F.interpolate(layer, size, mode="bilinear", antialias=True).clamp(0, 1)
    top, left = (layer.shape[2] - h) // 2, (layer.shape[3] - w) // 2
    layer = layer[:, :, top : top + h, left : left + w]
    return layer if clean.ndim == 3 else layer.mean(1, keepdim=True).expand(-1, 3, -1, -1)
