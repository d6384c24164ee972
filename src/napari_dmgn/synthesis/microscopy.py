"""Noise layers of microscopes: stripes, light from other planes, uneven background.

All end in I = clip(B + R) where light is added, and I = B - R, R = M B, where the share M of it is
taken away; the parameters hold the sign of R as +1 or -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import NO_SOURCES, Draw, Sources, TensorPair
from napari_dmgn.synthesis.fields import gaussian_blur, smooth_field, spread

__all__ = ["OutOfFocusVeil", "Stripes", "UnevenBackground", "compose_signed"]


def compose_signed(background: Tensor, layer: Tensor, taken: Tensor) -> TensorPair:
    """Add a layer of light, or take a share of the light away.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
    layer : (N, 1 or 3, H, W) float tensor in [0, 1]
        The added light R, or the share M that is missing.
    taken : (N,) boolean tensor
        Which images lose light.
    """
    column = taken[:, None, None, None]
    noise = layer * torch.where(column, background, 1)
    sign = torch.where(taken, -1.0, 1.0).float()  # of numbers alone, `where` makes torch's default type
    return TensorPair(
        input=(background + sign[:, None, None, None] * noise).clamp(0, 1),
        background=background,
        noise=noise,
        parameters={"sign": sign},
    )


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Parallel stripes of one direction: shadows in a light sheet, curtaining of a milled face."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the stripes; 0 leaves the image as it is."""
    dark: float = 0.5
    """Share of the images whose stripes are shadows; the others' are bright."""
    amplitude: tuple[float, float] = (0.15, 0.8)
    """Range of the strongest stripe: share of the light taken away, or light added (half of it)."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, _, h, w = background.shape
        draw = Draw(generator, background.device)
        # Along the stripes noise of a few cells, across of many: where no stripe begins, values fall below 0.
        noise = draw.normal((n, 1, 6, 128)) + 0.6 * draw.normal((n, 1, 1, 128)) - draw.uniform((n, 1, 1, 1), -0.5, 1.2)
        angle = draw.uniform((n,), -0.12, 0.12) + draw.chance((n,), 0.5).float() * (math.pi / 2)
        fineness = draw.uniform((n,), 0.2, 0.7)
        y, x = draw.linspace(-1, 1, h)[:, None], draw.linspace(-1, 1, w)
        sine, cosine = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
        across = fineness[:, None, None] * (x * cosine - y * sine)
        grid = torch.stack([across, 0.7 * (x * sine + y * cosine)], -1)
        rows = F.grid_sample(noise, grid, mode="bicubic", padding_mode="reflection", align_corners=True)
        taken = draw.chance((n,), self.dark)
        peak = draw.uniform((n,), *self.amplitude)
        peak = torch.where(taken, peak, peak / 2)
        layer = self.strength * peak[:, None, None, None] * spread(rows.clamp(min=0))
        pair = compose_signed(background, layer.clamp(max=1), taken)
        return _with(pair, {"angle": angle, "fineness": fineness, "amplitude": peak})


@dataclass(frozen=True, kw_only=True)
class OutOfFocusVeil:
    """Another plane of the specimen, through the wide part of the point-spread function, added.

    The other plane is the given layer; without one, the image itself, turned upside down.
    """

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the veil; 0 leaves the image as it is."""
    amplitude: tuple[float, float] = (0.3, 1.5)
    """Range of the other plane's brightness."""
    sigma: tuple[float, float] = (4.0, 14.0)
    """Range of the narrower part's width, in pixels; the wider part has three times that."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        other = background.flip((2, 3)) if sources.layer is None else sources.layer_for(background)
        size = (background.shape[2], background.shape[3])
        # The blur leaves nothing that a quarter of the resolution would not hold.
        small = F.interpolate(other, tuple(max(1, side // 4) for side in size), mode="area")
        sigma = draw.log_uniform((n,), *self.sigma)
        near, far = gaussian_blur(small, sigma / 4), gaussian_blur(small, 3 * sigma / 4)
        blurred = torch.lerp(near, far, draw.uniform((n, 1, 1, 1), 0.2, 0.8))
        factor = self.strength * draw.uniform((n, 1, 1, 1), *self.amplitude)
        veil = factor * F.interpolate(blurred, size, mode="bilinear", align_corners=False)
        never = torch.zeros(n, dtype=torch.bool, device=draw.device)
        pair = compose_signed(background, veil.clamp(0, 1), never)
        return _with(pair, {"sigma": sigma, "amplitude": factor.flatten()})


@dataclass(frozen=True, kw_only=True)
class UnevenBackground:
    """A smooth glow that is added, or shading that takes light away."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the glow or the shading; 0 leaves the image as it is."""
    shaded: float = 0.5
    """Share of the images that are shaded; the others glow."""
    amplitude: tuple[float, float] = (0.15, 0.7)
    """Range of the largest share of the light taken away, or of the light added (half of it)."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, _, h, w = background.shape
        draw = Draw(generator, background.device)
        centre = draw.uniform((n, 2, 1, 1), -0.6, 0.6)
        y, x = draw.linspace(-1, 1, h)[:, None], draw.linspace(-1, 1, w)
        bowl = spread((y - centre[:, :1]) ** 2 + (x - centre[:, 1:]) ** 2)
        hills = smooth_field(n, (h, w), 3, draw)
        field = spread(torch.lerp(bowl, hills, draw.uniform((n, 1, 1, 1), 0, 1)))
        taken = draw.chance((n,), self.shaded)
        peak = draw.uniform((n,), *self.amplitude)
        peak = torch.where(taken, peak, peak / 2)
        layer = self.strength * peak[:, None, None, None] * field
        return _with(compose_signed(background, layer.clamp(max=1), taken), {"amplitude": peak})


def _with(pair: TensorPair, drawn: dict[str, Tensor]) -> TensorPair:
    return TensorPair(
        input=pair.input,
        background=pair.background,
        noise=pair.noise.expand_as(pair.input).clone(),
        parameters=drawn | pair.parameters,
    )
