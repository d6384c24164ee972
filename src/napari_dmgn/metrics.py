"""Image quality under named protocols; a number means nothing without its protocol's name.

Only `rain-y` so far: 8-bit RGB, MATLAB's rgb2ycbcr luma (16-235), PSNR with peak 255, SSIM with an
11x11 gaussian window of sigma 1.5 over the valid region.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["luma", "psnr_y", "ssim_y"]


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the limited-range luma Y of a (H, W, 3) uint8 image, as (H, W) floats in [16, 235]."""
    _check(image)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return 16 + image.astype(np.float64) @ weights


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the PSNR in dB between two (H, W, 3) uint8 images, protocol `rain-y`.

    Infinite for equal images.

    Raises
    ------
    ValueError
        The shapes differ, or an image is not (H, W, 3) uint8.
    """
    _check_equal(image, reference)
    mse = float(np.mean((luma(image) - luma(reference)) ** 2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def ssim_y(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the SSIM between two (H, W, 3) uint8 images of at least 11x11, protocol `rain-y`.

    Raises
    ------
    ValueError
        The shapes differ, an image is not (H, W, 3) uint8, or is smaller than the window.
    """
    from scipy.ndimage import correlate1d

    _check_equal(image, reference)
    if min(image.shape[:2]) < 11:
        raise ValueError(f"image is {image.shape[1]}x{image.shape[0]}; SSIM needs 11x11 or more")
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
        smoothed = correlate1d(correlate1d(x, taps, axis=0), taps, axis=1)
        return np.asarray(smoothed[5:-5, 5:-5])  # the window's valid region

    a, b = luma(image), luma(reference)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(score.mean())


def _check(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; wanted uint8 (H, W, 3)")


def _check_equal(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
    if image.shape != reference.shape:
        raise ValueError(f"images differ in shape: {image.shape} and {reference.shape}")
