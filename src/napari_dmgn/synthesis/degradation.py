"""What every degradation is: an operator, apart from the sampler of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

__all__ = ["Degradation", "Mixture", "TensorPair", "uniform"]


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


class Degradation(Protocol):
    """Turns clean images into pairs; all randomness comes from the generator."""

    def __call__(self, background: Tensor, generator: Generator) -> TensorPair:
        """Degrade (N, 3, H, W) images in [0, 1], each independently of the others."""
        ...


class Mixture:
    """Draws one of several degradations for each image of a batch.

    Parameters
    ----------
    parts : mapping of str to Degradation
    weights : sequence of float
        One weight >= 0 per part; they need not sum to one.
    """

    def __init__(self, parts: Mapping[str, Degradation], weights: Sequence[float]) -> None:
        if len(parts) != len(weights) or not all(w >= 0 for w in weights) or sum(weights) <= 0:
            raise ValueError(f"mixture weights are {list(weights)}; wanted {len(parts)} numbers >= 0, not all zero")
        self.parts = dict(parts)
        self.weights = torch.tensor(list(weights), dtype=torch.float64)

    def __call__(self, background: Tensor, generator: Generator) -> TensorPair:
        """Degrade each image by a part drawn for it; `parameters["part"]` holds the part's index."""
        n = len(background)
        weights = self.weights.to(generator.device)
        part = torch.multinomial(weights, n, replacement=True, generator=generator).to(background.device)
        image, noise = background.clone(), torch.zeros_like(background)
        for i, degrade in enumerate(self.parts.values()):
            chosen = part == i
            if chosen.any():
                pair = degrade(background[chosen], generator)
                image[chosen], noise[chosen] = pair.input, pair.noise
        return TensorPair(input=image, background=background, noise=noise, parameters={"part": part.float()})


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Draw from U(low, high) on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)
