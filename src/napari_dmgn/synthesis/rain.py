"""Rain: streaks in the air, and the veil of those too far to be seen apart.

The sampler of light rain reproduces what was measured on a standard set of 100 light-rain images
(layer mean, 99th percentile, share of pixels above .05, angle, width and length of the streaks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import NO_SOURCES, Draw, Sources, TensorPair
from napari_dmgn.synthesis.fields import smooth_field
from napari_dmgn.synthesis.haze import beta_for, scene_depth
from napari_dmgn.synthesis.streaks import RainLayers, streak_layer

__all__ = [
    "HeavyRain",
    "LightRain",
    "SeenRain",
    "VeiledRain",
    "compose_rain",
    "compose_seen_rain",
]


def compose_rain(background: Tensor, streaks: Tensor, screen: Tensor) -> TensorPair:
    """Superimpose a streak layer.

    I = clip(B + R), R = S (1 - screen B): screen 0 adds the streaks, screen 1 blends them
    (B + S - B S), which keeps bright skies from clipping.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
    streaks : (N, 1 or 3, H, W) float tensor, >= 0
        S.
    screen : (N,) float tensor in [0, 1]
    """
    noise = (streaks * (1 - screen[:, None, None, None] * background)).clamp(0, 1)
    return TensorPair(
        input=(background + noise).clamp(0, 1),
        background=background,
        noise=noise,
        parameters={"screen": screen},
    )


def compose_seen_rain(background: Tensor, cover: Tensor, colour: Tensor) -> TensorPair:
    """Superimpose drops and mist of one colour, which cover what lies behind.

    I = B (1 - a) + R, R = C a: what covers the share a of a pixel has the colour C. On a bright sky
    such streaks are dark. a = 1 - t (1 - S) for streaks S in front of a veil of transmission t.

    Parameters
    ----------
    background : (N, 3, H, W) float tensor in [0, 1]
    cover : (N, 1, H, W) float tensor in [0, 1]
        a.
    colour : (N, 3) float tensor in (0, 1]
        C.
    """
    noise = colour[:, :, None, None] * cover
    return TensorPair(
        input=(background * (1 - cover) + noise).clamp(max=1),
        background=background,
        noise=noise,
        parameters={"colour": colour},
    )


@dataclass(frozen=True, kw_only=True)
class LightRain:
    """Thin streaks of one direction, white, added to the image."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the streaks' brightness; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        shape = (n, 1)
        layers = RainLayers(
            mean=self.strength * draw.uniform(shape, 0.005, 0.045),
            angle=draw.uniform(shape, -0.56, 0.56),  # +-32 degrees
            length=draw.uniform(shape, 12, 60),
            width=draw.uniform(shape, 1.5, 3.5),
            density=draw.log_uniform(shape, 0.0012, 0.008),
        )
        screen = torch.zeros(n, dtype=torch.float32, device=background.device)
        return _rain(background, layers, screen, generator)


@dataclass(frozen=True, kw_only=True)
class HeavyRain:
    """Two to five crossing layers of long, bright, thin and thick streaks."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Factor of the streaks' brightness; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, most, draw = len(background), 5, Draw(generator, background.device)
        shape = (n, most)
        count = torch.randint(2, most + 1, (n, 1), generator=generator, device=generator.device)
        present = torch.arange(most, device=background.device) < count.to(background.device)
        total = draw.uniform((n, 1), 0.04, 0.2)
        share = draw.uniform(shape, 0.2, 1.0) * present
        layers = RainLayers(
            mean=self.strength * total * share / share.sum(1, keepdim=True),
            angle=draw.uniform((n, 1), -0.6, 0.6) + draw.uniform(shape, -0.45, 0.45),
            length=draw.uniform(shape, 20, 60),
            width=draw.log_uniform(shape, 1.2, 9),
            density=draw.log_uniform(shape, 0.001, 0.01),
        )
        screen = draw.chance((n,), 0.5).float() * draw.uniform((n,), 0, 1)
        return _rain(background, layers, screen, generator)


@dataclass(frozen=True, kw_only=True)
class VeiledRain:
    """Streaks in front of a veil of far rain: I = clip(t (B + S) + (1 - t) A).

    The noise layer is t S + (1 - t) A. The transmission t falls with depth: the parameters hold it
    as a map.
    """

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = True

    strength: float = 1.0
    """Factor of the streaks' brightness and of the veil's scattering; 0 leaves the image as it is."""
    real_depth: float = 1.0
    """Share of the images that get the given depth, if any is given."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        layers = _few_layers(n, self.strength, draw)
        transmission = _veil(background, draw, sources, self.real_depth, (0.4, 0.95), self.strength)
        airlight = draw.uniform((n,), 0.3, 0.9)
        streaks = streak_layer(layers, (background.shape[2], background.shape[3]), generator)
        noise = (transmission * streaks + (1 - transmission) * airlight[:, None, None, None]).clamp(max=1)
        drawn = {**vars(layers), "airlight": airlight, "transmission": transmission}
        return TensorPair(
            input=(transmission * background + noise).clamp(0, 1),
            background=background,
            noise=noise.expand_as(background).clone(),
            parameters=drawn,
        )


@dataclass(frozen=True, kw_only=True)
class SeenRain:
    """Rain as in photographs: short or long, fine or blurred, uneven, gray or slightly blue, in mist.

    Streaks and mist have one colour and cover what lies behind: see `compose_seen_rain`.
    """

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = True

    strength: float = 1.0
    """Factor of the streaks' cover and of the mist's scattering; 0 leaves the image as it is."""
    real_depth: float = 1.0
    """Share of the images that get the given depth, if any is given."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, draw = len(background), Draw(generator, background.device)
        size = (background.shape[2], background.shape[3])
        layers = _few_layers(n, self.strength, draw)
        clear = _veil(background, draw, sources, self.real_depth, (0.6, 0.98), self.strength)
        transmission = torch.where(draw.chance((n, 1, 1, 1), 0.5), clear, 1)
        # Light and wind make rain patchy.
        patchy = draw.uniform((n, 1, 1, 1), 0, 0.9)
        patches = 1 + patchy * (2 * smooth_field(n, size, 3, draw) - 1)
        blue = draw.uniform((n, 1), 0, 1) * draw.tensor([0.12, 0.05, 0.0])
        colour = draw.uniform((n, 1), 0.6, 1) * (1 - blue)
        streaks = (streak_layer(layers, size, generator) * patches).clamp(max=1)
        pair = compose_seen_rain(background, 1 - transmission * (1 - streaks), colour)
        return TensorPair(
            input=pair.input,
            background=background,
            noise=pair.noise,
            parameters={**vars(layers), **pair.parameters, "transmission": transmission.mean((1, 2, 3))},
        )


def _few_layers(n: int, strength: float, draw: Draw) -> RainLayers:
    """Draw one to three layers of about one direction, fine and short to coarse and long."""
    shape = (n, 3)
    present = torch.arange(3, device=draw.device) < draw.uniform((n, 1), 1, 4).floor()
    width = draw.log_uniform(shape, 1.0, 4)
    # A drop blurred into a disc would be snow.
    length = torch.maximum(draw.log_uniform(shape, 8, 60), 5 * width)
    density = draw.log_uniform(shape, 0.0015, 0.03)
    # Drops are seen through: what is drawn is how bright the brightest streaks are, about 1 at most.
    # A gaussian of unit full width at half maximum and height has the area 1.06; a third is the mean
    # brightness of the drops.
    brightest = draw.uniform(shape, 0.25, 1.3)
    mean = (brightest * density * length * width * 1.06 / 3).clamp(max=0.08)
    return RainLayers(
        mean=strength * mean * present,
        angle=draw.uniform((n, 1), -0.6, 0.6) + draw.uniform(shape, -0.12, 0.12),
        length=length,
        width=width,
        density=density,
    )


def _veil(
    background: Tensor,
    draw: Draw,
    sources: Sources,
    real_depth: float,
    transmission: tuple[float, float],
    strength: float,
) -> Tensor:
    n = len(background)
    depth = 0.2 + 0.8 * scene_depth(background, draw, sources, real_depth)
    beta = strength * beta_for(depth, draw.uniform((n,), *transmission))
    return torch.exp(-beta[:, None, None, None] * depth)


def _rain(background: Tensor, layers: RainLayers, screen: Tensor, generator: Generator) -> TensorPair:
    streaks = streak_layer(layers, (background.shape[2], background.shape[3]), generator)
    pair = compose_rain(background, streaks, screen)
    return TensorPair(
        input=pair.input,
        background=background,
        noise=pair.noise,
        parameters={**vars(layers), **pair.parameters},
    )
