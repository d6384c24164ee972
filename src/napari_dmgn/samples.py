"""Rain, haze and reflections on scikit-image's own photographs, and a stack of made cells; no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_dmgn.synthesis import synthesize
from napari_dmgn.synthesis.photographs import PHOTOGRAPHS, photograph

Picture = npt.NDArray[np.uint8]

RAIN = ("light", "heavy")
HAZE = ("thin", "medium", "dense", "coloured")
REFLECTION = ("linear", "gamma", "screen", "ghost", "sharp")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture with made noise.

    Photographs are (H, W, 3) uint8 of at most 640 pixels a side, the stack of cells (Z, Y, X) uint16.

    Attributes
    ----------
    clean : the picture
    input : the picture with the noise
    noise : the noise layer: streaks, haze's veil, the reflection, or what stripes take away
    """

    clean: npt.NDArray[Any]
    input: npt.NDArray[Any]
    noise: npt.NDArray[Any]


def sample_names() -> list[str]:
    """Return the names of the photographs."""
    return list(PHOTOGRAPHS)


def clean_sample(name: str) -> Picture:
    """Return a photograph as (H, W, 3) uint8.

    Raises
    ------
    ValueError
        If no photograph has this name.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"unknown sample {name!r}; the samples are {', '.join(PHOTOGRAPHS)}")
    return photograph(name)


def rainy_sample(name: str, strength: str = "light", seed: int = 0) -> Sample:
    """Return a photograph with rain on it, the same for the same seed.

    Parameters
    ----------
    name : one of `sample_names`
    strength : light (thin streaks of one direction) or heavy (crossing layers)
    seed : draws the rain

    Raises
    ------
    ValueError
        If name or strength is unknown.
    """
    return _sample("rain", name, strength, seed, RAIN)


def hazy_sample(name: str, strength: str = "medium", seed: int = 0) -> Sample:
    """Return a photograph in haze, the same for the same seed.

    Parameters
    ----------
    name : one of `sample_names`
    strength : thin, medium, dense, or coloured
    seed : draws depth and airlight

    Raises
    ------
    ValueError
        If name or strength is unknown.
    """
    return _sample("haze", name, strength, seed, HAZE)


def reflection_sample(name: str, strength: str = "linear", seed: int = 0) -> Sample:
    """Return a photograph behind glass that reflects the next one, the same for the same seed.

    Parameters
    ----------
    name : one of `sample_names`
    strength : linear (blurred, as light), gamma (blurred, as pixel values), screen, ghost (double), or sharp
    seed : draws blur, brightness and shifts

    Raises
    ------
    ValueError
        If name or strength is unknown.
    """
    clean = clean_sample(name)
    other = PHOTOGRAPHS[(PHOTOGRAPHS.index(name) + 1) % len(PHOTOGRAPHS)]
    return _sample("reflection", name, strength, seed, REFLECTION, layer=clean_sample(other)[:, ::-1], clean=clean)


def made_sample(task: str, name: str, strength: str, seed: int = 0) -> Sample:
    """Return a photograph with a task's noise on it: `rainy_sample`, `hazy_sample` or `reflection_sample`.

    Raises
    ------
    ValueError
        If task, name or strength is unknown.
    """
    makers = {"rain": rainy_sample, "haze": hazy_sample, "reflection": reflection_sample}
    if task not in makers:
        raise ValueError(f"no samples for task {task!r}; the tasks are {', '.join(makers)}")
    return makers[task](name, strength, seed)


def striped_cells(seed: int = 0, shape: tuple[int, int, int] = (12, 256, 256)) -> Sample:
    """Return a stack of made cells in which a light sheet's shadows darken stripes.

    The shadows are the same in every plane, as those of something that stands in the light are.

    Parameters
    ----------
    seed : draws cells and stripes
    shape : (Z, Y, X), each at least 1

    Returns
    -------
    Sample of (Z, Y, X) uint16 arrays
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"stack has shape {shape}; wanted (Z, Y, X), each at least 1")
    clean = _cells(seed, shape)
    pairs = [synthesize(plane, "stripes", strength="dark", seed=seed) for plane in clean]
    stacks = {part: np.stack([getattr(pair, part) for pair in pairs]) for part in ("input", "noise")}
    return Sample(clean=clean, **stacks)


def _sample(
    task: str,
    name: str,
    strength: str,
    seed: int,
    strengths: Sequence[str],
    *,
    clean: Picture | None = None,
    layer: Picture | None = None,
) -> Sample:
    if strength not in strengths:
        *others, last = strengths
        raise ValueError(f"unknown strength {strength!r}; wanted {', '.join(others)} or {last}")
    clean = clean_sample(name) if clean is None else clean
    pair = synthesize(clean, task=task, seed=seed, strength=strength, layer=layer)
    return Sample(clean=clean, input=pair.input, noise=pair.noise)


def _cells(seed: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    """Draw round cells with grainy insides, some out of focus, over a dim background."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    depth, height, width = shape
    bodies = np.zeros(shape, np.float32)
    z, y, x = np.ogrid[:depth, :height, :width]
    for _ in range(max(4, height * width // 900)):
        centre = rng.uniform((0, 0, 0), (depth, height, width))
        radii = rng.uniform((2, 8, 8), (4, 15, 15))
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True))
        body = rng.uniform(0.3, 0.9) / (1 + np.exp(12 * (np.sqrt(distance) - 1)))
        np.maximum(bodies, body.astype(np.float32), out=bodies)
    grain = gaussian_filter(rng.standard_normal(shape).astype(np.float32), (0.7, 1.5, 1.5))
    light = bodies * (1 + 1.5 * grain) + 0.12  # a background, for shadows to show on
    noisy = light + 0.012 * np.sqrt(np.abs(light)) * rng.standard_normal(shape).astype(np.float32)
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * 65535).astype(np.uint16))
