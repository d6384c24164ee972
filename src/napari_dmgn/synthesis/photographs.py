"""The photographs that scikit-image brings along, to superimpose and to show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHOTOGRAPHS", "photograph"]

# Photographs of the public domain (CC0, or NASA's and SpaceX's) that lie in scikit-image's wheel;
# the others of `skimage.data` are drawings, grayscale, micrographs or fetched from the network.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photograph(name: str) -> NDArray[np.uint8]:
    """Return a photograph of `PHOTOGRAPHS` as (H, W, 3) uint8, in memory of its own."""
    from skimage import data

    return np.array(getattr(data, name)(), dtype=np.uint8)
