"""Structural similarity, and the two scores that reflection removal adds: local error and correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["gaussian_ssim", "local_error", "normalised_correlation", "uniform_ssim"]

Floats = NDArray[np.float64]


def gaussian_ssim(image: Floats, target: Floats, peak: float) -> float:
    """Return the SSIM with an 11x11 gaussian window of sigma 1.5, over the window's valid region.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004;
    K1 = .01, K2 = .03, without the release's down-sampling. Channels count alike.

    Parameters
    ----------
    image, target : (H, W, C) floats in [0, peak]

    Raises
    ------
    ValueError
        An image is smaller than the window.
    """
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return _ssim(image, target, peak, taps / taps.sum(), sample=1.0)


def uniform_ssim(image: Floats, target: Floats, peak: float) -> float:
    """Return the SSIM with a 7x7 uniform window and sample covariances: scikit-image's default.

    The parameters are those of `gaussian_ssim`.
    """
    return _ssim(image, target, peak, np.full(7, 1 / 7), sample=49 / 48)


def _ssim(image: Floats, target: Floats, peak: float, taps: Floats, sample: float) -> float:
    from scipy.ndimage import correlate1d

    window, radius = len(taps), len(taps) // 2
    h, w = image.shape[:2]
    if min(h, w) < window:
        raise ValueError(f"image is {w}x{h}; SSIM needs {window}x{window} or more")

    def mean(x: Floats) -> Floats:
        smoothed = correlate1d(correlate1d(x, taps, axis=0), taps, axis=1)
        return np.asarray(smoothed[radius : h - radius, radius : w - radius])

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    scores = []
    for channel in range(image.shape[2]):  # one at a time: a photograph of 13 megapixels takes 1 GB, not 3
        a, b = image[..., channel], target[..., channel]
        mean_a, mean_b = mean(a), mean(b)
        variances = sample * (mean(a * a) + mean(b * b) - mean_a**2 - mean_b**2)
        covariance = sample * (mean(a * b) - mean_a * mean_b)
        score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        score /= (mean_a**2 + mean_b**2 + c1) * (variances + c2)
        scores.append(score.mean())
    return float(np.mean(scores))


def local_error(image: Floats, target: Floats) -> float:
    """Return LMSE(20, 10): the share of the target's energy that is lost in windows of 20x20, 10 apart.

    In each window and channel the image is first scaled to fit the target best; 0 is best. Grosse
    et al., "Ground truth dataset and baseline evaluations for intrinsic image algorithms", 2009.

    Parameters
    ----------
    image, target : (H, W, C) floats in [0, 255]

    Raises
    ------
    ValueError
        An image is smaller than the window.
    """
    h, w = image.shape[:2]
    if min(h, w) < 20:
        raise ValueError(f"image is {w}x{h}; LMSE needs 20x20 or more")

    def windows(x: Floats) -> Floats:
        """Sum over every window, from the sums over blocks of 10x10."""
        rows, columns = h // 10, w // 10
        blocks = x[: rows * 10, : columns * 10].reshape(rows, 10, columns, 10, -1).sum(axis=(1, 3))
        halves = blocks[:-1] + blocks[1:]
        return np.asarray(halves[:, :-1] + halves[:, 1:])

    energy, own, cross = windows(target * target), windows(image * image), windows(image * target)
    dark = own <= 1e-5  # nothing to scale: the whole of the target's energy is lost
    lost = np.where(dark, energy, energy - cross**2 / np.where(dark, 1, own))
    total = float(energy.sum())
    return float(lost.clip(0).sum()) / total if total > 0 else 0.0


def normalised_correlation(image: Floats, target: Floats) -> float:
    """Return NCC, the correlation of all values of two images; 1 is best, NaN where one has no contrast."""
    a, b = image - image.mean(), target - target.mean()
    scale = float(np.sqrt((a * a).mean() * (b * b).mean()))
    return float((a * b).mean()) / scale if scale > 0 else float("nan")
