"""What a camera does to the light: a dim exposure, sensor noise, compression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import NO_SOURCES, Draw, Sources, TensorPair
from napari_dmgn.synthesis.jpeg import jpeg

__all__ = ["PhotoEffects"]


@dataclass(frozen=True, kw_only=True)
class PhotoEffects:
    """A degradation whose input then goes through a camera.

    I' = jpeg(I^gamma + noise). Only the input changes: the background stays the clean image and the
    noise layer the physical one, so that the degradation's formula gives I, not I', from them.
    """

    degrade: Any
    """The degradation, a dataclass with a strength."""
    strength: float = 1.0
    """Factor of the degradation's strength and of the sensor noise; 0 leaves the image as it is."""
    share: float = 1.0
    """Share of the images that go through the camera."""
    noise: tuple[float, float] = (1 / 255, 8 / 255)
    """Range of the noise's standard deviation at white."""
    quality: tuple[float, float] = (30, 95)
    """Range of the JPEG quality."""
    dim: float = 0.0
    """Share of the images that are darkened."""
    gamma: tuple[float, float] = (1.5, 3.0)
    """Range of the exponent that darkens."""

    @property
    def wants_layer(self) -> bool:
        """Whether the degradation needs another picture."""
        return bool(getattr(self.degrade, "wants_layer", False))

    @property
    def wants_depth(self) -> bool:
        """Whether the degradation can use depth."""
        return bool(getattr(self.degrade, "wants_depth", False))

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1]; a `quality` of 0 in the parameters stands for no camera."""
        inner = replace(self.degrade, strength=self.strength * self.degrade.strength)
        pair: TensorPair = inner(background, generator, sources)
        if self.strength == 0:
            return pair
        n, draw = len(background), Draw(generator, background.device)
        taken = draw.chance((n,), self.share)
        dim = taken & draw.chance((n,), self.dim)
        gamma = torch.where(dim, draw.uniform((n,), *self.gamma), 1)
        deviation = taken * (self.strength * draw.log_uniform((n,), *self.noise))
        quality = taken * draw.uniform((n,), *self.quality).round()
        exposed = pair.input.pow(gamma[:, None, None, None])
        # Shot noise: its variance grows with the light, above a floor.
        spread = deviation[:, None, None, None] * (0.3 + 0.7 * exposed).sqrt()
        noisy = exposed + spread * draw.normal(tuple(exposed.shape))
        developed = jpeg(noisy, quality.clamp(min=1))
        seen = torch.where(taken[:, None, None, None], developed, pair.input)
        drawn = {"gamma": gamma, "sensor_noise": deviation, "quality": quality}
        return TensorPair(input=seen, background=background, noise=pair.noise, parameters=pair.parameters | drawn)
