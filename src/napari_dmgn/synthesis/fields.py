"""Smooth random fields, blurs and edge-aware smoothing of batches of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dmgn.synthesis.degradation import Draw

__all__ = ["DISPLAY_GAMMA", "align", "gaussian_blur", "luminance", "smooth_field", "spread"]

DISPLAY_GAMMA = 2.2
"""Light is a pixel's value to this power, as photographs are stored."""

# Up to so many pixels are blurred in one go; what is more, plane by plane.
_AT_ONCE = 2**23


def gaussian_blur(images: Tensor, sigma: Tensor, radius: Tensor | None = None) -> Tensor:
    """Blur each image with a gaussian of its own.

    Parameters
    ----------
    images : (N, C, H, W) float tensor
    sigma : (N,) float tensor
        In pixels; 0 leaves the image as it is.
    radius : (N,) tensor, optional
        Taps of the kernel on each side of its centre; default: 3 sigma, rounded up.

    Returns
    -------
    (N, C, H, W) float tensor
        Beyond the border the border's pixels go on.
    """
    n, c, h, w = images.shape
    radius = torch.ceil(3 * sigma) if radius is None else radius
    most = int(radius.max()) if n else 0
    if most == 0:
        return images
    tap = torch.arange(-most, most + 1, device=images.device, dtype=images.dtype)
    # A gaussian of a hundredth of a pixel is the identity to float precision.
    kernel = torch.exp(-0.5 * (tap / sigma.clamp(min=0.01)[:, None]) ** 2)
    kernel = torch.where(tap.abs() <= radius[:, None], kernel, 0)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    planes = images.reshape(n * c, h, w)
    if planes.numel() <= _AT_ONCE:
        return _separable(planes, kernel).reshape(n, c, h, w)
    blurred = torch.empty_like(planes)
    for i in range(n * c):
        blurred[i] = _separable(planes[i : i + 1], kernel[i : i + 1])[0]
    return blurred.reshape(n, c, h, w)


def _separable(planes: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (P, H, W) planes with a kernel of its own each, (P, K), along both axes."""
    p, taps = kernel.shape
    most = taps // 2
    result = planes[None]
    for shape, pad in (((p, 1, 1, taps), (most, most, 0, 0)), ((p, 1, taps, 1), (0, 0, most, most))):
        result = F.conv2d(F.pad(result, pad, mode="replicate"), kernel.reshape(shape), groups=p)
    return result[0]


def spread(images: Tensor) -> Tensor:
    """Shift and scale each (N, C, H, W) image to the range [0, 1]; a constant one becomes 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-12)


def smooth_field(count: int, size: tuple[int, int], cells: int, draw: Draw) -> Tensor:
    """Draw smooth fields with about so many hills and valleys along each side.

    Returns
    -------
    (count, 1, H, W) float tensor, each spread over [0, 1]
    """
    grid = draw.uniform((count, 1, cells + 1, cells + 1), 0, 1)
    return spread(F.interpolate(grid, size, mode="bicubic", align_corners=True))


def align(field: Tensor, guide: Tensor, radius: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Find the linear functions of a picture that come nearest to a field: the guided filter.

    slope * guide + offset is the field with its edges moved to the guide's (He et al., "Guided Image
    Filtering", Eq. 5, 6 and 8). Both are smooth: they may be enlarged to go with a larger guide.

    Parameters
    ----------
    field, guide : (N, 1, H, W) float tensors
    radius : int
        Of the windows, in pixels.
    epsilon : float
        Variance of the guide below which a window counts as flat.

    Returns
    -------
    slope, offset : (N, 1, H, W) float tensors
    """

    def mean(x: Tensor) -> Tensor:
        padded = F.pad(x, (radius,) * 4, mode="replicate")
        rows = F.avg_pool2d(padded, (2 * radius + 1, 1), stride=1)
        return F.avg_pool2d(rows, (1, 2 * radius + 1), stride=1)

    of_guide, of_field = mean(guide), mean(field)
    slope = (mean(guide * field) - of_guide * of_field) / (mean(guide**2) - of_guide**2 + epsilon)
    return mean(slope), mean(of_field - slope * of_guide)


def luminance(images: Tensor) -> Tensor:
    """Return (N, 1, H, W) luminances of (N, 3, H, W) RGB images (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(1, keepdim=True)
