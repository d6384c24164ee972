"""Rain: streak layers from sparse drops, smeared along the direction of fall.

The sampler's ranges reproduce what was measured on a standard set of 100 light-rain images
(layer mean, 99th percentile, share of pixels above .05, angle, width and length of the streaks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import Degradation, Mixture, TensorPair, uniform

__all__ = [
    "HeavyRain",
    "LightRain",
    "NoRain",
    "RainLayers",
    "compose_rain",
    "rain_mixture",
    "streak_layer",
]


@dataclass(frozen=True, kw_only=True)
class RainLayers:
    """Parameters of K superimposed streak layers for N images; (N, K) float tensors.

    Attributes
    ----------
    mean : tensor
        Expected mean of the layer, in units of the image; 0 switches the layer off.
    angle : tensor
        Direction of fall from the vertical, in radians.
    length, width : tensor
        Length of a streak and full width at half maximum across it, in pixels.
    density : tensor
        Drops per pixel.
    """

    mean: Tensor
    angle: Tensor
    length: Tensor
    width: Tensor
    density: Tensor


def streak_layer(layers: RainLayers, size: tuple[int, int], generator: Generator) -> Tensor:
    """Render the sum of the layers' streaks.

    Each drop is a point of random brightness; convolved with a line of the layer's length and a
    gaussian profile across, it becomes a streak. The convolution is periodic, which costs one FFT
    for any length of streak and leaves no border effect.

    Parameters
    ----------
    layers : RainLayers
        N images of K layers.
    size : (H, W)
    generator : torch.Generator
        Places the drops; its device is where the work is done.

    Returns
    -------
    (N, 1, H, W) float32 tensor, >= 0
    """
    h, w = size
    n, k = layers.mean.shape
    device = generator.device
    chance = torch.rand((n, k, h, w), generator=generator, device=device)
    brightness = torch.rand((n, k, h, w), generator=generator, device=device)
    per_layer = [v.to(device)[:, :, None, None] for v in vars(layers).values()]
    mean, angle, length, width, density = per_layer
    # Squared: few bright streaks among many faint ones. Its mean is 1/3.
    drops = torch.where(chance < density, brightness**2, torch.zeros((), device=device))

    dy = _centred(h, device)[:, None]
    dx = _centred(w, device)
    along = dy * torch.cos(angle) + dx * torch.sin(angle)
    across = dx * torch.cos(angle) - dy * torch.sin(angle)
    sigma = width / (2 * math.sqrt(2 * math.log(2)))
    # Ends fade over two pixels: a hard end would ring on the pixel grid.
    line = torch.sigmoid((length / 2 - along.abs()) * 2) * torch.exp(-0.5 * (across / sigma) ** 2)
    line = line / line.sum(dim=(-2, -1), keepdim=True)
    spectrum = torch.fft.rfft2(drops) * torch.fft.rfft2(line)
    gain = mean * 3 / density  # the expected mean of the smeared drops is density / 3
    streaks: Tensor = torch.fft.irfft2(spectrum * gain, s=size)
    return streaks.clamp_min_(0).sum(dim=1, keepdim=True)


def _centred(size: int, device: torch.device) -> Tensor:
    i = torch.arange(size, device=device, dtype=torch.float32)
    return torch.where(i < size / 2, i, i - size)


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


@dataclass(frozen=True, kw_only=True)
class LightRain:
    """Thin streaks of one direction, white, added to the image."""

    strength: float = 1.0
    """Factor of the streaks' brightness; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        shape = (len(background), 1)
        layers = RainLayers(
            mean=self.strength * uniform(shape, 0.005, 0.045, generator),
            angle=uniform(shape, -0.56, 0.56, generator),  # +-32 degrees
            length=uniform(shape, 12, 60, generator),
            width=uniform(shape, 1.5, 3.5, generator),
            density=_log_uniform(shape, 0.0012, 0.008, generator),
        )
        screen = torch.zeros(len(background), device=generator.device)
        return _rain(background, layers, screen, generator)


@dataclass(frozen=True, kw_only=True)
class HeavyRain:
    """Two to five crossing layers of long, bright, thin and thick streaks."""

    strength: float = 1.0
    """Factor of the streaks' brightness; 0 leaves the image as it is."""

    def __call__(self, background: Tensor, generator: Generator) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]."""
        n, most = len(background), 5
        shape = (n, most)
        count = torch.randint(2, most + 1, (n, 1), generator=generator, device=generator.device)
        present = torch.arange(most, device=generator.device) < count
        total = uniform((n, 1), 0.04, 0.2, generator)
        share = uniform(shape, 0.2, 1.0, generator) * present
        layers = RainLayers(
            mean=self.strength * total * share / share.sum(1, keepdim=True),
            angle=uniform((n, 1), -0.6, 0.6, generator) + uniform(shape, -0.45, 0.45, generator),
            length=uniform(shape, 20, 60, generator),
            width=_log_uniform(shape, 1.2, 9, generator),
            density=_log_uniform(shape, 0.001, 0.01, generator),
        )
        screen = (uniform((n,), 0, 1, generator) < 0.5).float() * uniform((n,), 0, 1, generator)
        return _rain(background, layers, screen, generator)


class NoRain:
    """The image as it is: what teaches a network to leave clean pictures alone."""

    def __call__(self, background: Tensor, generator: Generator) -> TensorPair:
        """Return (N, 3, H, W) images with an empty noise layer."""
        return TensorPair(
            input=background,
            background=background,
            noise=torch.zeros_like(background),
            parameters={},
        )


def _rain(background: Tensor, layers: RainLayers, screen: Tensor, generator: Generator) -> TensorPair:
    streaks = streak_layer(layers, (background.shape[2], background.shape[3]), generator)
    pair = compose_rain(background, streaks.to(background.device), screen.to(background.device))
    return TensorPair(
        input=pair.input,
        background=background,
        noise=pair.noise,
        parameters={**vars(layers), **pair.parameters},
    )


def _log_uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.exp(uniform(shape, math.log(low), math.log(high), generator))


def rain_mixture(*, light: float = 0.5, heavy: float = 0.42, none: float = 0.08) -> Mixture:
    """Return the training mixture of rain, by weights."""
    parts: dict[str, Degradation] = {"light": LightRain(), "heavy": HeavyRain(), "none": NoRain()}
    return Mixture(parts, [light, heavy, none])
