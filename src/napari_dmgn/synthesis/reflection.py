"""Reflections: a second picture that glass adds to the first.

All recipes end in one operator, in a light space of exponent g:

    I = clip((s B)^g + R^g - q (s B)^g R^g)^(1/g)

with the reflection R as it appears in I (after blur, attenuation and vignette), the glass's
transmittance s per channel, and q = 1 for a screen blend, else 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import NO_SOURCES, Draw, Sources, TensorPair
from napari_dmgn.synthesis.fields import DISPLAY_GAMMA, gaussian_blur, smooth_field

__all__ = [
    "GammaReflection",
    "GhostReflection",
    "LinearReflection",
    "ScreenReflection",
    "SharpReflection",
    "compose_reflection",
    "ghost",
]


def compose_reflection(
    background: Tensor, reflection: Tensor, *, scale: Tensor, gamma: Tensor, screen: Tensor
) -> TensorPair:
    """Superimpose a reflection.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
        B.
    reflection : (N, 3, H, W) float tensor in [0, 1]
        R, as it appears in the image.
    scale : (N, 3) float tensor, >= 0
        s: what the glass lets through of the background; s B is cut at 1.
    gamma : (N,) float tensor, >= 1
        g: 1 adds the pixel values, 2.2 adds light.
    screen : (N,) float tensor in [0, 1]
        q.
    """
    g, q = gamma[:, None, None, None], screen[:, None, None, None]
    behind = (background * scale[:, :, None, None]).clamp(max=1).pow(g)
    front = reflection.pow(g)
    return TensorPair(
        input=(behind + front - q * behind * front).clamp(0, 1).pow(1 / g),
        background=background,
        noise=reflection,
        parameters={"scale": scale, "gamma": gamma, "screen": screen},
    )


@dataclass(frozen=True, kw_only=True)
class LinearReflection:
    """Light added to light: the recipe of Zhang et al., "Single Image Reflection Separation with Perceptual Losses".

    Both pictures are linearised, the reflection blurred, lowered by what exceeds white, and
    attenuated away from a drawn centre. Where the paper rejects a reflected picture that is too dark
    for its background, here its light is multiplied, by four at most, until its mean is half of the
    background's.
    """

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the reflected light; 0 leaves the image as it is."""
    sigma: tuple[float, float] = (1.0, 5.0)
    """Range of the blur, in pixels."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        light = background.pow(DISPLAY_GAMMA)
        reflected = _as_bright_as_half(sources.layer_for(background).pow(DISPLAY_GAMMA), light)
        sigma = draw.uniform((n,), *self.sigma)
        reflected = gaussian_blur(reflected, sigma, torch.ceil(2 * sigma))
        attenuation = draw.uniform((n, 1, 1, 1), 1.08, 1.18)
        reflected = _lowered(light, reflected, attenuation, dim=(2, 3))
        reflected = self.strength * reflected * _vignette(background, draw)
        through = 1 - self.strength * draw.uniform((n, 1), 0, 0.2)
        return _in_linear_light(background, reflected, through.expand(n, 3), {"sigma": sigma})


@dataclass(frozen=True, kw_only=True)
class GammaReflection:
    """Pixel values added: the recipe of Fan et al.

    "A Generic Deep Architecture for Single Image Reflection Removal and Image Smoothing".
    """

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the reflection; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        sigma = draw.uniform((n,), 2, 5)
        reflected = gaussian_blur(sources.layer_for(background), sigma, torch.full_like(sigma, 5))
        excess = torch.full((n, 1, 1, 1), 1.3, dtype=torch.float32, device=background.device)
        reflected = self.strength * _lowered(background, reflected, excess, dim=(1, 2, 3))
        ones = torch.ones((n, 3), dtype=torch.float32, device=background.device)
        return _composed(background, reflected, ones, gamma=1, screen=0, drawn={"sigma": sigma})


@dataclass(frozen=True, kw_only=True)
class ScreenReflection:
    """A screen blend, with a glass that shifts the background's colours; blurred or sharp."""

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the reflection and of the glass's shift; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        sigma = draw.uniform((n,), 0, 4) * draw.chance((n,), 0.75)
        reflected = gaussian_blur(sources.layer_for(background), sigma)
        factor = self.strength * draw.uniform((n, 1, 1, 1), 0.4, 1)
        shift = _truncated_normal((n, 3), 0.1, 0.1, draw)
        scale = 1 + self.strength * shift
        return _composed(background, factor * reflected, scale, gamma=1, screen=1, drawn={"sigma": sigma})


@dataclass(frozen=True, kw_only=True)
class GhostReflection:
    """A double pane: the reflection twice, shifted, as light."""

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the reflected light; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        light = background.pow(DISPLAY_GAMMA)
        sigma = draw.uniform((n,), 0, 2)
        reflected = gaussian_blur(sources.layer_for(background).pow(DISPLAY_GAMMA), sigma)
        distance, angle = draw.uniform((n,), 1, 8), draw.uniform((n,), -math.pi, math.pi)
        shift = torch.stack([distance * torch.sin(angle), distance * torch.cos(angle)], 1).round()
        second = draw.uniform((n,), 0.25, 0.55)
        reflected = draw.uniform((n, 1, 1, 1), 0.3, 0.9) * ghost(reflected, shift, second)
        excess = torch.full((n, 1, 1, 1), 1.1, dtype=torch.float32, device=background.device)
        reflected = self.strength * _lowered(light, reflected, excess, dim=(2, 3))
        through = 1 - self.strength * draw.uniform((n, 1), 0, 0.2)
        drawn = {"sigma": sigma, "shift": shift, "second": second}
        return _in_linear_light(background, reflected, through.expand(n, 3), drawn)


@dataclass(frozen=True, kw_only=True)
class SharpReflection:
    """A sharp, faint reflection, as light, over the picture or over regions of it."""

    wants_layer: ClassVar[bool] = True
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the reflected light; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        reflected = sources.layer_for(background).pow(DISPLAY_GAMMA)
        factor = draw.uniform((n, 1, 1, 1), 0.08, 0.5)
        region = smooth_field(n, (background.shape[2], background.shape[3]), 3, draw)
        region = ((region - 0.35) * 4).clamp(0, 1)
        region = torch.where(draw.chance((n, 1, 1, 1), 0.5), region, 1)
        reflected = self.strength * factor * region * reflected
        through = 1 - self.strength * draw.uniform((n, 1), 0, 0.15)
        drawn = {"factor": factor.flatten()}
        return _in_linear_light(background, reflected, through.expand(n, 3), drawn)


def ghost(reflection: Tensor, shift: Tensor, second: Tensor) -> Tensor:
    """Add a second image of the reflection, from the pane's other face.

    Parameters
    ----------
    reflection : (N, C, H, W) float tensor
    shift : (N, 2) float tensor of whole numbers
        Rows down and columns to the right, in pixels; the border's pixels go on.
    second : (N,) float tensor in [0, 1]
        The second image's share of the light.
    """
    n, _, h, w = reflection.shape
    rows = (torch.arange(h, device=reflection.device) - shift[:, :1].long()).clamp(0, h - 1)
    columns = (torch.arange(w, device=reflection.device) - shift[:, 1:].long()).clamp(0, w - 1)
    image = torch.arange(n, device=reflection.device)[:, None, None]
    moved = reflection.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return torch.lerp(reflection, moved, second[:, None, None, None])


def _as_bright_as_half(reflected: Tensor, light: Tensor) -> Tensor:
    wanted = light.mean((1, 2, 3), keepdim=True) / 2
    factor = wanted / reflected.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (reflected * factor.clamp(1, 4)).clamp(max=1)


def _lowered(background: Tensor, reflected: Tensor, factor: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Lower the reflection by what the sum exceeds white, in the mean of the pixels that do."""
    total = background + reflected
    over = total > 1
    excess = (torch.where(over, total - 1, 0).sum(dim, keepdim=True)) / over.sum(dim, keepdim=True).clamp(min=1)
    return (reflected - factor * excess).clamp(0, 1)


def _vignette(images: Tensor, draw: Draw) -> Tensor:
    """Draw a window of a wide gaussian for each image: (N, 1, H, W) in (0, 1]."""
    n, _, h, w = images.shape
    # A 560 pixel wide gaussian of six standard deviations over pictures of 256, in units of their side.
    centre = draw.uniform((n, 2, 1, 1), -0.05, 1.1)
    y, x = draw.linspace(0, 1, h)[:, None], draw.linspace(0, 1, w)
    squared = (y - centre[:, :1]) ** 2 + (x - centre[:, 1:]) ** 2
    return torch.exp(-0.5 * squared / 0.36**2)


def _truncated_normal(shape: tuple[int, ...], mean: float, deviation: float, draw: Draw) -> Tensor:
    """Draw from a normal distribution cut at 2.5 deviations, by its inverse."""
    edge = math.erf(2.5 / math.sqrt(2))
    return mean + deviation * math.sqrt(2) * torch.erfinv(draw.uniform(shape, -edge, edge))


def _in_linear_light(background: Tensor, light: Tensor, through: Tensor, drawn: dict[str, Tensor]) -> TensorPair:
    """Compose with the reflected light and the transmittance for light, both as linear values."""
    root = 1 / DISPLAY_GAMMA
    return _composed(background, light.pow(root), through.pow(root), gamma=DISPLAY_GAMMA, screen=0, drawn=drawn)


def _composed(
    background: Tensor, reflection: Tensor, scale: Tensor, *, gamma: float, screen: float, drawn: dict[str, Tensor]
) -> TensorPair:
    like = scale[:, 0]
    pair = compose_reflection(
        background,
        reflection,
        scale=scale,
        gamma=torch.full_like(like, gamma),
        screen=torch.full_like(like, screen),
    )
    return TensorPair(input=pair.input, background=background, noise=pair.noise, parameters=drawn | pair.parameters)
