"""Haze: light that the air scatters into the way, after Koschmieder's law.

I = B t + A (1 - t), t = exp(-beta d): the picture fades with depth d into the airlight A.
The noise layer is the veil R = A (1 - t), so that I = B (1 - R / A) + R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import NO_SOURCES, Draw, Sources, TensorPair
from napari_dmgn.synthesis.depth import landscape_depth, random_depth
from napari_dmgn.synthesis.fields import smooth_field

__all__ = ["Haze", "MetricHaze", "beta_for", "compose_haze", "scene_depth"]


def compose_haze(background: Tensor, transmission: Tensor, airlight: Tensor) -> TensorPair:
    """Superimpose the airlight.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
    transmission : (N, 1, H, W) float tensor in [0, 1]
        t: the share of the picture's light that arrives.
    airlight : (N, 3) float tensor in (0, 1]
        A.
    """
    veil = airlight[:, :, None, None] * (1 - transmission)
    return TensorPair(
        # Rounding may pass 1 by a hair.
        input=(background * transmission + veil).clamp(max=1),
        background=background,
        noise=veil,
        parameters={"airlight": airlight},
    )


def scene_depth(background: Tensor, draw: Draw, sources: Sources, share: float, landscape: float = 0) -> Tensor:
    """Return the given depth for about a share of the images, and a drawn one for the others.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
    draw : Draw
    sources : Sources
    share : float
        Of the images that get the given depth, if any is given.
    landscape : float
        Share of the drawn depths that are those of outdoor scenes; the others are random.

    Returns
    -------
    (N, 1, H, W) float tensor in [0, 1]
    """
    shape = (len(background), 1, 1, 1)
    given = sources.depth_for(background)
    if given is not None and share >= 1:
        return given
    depth = random_depth(background, draw)
    if landscape:
        depth = torch.where(draw.chance(shape, landscape), landscape_depth(background, draw), depth)
    return depth if given is None else torch.where(draw.chance(shape, share), given, depth)


def beta_for(depth: Tensor, transmission: Tensor) -> Tensor:
    """Return the scattering that gives each depth map a mean transmission.

    Parameters
    ----------
    depth : (N, 1, H, W) float tensor, >= 0
    transmission : (N,) float tensor in (0, 1)

    Returns
    -------
    (N,) float tensor
        At most 40, where much of a map lies at 0.
    """
    small = F.adaptive_avg_pool2d(depth, (min(32, depth.shape[2]), min(32, depth.shape[3]))).flatten(1)
    low, high = torch.zeros_like(transmission), torch.full_like(transmission, 40)
    for _ in range(24):  # the mean falls with beta: halve the interval
        middle = (low + high) / 2
        above = torch.exp(-middle[:, None] * small).mean(1) > transmission
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (low + high) / 2


@dataclass(frozen=True, kw_only=True)
class Haze:
    """Haze of a drawn mean transmission, over relative depth."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = True

    strength: float = 1.0
    """Factor of the scattering; 0 leaves the image as it is."""
    transmission: tuple[float, float] = (0.15, 0.95)
    """Range of the picture's mean transmission."""
    airlight: tuple[float, float] = (0.7, 1.0)
    """Range of the airlight's brightness."""
    tint: float = 0.025
    """Largest deviation of the airlight's red and blue from its brightness; green lies about between."""
    real_depth: float = 1.0
    """Share of the images that get the given depth, if any is given."""
    landscape: float = 0.0
    """Share of the drawn depths that are those of outdoor scenes, which must be upright; the others are random."""
    drifting: float = 0.3
    """Share of the images with haze in drifts."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        depth = scene_depth(background, draw, sources, self.real_depth, self.landscape)
        nearest = draw.uniform((n, 1, 1, 1), 0.02, 0.5)  # there is air before the nearest thing, too
        depth = nearest + (1 - nearest) * depth
        wanted = draw.uniform((n,), *self.transmission)
        beta = self.strength * beta_for(depth, wanted)
        return _haze(background, depth, beta, _airlight(n, self.airlight, self.tint, draw), self.drifting, draw)


@dataclass(frozen=True, kw_only=True)
class MetricHaze:
    """Haze of a drawn scattering per unit of depth: the convention of RESIDE.

    Its indoor part has beta in [0.6, 1.8] and A in [0.7, 1], its outdoor part beta in [0.04, 0.2] and
    A in [0.8, 1]. The ranges of depth are chosen so that the degraded pictures differ from the clean
    ones by about as much as that benchmark's do (12 dB indoors, 15 dB outdoors).
    """

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = True

    strength: float = 1.0
    """Factor of the scattering; 0 leaves the image as it is."""
    beta: tuple[float, float] = (0.6, 1.8)
    """Range of the scattering, per unit of depth."""
    near: tuple[float, float] = (0.1, 0.4)
    """Range of the nearest depth."""
    far: tuple[float, float] = (0.7, 1.6)
    """Range of the farthest depth."""
    airlight: tuple[float, float] = (0.7, 1.0)
    """Range of the airlight's brightness."""
    tint: float = 0.025
    """Largest deviation of the airlight's red and blue from its brightness; green lies about between."""
    real_depth: float = 1.0
    """Share of the images that get the given depth, if any is given."""
    landscape: float = 0.0
    """Share of the drawn depths that are those of outdoor scenes, which must be upright; the others are random."""
    drifting: float = 0.3
    """Share of the images with haze in drifts."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        relative = scene_depth(background, draw, sources, self.real_depth, self.landscape)
        near, far = draw.uniform((n, 1, 1, 1), *self.near), draw.uniform((n, 1, 1, 1), *self.far)
        beta = self.strength * draw.log_uniform((n,), *self.beta)
        airlight = _airlight(n, self.airlight, self.tint, draw)
        return _haze(background, torch.lerp(near, far, relative), beta, airlight, self.drifting, draw)


def _airlight(n: int, brightness: tuple[float, float], tint: float, draw: Draw) -> Tensor:
    red, blue = draw.uniform((n,), -tint, tint), draw.uniform((n,), -tint, tint)
    # Dust is yellow, smog green at most, mist blue: never magenta.
    green = (red + blue) / 2 + draw.uniform((n,), -tint / 4, tint / 2)
    return (draw.uniform((n, 1), *brightness) + torch.stack([red, green, blue], 1)).clamp(0.05, 1)


def _haze(background: Tensor, depth: Tensor, beta: Tensor, airlight: Tensor, drifting: float, draw: Draw) -> TensorPair:
    n = len(background)
    drift = draw.chance((n, 1, 1, 1), drifting) * draw.uniform((n, 1, 1, 1), 0, 0.7)
    thickness = 1 + drift * (2 * smooth_field(n, (depth.shape[2], depth.shape[3]), 4, draw) - 1)
    transmission = torch.exp(-beta[:, None, None, None] * depth * thickness)
    pair = compose_haze(background, transmission, airlight)
    measured = {"beta": beta, "transmission": transmission.mean((1, 2, 3))}
    return TensorPair(input=pair.input, background=background, noise=pair.noise, parameters=pair.parameters | measured)
