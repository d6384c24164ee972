"""Models averaged: the weights of several stages of a training, which is often better than each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor

from napari_dmgn import checkpoint
from napari_dmgn.model.growth import can_grow

__all__ = ["average_models"]

# What a card says of one file's own weights.
_OF_ONE = ("scores", "comparison")


def average_models(
    paths: Sequence[str | Path], output: str | Path, *, shares: Sequence[float] | None = None
) -> list[dict[str, str | float]]:
    """Write the weighted mean of models that descend from one another.

    The ends of two trainings from the same weights mostly lie in one valley of the loss, and a point between
    them loses less than either where they have different strengths (Wortsman et al., "Model soups", ICML 2022).
    Models of different origin have nothing in common to average.

    Parameters
    ----------
    paths : sequence of path
        Two model files or more, of one task and one network; or of networks that one of them continues
        (`model.growth`). Gains that a file lacks count as 0, as they are there; further cells are averaged over
        the files that have them, for a part of a cell does less than its part.
    output : path
        A .safetensors file; float16 where all files are (`checkpoint.halve`).
    shares : sequence of float, optional
        Share of each file, above 0; their sum counts as 1. Default: equal.

    Returns
    -------
    list of dict
        sha256 and share of each file, also in the card as "averaged"; what else the card says is the last
        file's, without its scores.

    Raises
    ------
    ValueError
        Fewer than two files, other tasks or networks, or wrong shares.
    """
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} models to average; wanted two or more")
    shares = _checked([1.0] * len(paths) if shares is None else shares, len(paths))
    models = [checkpoint.load(path) for path in paths]
    first = models[0]
    for path, model in zip(paths[1:], models[1:], strict=True):
        if model.metadata.task != first.metadata.task:
            raise ValueError(f"{path} is for {model.metadata.task}; wanted {first.metadata.task} as {paths[0]} is")
    largest = max(models, key=lambda model: sum(can_grow(other.config, model.config) for other in models))
    for path, model in zip(paths, models, strict=True):
        if not can_grow(model.config, largest.config):
            raise ValueError(f"{path} has another network than {paths[models.index(largest)]}")
    states = [model.network.state_dict() for model in models]
    mean = {name: _mean(name, shares, states) for name in largest.network.state_dict()}
    network = largest.network
    network.load_state_dict(mean)
    if all(checkpoint.is_halved(checkpoint.read_header(path)) for path in paths):
        network = checkpoint.halve(network)
    used: list[dict[str, str | float]] = [
        {"sha256": str(model.metadata.sha256), "share": share / math.fsum(shares)}
        for model, share in zip(models, shares, strict=True)
    ]
    card = {name: value for name, value in models[-1].metadata.card.items() if name not in _OF_ONE}
    checkpoint.save(output, network, task=first.metadata.task, card={**card, "averaged": used})
    return used


def _mean(name: str, shares: Sequence[float], states: Sequence[Mapping[str, Tensor]]) -> Tensor:
    having = [(share, state[name].double()) for share, state in zip(shares, states, strict=True) if name in state]
    total = math.fsum(shares if ".gain." in name else [share for share, _ in having])
    return torch.stack([share / total * tensor for share, tensor in having]).sum(0).float()


def _checked(shares: object, count: int) -> list[float]:
    given = list(shares) if isinstance(shares, Iterable) else []
    numbers = [float(share) for share in given if not isinstance(share, bool) and isinstance(share, Real)]
    if not len(given) == len(numbers) == count or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(f"shares are {shares!r}; wanted {count} numbers above 0")
    return numbers
