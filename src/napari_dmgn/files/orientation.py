"""How a picture lies in its file, by the numbers that TIFF and EXIF have for it."""

import numpy as np

from napari_dmgn.files.image_file import Array

__all__ = ["TRANSPOSED", "upright"]

TRANSPOSED = (5, 6, 7, 8)
"""Orientations of files whose rows are the columns of the picture."""
_UPSIDE_DOWN = (3, 4, 7, 8)  # once transposed
_MIRRORED = (2, 3, 6, 7)


def upright(array: Array, orientation: int, *, rows: int = 0, columns: int = 1) -> Array:
    """Return a view of a picture as it is meant to be seen; unknown numbers mean that it lies so.

    Parameters
    ----------
    array : as in the file
    orientation : 1 to 8
    rows, columns : axes of the array
    """
    if orientation in TRANSPOSED:
        array = np.swapaxes(array, rows, columns)
    if orientation in _UPSIDE_DOWN:
        array = np.flip(array, rows)
    if orientation in _MIRRORED:
        array = np.flip(array, columns)
    return array
