"""Bilinear enlargement and three shifts along one axis, as small matrices: no torch, whole-number geometry.

What a 3x3 convolution reads of an enlarged map are, along each axis, three shifted copies of it.
Shifts and enlargement together are a matrix with few entries beside its diagonal, of which a band
of rows reads few columns.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.model.config import Padding

__all__ = ["COLUMNS", "ROWS", "bands", "samples_read", "shift_matrix"]

ROWS, COLUMNS = 64, 32
"""Rows of the hypercolumn's features made at once, and columns enlarged by one matrix."""
SHIFTS = (-1, 0, 1)
"""Of the three taps of a kernel's row or column, against the position of the output."""


def bands(length: int, size: int) -> list[tuple[int, int]]:
    """Cut the positions 0..length-1 into bands of `size`, the last one shorter: (start, stop) each."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def samples_read(start: int, stop: int, small: int, large: int, padding: Padding) -> tuple[int, int]:
    """Return the first of the samples that positions start..stop-1 and their shifts read, and one after the last.

    Parameters
    ----------
    start, stop : int
        Between 0 and `large`.
    small, large : int
        Number of samples, and of positions that they are enlarged to.
    padding : str
        What shifts beyond the ends read: "zeros" or "reflect".
    """
    ends = [_shifted(i, shift, large, padding) for i in (start, stop - 1) for shift in SHIFTS]
    inside = [i for i in ends if i is not None]
    return _between(min(inside), small, large)[0], _between(max(inside), small, large)[1] + 1


@lru_cache(maxsize=512)
def shift_matrix(start: int, stop: int, small: int, large: int, padding: Padding) -> tuple[NDArray[np.float64], int]:
    """Return what shifts and enlarges a band of an axis; arguments as of `samples_read`.

    Returns
    -------
    matrix : (stop - start, 3 K) array
        Row i makes position start + i; column 3 k + s takes the k-th sample read, under the s-th of
        `SHIFTS`.
    first : int
        Which sample the 0-th read is.
    """
    first, last = samples_read(start, stop, small, large, padding)
    matrix = np.zeros((stop - start, last - first, len(SHIFTS)))
    for i in range(start, stop):
        for s, shift in enumerate(SHIFTS):
            target = _shifted(i, shift, large, padding)
            if target is not None:
                a, b, weight = _between(target, small, large)
                matrix[i - start, a - first, s] += 1 - weight
                matrix[i - start, b - first, s] += weight
    return matrix.reshape(stop - start, -1), first


def _between(position: int, small: int, large: int) -> tuple[int, int, float]:
    """Return the two samples that a position lies between, and the weight of the second.

    Corners are not aligned: position i lies at (i + 1/2) small / large - 1/2, and positions beyond
    the outermost samples take those.
    """
    first, rest = divmod(max((2 * position + 1) * small - large, 0), 2 * large)
    return first, min(first + 1, small - 1), rest / (2 * large)


def _shifted(position: int, shift: int, large: int, padding: Padding) -> int | None:
    target = position + shift
    if 0 <= target < large:
        return target
    if padding == "zeros":
        return None
    return -target if target < 0 else 2 * (large - 1) - target
