"""Rainy versions of scikit-image's own photographs; nothing is downloaded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

# Photographs of the public domain (CC0, or NASA's and SpaceX's) that lie in scikit-image's wheel;
# the others of `skimage.data` are drawings, grayscale, micrographs or fetched from the network.
_NAMES = ("astronaut", "chelsea", "coffee", "rocket")
_STRENGTHS = ("light", "heavy")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A photograph with made rain: (H, W, 3) uint8 pictures of at most 640 pixels a side.

    Attributes
    ----------
    clean : the photograph
    input : the photograph in the rain
    noise : the streaks
    """

    clean: Picture
    input: Picture
    noise: Picture


def sample_names() -> list[str]:
    """Return the names of the photographs."""
    return list(_NAMES)


def clean_sample(name: str) -> Picture:
    """Return a photograph as (H, W, 3) uint8.

    Raises
    ------
    ValueError
        If no photograph has this name.
    """
    if name not in _NAMES:
        raise ValueError(f"unknown sample {name!r}; the samples are {', '.join(_NAMES)}")
    from skimage import data

    return np.array(getattr(data, name)(), dtype=np.uint8)


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
    if strength not in _STRENGTHS:
        raise ValueError(f"unknown strength {strength!r}; wanted {' or '.join(_STRENGTHS)}")
    clean = clean_sample(name)
    from napari_dmgn.synthesis import synthesize

    pair = synthesize(clean, task="rain", seed=seed, strength=strength)
    return Sample(clean=clean, input=pair.input, noise=pair.noise)
