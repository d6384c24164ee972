"""What every degradation is: an operator, apart from the sampler of its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

__all__ = ["Clean", "Degradation", "Draw", "Mixture", "Sources", "TensorPair", "uniform"]


@dataclass(frozen=True, kw_only=True)
class TensorPair:
    """A batch of superimposed images and the layers they were made of.

    Attributes
    ----------
    input : (N, 3, H, W) float tensor in [0, 1]
        The image with noise, I.
    background : (N, 3, H, W) float tensor in [0, 1]
        The clean image, B.
    noise : (N, 3, H, W) float tensor in [0, 1]
        The noise layer as it appears in I.
    parameters : dict of (N, ...) float tensors
        What was drawn, by name.
    """

    input: Tensor
    background: Tensor
    noise: Tensor
    parameters: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a degradation may use beside the clean images.

    Attributes
    ----------
    layer : (N, 3, H, W) float tensor in [0, 1], or None
        Other pictures: what is reflected, or another plane of the specimen.
    depth : (N, 1, H, W) float tensor in [0, 1], or None
        Relative depth, 0 near.
    """

    layer: Tensor | None = None
    depth: Tensor | None = None

    def rows(self, chosen: Tensor) -> Sources:
        """Return the sources of the chosen images, a boolean or index tensor."""
        layer = None if self.layer is None else self.layer[chosen]
        depth = None if self.depth is None else self.depth[chosen]
        return Sources(layer=layer, depth=depth)

    def layer_for(self, background: Tensor) -> Tensor:
        """Return the layer.

        Raises
        ------
        ValueError
            There is none, or it has another shape than the background.
        """
        if self.layer is None or self.layer.shape != background.shape:
            seen = "missing" if self.layer is None else f"of shape {tuple(self.layer.shape)}"
            raise ValueError(f"the layer is {seen}; wanted another picture for each, {tuple(background.shape)}")
        return self.layer

    def depth_for(self, background: Tensor) -> Tensor | None:
        """Return the depth if there is any.

        Raises
        ------
        ValueError
            It does not have the background's shape with one channel.
        """
        wanted = (len(background), 1, *background.shape[2:])
        if self.depth is not None and self.depth.shape != wanted:
            raise ValueError(f"depth has shape {tuple(self.depth.shape)}; wanted {wanted}")
        return self.depth


NO_SOURCES = Sources()


class Degradation(Protocol):
    """Turns clean images into pairs; all randomness comes from the generator.

    A degradation that needs `Sources.layer` has the class attribute ``wants_layer = True``, one that
    can use `Sources.depth` has ``wants_depth = True``; without the attribute it does not.
    """

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1], each independently of the others."""
        ...


@dataclass(frozen=True, kw_only=True)
class Clean:
    """The image as it is: what teaches a network to leave clean pictures alone."""

    wants_layer: ClassVar[bool] = False
    wants_depth: ClassVar[bool] = False

    strength: float = 1.0
    """Without effect; every other degradation has one."""

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Return (N, 3, H, W) images with an empty noise layer."""
        return TensorPair(
            input=background,
            background=background,
            noise=torch.zeros_like(background),
            parameters={},
        )


class Mixture:
    """Draws one of several degradations for each image of a batch.

    Parameters
    ----------
    parts : mapping of str to Degradation
    weights : sequence of float
        One weight >= 0 per part; they need not sum to one.

    Attributes
    ----------
    wants_layer, wants_depth : bool
        Whether any part with a weight above 0 does.
    """

    def __init__(self, parts: Mapping[str, Degradation], weights: Sequence[float]) -> None:
        good = len(parts) == len(weights) and all(0 <= w < math.inf for w in weights) and sum(weights) > 0
        if not good:
            raise ValueError(f"mixture weights are {list(weights)}; wanted {len(parts)} numbers >= 0, not all zero")
        self.parts = dict(parts)
        self.weights = torch.tensor(list(weights), dtype=torch.float64, device="cpu")
        used = [part for part, weight in zip(self.parts.values(), weights, strict=True) if weight > 0]
        self.wants_layer = any(getattr(part, "wants_layer", False) for part in used)
        self.wants_depth = any(getattr(part, "wants_depth", False) for part in used)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw the index of a part for each of so many images: (count,) integer tensor."""
        weights = self.weights.to(generator.device)
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def __call__(self, background: Tensor, generator: Generator, sources: Sources = NO_SOURCES) -> TensorPair:
        """Degrade each image by a part drawn for it; `parameters["part"]` holds the part's index."""
        part = self.draw(len(background), generator).to(background.device)
        image, noise = background.clone(), torch.zeros_like(background)
        for i, degrade in enumerate(self.parts.values()):
            chosen = part == i
            if chosen.any():
                pair = degrade(background[chosen], generator, sources.rows(chosen))
                image[chosen], noise[chosen] = pair.input, pair.noise
        return TensorPair(input=image, background=background, noise=noise, parameters={"part": part.float()})


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Draw from U(low, high) on the generator's device, in float32."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float32, device=generator.device)


@dataclass(frozen=True)
class Draw:
    """Random tensors on a device from a generator that may live on another, and plain ones beside them.

    The numbers depend on the generator alone: a CPU's generator gives the same pair on every device, and
    torch's default type and device, which callers may have set, change none of them.
    """

    generator: Generator
    device: torch.device

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Draw from U(low, high)."""
        return uniform(shape, low, high, self.generator).to(self.device)

    def log_uniform(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """Draw numbers whose logarithms are uniform."""
        return torch.exp(self.uniform(shape, math.log(low), math.log(high)))

    def chance(self, shape: tuple[int, ...], probability: float) -> Tensor:
        """Draw a boolean tensor, true with a probability."""
        return self.uniform(shape, 0, 1) < probability

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw from the standard normal distribution."""
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float32, device=self.generator.device)
        return drawn.to(self.device)

    def tensor(self, values: Sequence[float]) -> Tensor:
        """Return numbers as a float32 tensor."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def linspace(self, first: float, last: float, count: int) -> Tensor:
        """Return evenly spaced float32 numbers."""
        return torch.linspace(first, last, count, dtype=torch.float32, device=self.device)
