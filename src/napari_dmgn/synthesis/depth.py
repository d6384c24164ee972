"""Relative depth of a scene: drawn with structure, or a map that is given.

Depth that does not belong to the picture trains dehazing as well as true depth does (DA-HAZE,
arXiv 2401.07213), if it has structure: slopes, planes, edges.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dmgn.synthesis.degradation import Draw
from napari_dmgn.synthesis.fields import align, gaussian_blur, luminance, smooth_field, spread

__all__ = ["random_depth"]

# Depth has no fine detail of its own: it is drawn on at most so many pixels a side, and gets the
# picture's edges at full size.
_LARGEST = 64
_PLANES = 7


def random_depth(images: Tensor, draw: Draw) -> Tensor:
    """Draw a relative depth for each picture, its edges softly aligned to the picture's.

    A blend of a smooth field, a ramp that recedes as the ground does (mostly upwards, with a sky at
    the end) and planar segments; one of the three prevails.

    Parameters
    ----------
    images : (N, 3, H, W) float tensor in [0, 1]
    draw : Draw

    Returns
    -------
    (N, 1, H, W) float tensor in [0, 1]
        0 near, 1 far.
    """
    n, size = len(images), (images.shape[2], images.shape[3])
    shrink = min(1.0, _LARGEST / max(size))
    small = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    kinds = torch.stack([_hills(n, small, draw), _ramp(n, small, draw), _planes(n, small, draw)])
    share = torch.softmax(3 * draw.normal((3, n, 1, 1, 1)), 0)
    depth = spread((share * kinds).sum(0))

    # A hard edge where the picture has none would be seen as part of the picture: never quite without.
    guide = luminance(images)
    reduced = F.interpolate(guide, small, mode="area")
    slope, offset = align(depth, reduced, max(1, max(small) // 10), 2e-3)
    softness = draw.uniform((n, 1, 1, 1), 0, 0.5)
    maps = torch.cat([slope * (1 - softness), torch.lerp(offset, depth, softness)], 1)
    if small != size:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return (maps[:, :1] * guide + maps[:, 1:]).clamp(0, 1)


def _hills(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    coarse, fine = smooth_field(n, size, 2, draw), smooth_field(n, size, 7, draw)
    return spread(torch.lerp(coarse, fine, draw.uniform((n, 1, 1, 1), 0, 0.6)))


def _ramp(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    y, x = _coordinates(size, draw.device)
    # Mostly from the bottom to the top; tilted, and at times from any side: crops are turned.
    anywhere = draw.chance((n, 1, 1, 1), 0.3) * draw.uniform((n, 1, 1, 1), -math.pi, math.pi)
    angle = anywhere + draw.uniform((n, 1, 1, 1), -0.3, 0.3)
    along = spread(x * torch.sin(angle) - y * torch.cos(angle))
    horizon = draw.uniform((n, 1, 1, 1), 0.5, 1.4)  # beyond it all is equally far
    perspective = draw.uniform((n, 1, 1, 1), 0, 0.95)
    return spread(1 / (1 - perspective * (along / horizon).clamp(max=1)))


def _planes(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    y, x = _coordinates(size, draw.device)
    shape = (n, _PLANES, 1, 1)
    # The largest of some linear functions cuts the picture into convex pieces.
    pieces = sum((draw.uniform(shape, -1, 1) * v for v in (x, y)), draw.uniform(shape, -0.5, 0.5))
    values = sum((draw.uniform(shape, -0.25, 0.25) * v for v in (x, y)), draw.uniform(shape, 0, 1))
    blur = draw.uniform((n,), 0.01, 0.05) * max(size)
    return spread(gaussian_blur(values.gather(1, pieces.argmax(1, keepdim=True)), blur))


def _coordinates(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return y as (1, 1, H, 1) and x as (1, 1, 1, W), from -1 to 1."""
    y = torch.linspace(-1, 1, size[0], device=device)
    x = torch.linspace(-1, 1, size[1], device=device)
    return y[None, None, :, None], x[None, None, None, :]
