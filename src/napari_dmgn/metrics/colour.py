"""What the protocols look at: luma, colours, parts of an image and its smaller versions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_bytes", "as_unit", "centre_of_16", "check_bytes", "check_image", "luma", "luma_of_bytes", "pooled"]

Array = NDArray[Any]
Floats = NDArray[np.float64]


def check_image(image: Array) -> None:
    """Refuse what is not (H, W, 3), uint8 or floats in [0, 1].

    Raises
    ------
    ValueError
    """
    if not _is_array(image) or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image is {_seen(image)}; wanted (H, W, 3)")
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise ValueError(f"image is {_seen(image)}; wanted uint8, or floats in [0, 1]")
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
        raise ValueError(f"image spans {image.min()} to {image.max()}; wanted floats in [0, 1]")


def check_bytes(image: Array) -> None:
    """Refuse what is not (H, W, 3) uint8.

    Raises
    ------
    ValueError
    """
    if not _is_array(image) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {_seen(image)}; wanted uint8 (H, W, 3)")


def _is_array(image: object) -> bool:
    return isinstance(getattr(image, "dtype", None), np.dtype)  # not torch's


def _seen(image: Any) -> str:
    return f"{image.dtype} {image.shape}" if _is_array(image) else f"a {type(image).__name__}, no NumPy array"


def as_unit(image: Array) -> Floats:
    """Return a checked image as float64 in [0, 1]."""
    unit = image.astype(np.float64)
    return unit / 255 if image.dtype == np.uint8 else unit


def as_bytes(image: Array) -> NDArray[np.uint8]:
    """Return a checked image in 8 bits, floats rounded."""
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    return np.rint(image.astype(np.float64) * 255).astype(np.uint8)


def luma(image: NDArray[np.uint8]) -> Floats:
    """Return the limited-range luma Y of a (H, W, 3) uint8 image, as (H, W) floats in [16, 235].

    As MATLAB's rgb2ycbcr on floats: Y is not rounded.
    """
    check_bytes(image)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return 16 + image.astype(np.float64) @ weights


def luma_of_bytes(image: Array) -> Floats:
    """Return `luma` of a checked image after 8-bit rounding, as (H, W, 1)."""
    return luma(as_bytes(image))[..., None]


def centre_of_16(image: Array) -> Array:
    """Return the central part whose sides are the greatest multiples of 16.

    Raises
    ------
    ValueError
        A side is shorter than 16 pixels.
    """
    h, w = image.shape[:2]
    if min(h, w) < 16:
        raise ValueError(f"image is {w}x{h}; the crop to a multiple of 16 needs 16x16 or more")
    top, left = h % 16 // 2, w % 16 // 2
    return image[top : top + h // 16 * 16, left : left + w // 16 * 16]


def pooled(image: Floats) -> Floats:
    """Average (H, W, C) over cells so that the shorter side becomes about 256 pixels.

    The factor is max(1, round(min(H, W) / 256)), and the cells are those of adaptive average
    pooling: cell i of n spans from floor(i H / n) to ceil((i + 1) H / n).
    """
    factor = max(1, round(min(image.shape[:2]) / 256))
    if factor == 1:
        return image
    for axis in (0, 1):
        size = image.shape[axis]
        count = int(size / factor)
        index = np.arange(count)
        starts, ends = index * size // count, -(-(index + 1) * size // count)
        below = np.insert(np.cumsum(image, axis=axis), 0, 0, axis=axis)
        sums = below.take(ends, axis=axis) - below.take(starts, axis=axis)
        shape = [1, 1, 1]
        shape[axis] = count
        image = sums / (ends - starts).reshape(shape)
    return image
