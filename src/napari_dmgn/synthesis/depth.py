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

__all__ = ["landscape_depth", "random_depth"]

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
    n, small = len(images), _reduced((images.shape[2], images.shape[3]))
    kinds = torch.stack([_hills(n, small, draw), _ramp(n, small, draw), _planes(n, small, draw)])
    share = torch.softmax(3 * draw.normal((3, n, 1, 1, 1)), 0)
    return _aligned(spread((share * kinds).sum(0)), images, draw)


def landscape_depth(images: Tensor, draw: Draw) -> Tensor:
    """Draw a depth for each picture as an upright outdoor scene has it, after what the picture shows.

    Ground recedes to a horizon; things of various widths stand on it, each as far as its foot; what is
    bright or blue and smooth from the picture's upper border downwards is sky, which is farthest.

    Parameters
    ----------
    images : (N, 3, H, W) float tensor in [0, 1]
    draw : Draw

    Returns
    -------
    (N, 1, H, W) float tensor in [0, 1]
        0 near, 1 far.
    """
    n, small = len(images), _reduced((images.shape[2], images.shape[3]))
    y = draw.linspace(1, 0, small[0])[None, None, :, None]  # height: 0 is the lower border
    x = draw.linspace(-0.5, 0.5, small[1])

    horizon = draw.uniform((n, 1, 1, 1), 0.35, 1.1) + draw.uniform((n, 1, 1, 1), -0.15, 0.15) * x
    # Depth of level ground is inverse to how far below the horizon it is seen; not all ground is level.
    bend = draw.uniform((n, 1, 1, 1), 0.5, 0.97)
    ground = (1 - bend) / (1 - bend * (y / horizon).clamp(max=1))
    things = torch.where(y < _skyline(n, small[1], draw) * 1.2, _columns(n, small[1], draw), 1)
    scene = torch.minimum(ground, things) ** draw.uniform((n, 1, 1, 1), 0.5, 1.2)
    scene = torch.lerp(scene, _hills(n, small, draw), draw.uniform((n, 1, 1, 1), 0, 0.4))
    # The sky is often far behind all else: in fog all of it is airlight, over a ground that is still seen.
    scene = scene * draw.log_uniform((n, 1, 1, 1), 0.2, 1)

    sky = _sky(F.interpolate(images, small, mode="area")) * draw.chance((n, 1, 1, 1), 0.92)
    return _aligned(torch.lerp(scene, torch.ones_like(scene), sky), images, draw)


def _reduced(size: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, _LARGEST / max(size))
    return (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))


def _aligned(depth: Tensor, images: Tensor, draw: Draw) -> Tensor:
    """Move a small depth map's edges to the picture's, and enlarge it to the picture's size."""
    n, small, size = len(images), (depth.shape[2], depth.shape[3]), (images.shape[2], images.shape[3])
    # A hard edge where the picture has none would be seen as part of the picture: never quite without.
    guide = luminance(images)
    reduced = F.interpolate(guide, small, mode="area")
    slope, offset = align(depth, reduced, max(1, max(small) // 10), 2e-3)
    softness = draw.uniform((n, 1, 1, 1), 0, 0.5)
    maps = torch.cat([slope * (1 - softness), torch.lerp(offset, depth, softness)], 1)
    if small != size:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return (maps[:, :1] * guide + maps[:, 1:]).clamp(0, 1)


def _sky(images: Tensor) -> Tensor:
    """Return how much each pixel of (N, 3, H, W) images looks like sky, (N, 1, H, W) in [0, 1]."""
    value = luminance(images)
    blue = images[:, 2:] - images[:, :1]
    # Bright, or bluer than red and not dark.
    bright = torch.sigmoid(14 * (value + 1.8 * blue - 0.55)) * torch.sigmoid(20 * (images[:, 2:] - 0.3))
    rough = F.max_pool2d(value, 3, 1, 1) + F.max_pool2d(-value, 3, 1, 1)
    likely = bright * torch.sigmoid(25 * (0.16 - rough))
    # Sky reaches the upper border: what is above a pixel is sky, too.
    likely = F.avg_pool2d(F.pad(likely, (1, 1, 1, 1), mode="replicate"), 3, 1)
    rows = list(torch.split(likely, 1, dim=2))
    for row in range(1, len(rows)):  # cummin, which not every device has
        rows[row] = torch.minimum(rows[row - 1], rows[row])
    return torch.cat(rows, dim=2)


def _skyline(n: int, width: int, draw: Draw) -> Tensor:
    """Draw how high things reach over each column, (N, 1, 1, W) in [0, 1]."""
    wide, narrow = (_across(draw.uniform((n, 1, 1, cells), 0, 1), width) for cells in (4, 16))
    return torch.lerp(wide, narrow, draw.uniform((n, 1, 1, 1), 0, 1))


def _columns(n: int, width: int, draw: Draw) -> Tensor:
    """Draw the depth of the thing that stands in each column, (N, 1, 1, W) in [0, 1]."""
    wide, narrow = (_across(draw.uniform((n, 1, 1, cells), 0.02, 1), width) for cells in (3, 11))
    taken = _across(draw.chance((n, 1, 1, 11), 0.5).float(), width)
    return torch.where(taken > 0, narrow, wide)


def _across(cells: Tensor, width: int) -> Tensor:
    """Spread (N, 1, 1, cells) values over columns, in steps."""
    return F.interpolate(cells, (1, width), mode="nearest")


def _hills(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    coarse, fine = smooth_field(n, size, 2, draw), smooth_field(n, size, 7, draw)
    return spread(torch.lerp(coarse, fine, draw.uniform((n, 1, 1, 1), 0, 0.6)))


def _ramp(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    y, x = _coordinates(size, draw)
    # Mostly from the bottom to the top; tilted, and at times from any side: crops are turned.
    anywhere = draw.chance((n, 1, 1, 1), 0.3) * draw.uniform((n, 1, 1, 1), -math.pi, math.pi)
    angle = anywhere + draw.uniform((n, 1, 1, 1), -0.3, 0.3)
    along = spread(x * torch.sin(angle) - y * torch.cos(angle))
    horizon = draw.uniform((n, 1, 1, 1), 0.5, 1.4)  # beyond it all is equally far
    perspective = draw.uniform((n, 1, 1, 1), 0, 0.95)
    return spread(1 / (1 - perspective * (along / horizon).clamp(max=1)))


def _planes(n: int, size: tuple[int, int], draw: Draw) -> Tensor:
    y, x = _coordinates(size, draw)
    shape = (n, _PLANES, 1, 1)
    # The largest of some linear functions cuts the picture into convex pieces.
    pieces = sum((draw.uniform(shape, -1, 1) * v for v in (x, y)), draw.uniform(shape, -0.5, 0.5))
    values = sum((draw.uniform(shape, -0.25, 0.25) * v for v in (x, y)), draw.uniform(shape, 0, 1))
    blur = draw.uniform((n,), 0.01, 0.05) * max(size)
    return spread(gaussian_blur(values.gather(1, pieces.argmax(1, keepdim=True)), blur))


def _coordinates(size: tuple[int, int], draw: Draw) -> tuple[Tensor, Tensor]:
    """Return y as (1, 1, H, 1) and x as (1, 1, 1, W), from -1 to 1."""
    y, x = draw.linspace(-1, 1, size[0]), draw.linspace(-1, 1, size[1])
    return y[None, None, :, None], x[None, None, None, :]
