"""Batches of pairs from weighted sources: crops first, then what is put on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from napari_dmgn.data.pool import PicturePool
from napari_dmgn.synthesis.degradation import Degradation, Sources, TensorPair
from napari_dmgn.synthesis.variation import Variation

__all__ = ["Batches", "Crops", "Extras", "Source", "noise_of_pair"]

# Each use of randomness in a step has a stream of its own.
_PICTURES, _CHOICE, _LAYER, _DEPTH, _DEGRADATION, _VARIATION, _LAYER_VARIATION = range(7)
_UNVARIED = Variation()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A pool and its share of the batches."""

    pool: PicturePool
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What batches are made with beside their sources.

    Attributes
    ----------
    degrade : Degradation
        Put on clean pictures.
    task : str
        Decides what the noise of a pair of pictures is; see `noise_of_pair`.
    depth : PicturePool or None
        Depth maps, in [0, 1], for degradations that want one; they need not belong to the pictures.
    rescale : (low, high)
    upright : bool
        See `PicturePool.crops`.
    variation : Variation
        Of the clean pictures, and of the second ones that are put on them.
    """

    degrade: Degradation
    task: str
    depth: PicturePool | None = None
    rescale: tuple[float, float] = (1.0, 1.0)
    upright: bool = False
    variation: Variation = _UNVARIED


@dataclass(frozen=True, kw_only=True)
class Crops:
    """What was drawn for one batch.

    Attributes
    ----------
    clean : (N, 3, H, W) float tensor or None
    pairs : (M, 2, 3, H, W) float tensor or None
        Inputs and backgrounds.
    layer : (N, 3, H, W) float tensor or None
        A second picture for each clean one.
    depth : (N, 1, H, W) float tensor or None
    """

    clean: Tensor | None
    pairs: Tensor | None
    layer: Tensor | None = None
    depth: Tensor | None = None


class Batches:
    """Draws batches from sources.

    Parameters
    ----------
    sources : sequence of Source
    extras : Extras
    device : torch.device
        Where batches are made.
    """

    def __init__(self, sources: Sequence[Source], extras: Extras, device: torch.device) -> None:
        assert sources
        self.sources = list(sources)
        self.extras = extras
        self.device = device

    def crops(self, count: int, size: int, seed: int, *, group: int = 0) -> Crops:
        """Draw the pictures of a batch.

        Parameters
        ----------
        count, size : int
            Pictures and their side.
        seed : int
            The same gives the same batch, on any device.
        group : int
            Batches of one seed that are made apart.
        """
        generator = self._generator(seed, group, _PICTURES)
        drawn: dict[int, list[Tensor]] = {1: [], 2: []}
        shares = _shares(self.sources, count, self._generator(seed, group, _CHOICE))
        for source, n in zip(self.sources, shares, strict=True):
            if n:
                crops = self._cut(source.pool, n, size, generator)
                drawn[source.pool.layers].append(crops.to(self.device))
        clean = torch.cat(drawn[1])[:, 0] if drawn[1] else None
        pairs = torch.cat(drawn[2]) if drawn[2] else None
        if clean is None:
            return Crops(clean=None, pairs=pairs)
        return Crops(
            clean=clean,
            pairs=pairs,
            layer=self._layer(len(clean), size, seed, group),
            depth=self._depth(len(clean), size, seed, group),
        )

    def _layer(self, count: int, size: int, seed: int, group: int) -> Tensor | None:
        if not getattr(self.extras.degrade, "wants_layer", False):
            return None
        generator = self._generator(seed, group, _LAYER)
        clean = [source for source in self.sources if source.pool.layers == 1]
        shares = _shares(clean, count, generator)
        cut = [self._cut(source.pool, n, size, generator) for source, n in zip(clean, shares, strict=True) if n]
        layers = torch.cat([crops.to(self.device) for crops in cut])[:, 0]
        if len(cut) == 1:
            return layers
        # The pictures come source by source, too: unmixed, each source would be reflected in itself.
        return layers[torch.randperm(count, generator=generator, device="cpu").to(self.device)]

    def _cut(self, pool: PicturePool, count: int, size: int, generator: torch.Generator) -> Tensor:
        return pool.crops(count, size, generator, rescale=self.extras.rescale, upright=self.extras.upright)

    def _depth(self, count: int, size: int, seed: int, group: int) -> Tensor | None:
        pool = self.extras.depth
        if pool is None or not getattr(self.extras.degrade, "wants_depth", False):
            return None
        crops = pool.crops(count, size, self._generator(seed, group, _DEPTH), upright=self.extras.upright)
        return crops[:, 0, :1].to(self.device)

    def pair(self, crops: Crops, seed: int, *, group: int = 0) -> TensorPair:
        """Put the degradation on clean crops, and set pairs of pictures beside them.

        Each batch has the clean crops first; what was drawn is in `parameters` only where there are
        no pairs of pictures.
        """
        parts = []
        if crops.clean is not None:
            clean, layer = self._varied(crops, seed, group)
            generator = torch.Generator(device=self.device)
            generator.manual_seed(_stream(seed, group, _DEGRADATION))
            parts.append(self.extras.degrade(clean, generator, Sources(layer=layer, depth=crops.depth)))
        if crops.pairs is not None:
            image, background = crops.pairs[:, 0], crops.pairs[:, 1]
            noise = noise_of_pair(image, background, self.extras.task)
            parts.append(TensorPair(input=image, background=background, noise=noise, parameters={}))
        if len(parts) == 1:
            return parts[0]
        joined = {n: torch.cat([getattr(p, n) for p in parts]) for n in ("input", "background", "noise")}
        return TensorPair(**joined, parameters={})

    def _varied(self, crops: Crops, seed: int, group: int) -> tuple[Tensor, Tensor | None]:
        assert crops.clean is not None
        if not self.extras.variation:
            return crops.clean, crops.layer
        clean = self.extras.variation.scenes(crops.clean, self._generator(seed, group, _VARIATION))
        if crops.layer is None:
            return clean, None
        return clean, self.extras.variation.layers(crops.layer, self._generator(seed, group, _LAYER_VARIATION))

    def _generator(self, seed: int, group: int, stream: int) -> Generator:
        # On the CPU: what is drawn does not depend on the device.
        return torch.Generator().manual_seed(_stream(seed, group, stream))


def _shares(sources: Sequence[Source], count: int, generator: Generator) -> list[int]:
    """Draw how many of so many pictures come from each source."""
    if len(sources) == 1:
        return [count]
    weights = torch.tensor([source.weight for source in sources], dtype=torch.float64, device="cpu")
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.bincount(chosen, minlength=len(sources)).tolist()


def _stream(seed: int, group: int, stream: int) -> int:
    if group == stream == 0:
        return seed
    # Hashed, not shifted: the CPU's generator heeds the lowest 32 bits of a seed only.
    digest = hashlib.sha256(f"{seed} {group} {stream}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def noise_of_pair(image: Tensor, background: Tensor, task: str) -> Tensor:
    """Return the noise layer of pictures whose own layer is not known, in [0, 1].

    Rain and reflections add light: what the background lacks. A veil of haze may also darken what is
    brighter than the airlight: the size of the difference.

    Parameters
    ----------
    image, background : (N, 3, H, W) float tensors in [0, 1]
    task : str
    """
    difference = image - background
    return (difference.abs() if task == "haze" else difference).clamp(0, 1)
