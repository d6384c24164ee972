"""Pictures of test sets: colour images of any type, and DCPDN's HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.files import read_image
from napari_dmgn.metrics.colour import check_image

__all__ = ["comparable", "read_hdf5", "read_picture", "unit"]

Array = NDArray[Any]

# What comes after 1 in bfloat16: further than this beyond [0, 1], a value is no matter of rounding.
_ROUNDING = 2**-7


def read_picture(path: Path) -> Array:
    """Read one picture as (H, W, 3) uint8, uint16 or floats in [0, 1]; grayscale is repeated, alpha left out.

    Raises
    ------
    ValueError
        The file is broken, or no single picture of these types.
    """
    try:
        array = read_image(path).array
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"{path.name} has shape {array.shape}; wanted one picture, (H, W) or (H, W, 3)")
    array = array[..., :3]
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise ValueError(f"{path.name} is {array.dtype}; wanted uint8, uint16 or floats in [0, 1]")
    if array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{path.name} spans {array.min()} to {array.max()}; wanted floats in [0, 1]")
    return array


def read_hdf5(path: Path, input_: str, target: str) -> tuple[Array, Array]:
    """Read input and target from an HDF5 file, each (H, W, 3) or (3, H, W) floats in [0, 1].

    Raises
    ------
    ValueError
        The package h5py is missing, the file is broken, or lacks one of them.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ValueError(f"{path.name} is an HDF5 file; reading it needs the package h5py (pip install h5py)") from None
    try:
        with h5py.File(path, "r") as file:
            arrays = [np.asarray(file[name], np.float32) for name in (input_, target)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {input_!r} and {target!r} from {str(path)!r}: {error}") from error
    for index, array in enumerate(arrays):
        if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
            arrays[index] = array = array.transpose(1, 2, 0)
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{path.name} holds a picture of shape {array.shape}; wanted (H, W, 3)")
        arrays[index] = array.clip(0, 1)  # synthesis leaves rounding beyond the ends
    return arrays[0], arrays[1]


def comparable(picture: Array) -> Array:
    """Return a picture as the metrics take it: uint8 as it is, others as floats in [0, 1].

    Raises
    ------
    ValueError
        It is none of (H, W, 3) unsigned integers or floats in [0, 1], but for rounding beyond these.
    """
    kind = picture.dtype.kind if isinstance(getattr(picture, "dtype", None), np.dtype) else ""
    if kind == "u" and picture.dtype != np.uint8:
        picture = unit(picture)
    elif kind == "f" and picture.size and picture.min() >= -_ROUNDING and picture.max() <= 1 + _ROUNDING:
        picture = picture.clip(0, 1)  # others stay as they are, and are refused
    check_image(picture)
    return picture


def unit(array: Array) -> NDArray[np.float64]:
    """Return a picture's values in [0, 1]."""
    values = array.astype(np.float64)
    return values / np.iinfo(array.dtype).max if array.dtype.kind == "u" else values.clip(0, 1)
