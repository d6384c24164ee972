"""Synthetic pairs of clean pictures, in the parts that a task is validated on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.evaluation.reading import read_picture, unit
from napari_dmgn.evaluation.sets import Item, PairSet, central, crop_note, protocol_of, ranked_pictures
from napari_dmgn.paths import expanded
from napari_dmgn.zoo import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dmgn.synthesis.degradation import Degradation

__all__ = ["synthetic_set"]

Array = NDArray[Any]
Pictures = tuple[Array, Array]


def synthetic_set(
    folder: str | Path,
    task: str,
    *,
    parts: Sequence[str] | None = None,
    pairs: int = 48,
    seed: int = 0,
    crop: int | None = None,
    depth: str | Path | None = None,
    resembles: str | None = None,
) -> PairSet:
    """Return synthetic pairs of clean pictures: the same ones for the same seed and file names.

    Every part of the task's validation (thin haze, dense haze, ...) is put on the same pictures,
    which are ranked by the hash of their names, as training ranks those that it holds out: the
    first of the ranking are those that no training on this folder has seen. What is reflected in a
    picture is the next of the ranking.

    Parameters
    ----------
    folder : of clean pictures
    task : what to add, a task or one of the microscopes' kinds of noise (`synthesis.KINDS`)
    parts : names of parts of the task's validation; None takes all
    pairs : how many pairs, spread evenly over the parts
    seed : draws the noise
    crop : side of the central square to take; None takes whole pictures
    depth : folder of depth maps for haze, bright is far; where files are named *_depth, those are
        the maps; None draws random depth
    resembles : task that a kind which is none is removed as and scored by; None takes each model's own

    Raises
    ------
    ValueError
        The folder has no pictures, the task no synthesis or no such part, or there are fewer pairs than parts.
    """
    from napari_dmgn.data import depth_maps
    from napari_dmgn.synthesis.mixtures import validation_parts

    folder = expanded(folder)
    paths = ranked_pictures(folder)
    maps = [] if depth is None else depth_maps(ranked_pictures(expanded(depth)))
    known = validation_parts(task)
    chosen = list(dict.fromkeys(known if parts is None else parts))
    if unknown := [part for part in chosen if part not in known]:
        raise ValueError(f"{task} has no part {unknown[0]!r} (there are: {', '.join(known)})")
    if pairs < len(chosen) or not chosen:
        raise ValueError(f"{pairs} pairs for {len(chosen)} parts of {task}; wanted one for each part or more")
    items = []
    for place, part in enumerate(chosen):
        for index in range(len(range(place, pairs, len(chosen)))):
            path, turn = paths[index % len(paths)], index // len(paths)
            name = path.stem if turn == 0 else f"{path.stem} ({turn + 1})"
            load = _Recipe(
                clean=path,
                layer=paths[(index + 1) % len(paths)],
                depth=maps[index % len(maps)] if maps else None,
                degrade=known[part],
                # Of its own for each pair, whatever else is in the folder.
                seed=int.from_bytes(hashlib.sha256(os.fsencode(f"{seed}/{part}/{name}")).digest()[:7], "big"),
                crop=crop,
            )
            items.append(Item(name=name, part=part, load=load))
    known_as = task if task in TASKS else resembles
    given = "" if depth is None else ", depth maps given"
    return PairSet(
        name=f"{folder.resolve().name} (synthetic {task})",
        task=known_as,
        protocol=None if known_as is None else protocol_of(known_as),
        items=tuple(items),
        notes=(f"synthetic {task}, {pairs} pairs, seed {seed}{given}", *crop_note(crop)),
        folder=folder.resolve(),
    )


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """Makes one pair."""

    clean: Path
    layer: Path
    depth: Path | None
    degrade: Degradation
    seed: int
    crop: int | None

    def __call__(self) -> Pictures:
        """Return input and target, 8 bits as a camera gives them."""
        import torch

        from napari_dmgn.synthesis.degradation import Sources

        clean = _bytes(unit(central(read_picture(self.clean), self.crop)))
        height, width = clean.shape[:2]
        layer = depth = None
        if getattr(self.degrade, "wants_layer", False):
            layer = _fitted(self.layer, height, width)
            if self.layer == self.clean:  # the only picture reflects itself, upside down
                layer = layer.flip(2)
        if self.depth is not None and getattr(self.degrade, "wants_depth", False):
            depth = _fitted(self.depth, height, width).mean(dim=1, keepdim=True)
            low, high = depth.amin(), depth.amax()
            depth = (depth - low) / (high - low).clamp_min(1e-6)
        batch = torch.from_numpy(clean.transpose(2, 0, 1)[None] / np.float32(255))
        generator = torch.Generator().manual_seed(self.seed)
        degraded = self.degrade(batch, generator, Sources(layer=layer, depth=depth)).input
        return _bytes(degraded[0].permute(1, 2, 0).numpy().astype(np.float64)), clean


def _fitted(path: Path, height: int, width: int) -> Tensor:
    """Return the central part of a picture that fills a size, as (1, 3, height, width) in [0, 1]."""
    import torch
    from torch.nn.functional import interpolate

    picture = torch.from_numpy(unit(read_picture(path)).transpose(2, 0, 1)[None]).float()
    h, w = picture.shape[2:]
    scale = max(height / h, width / w)
    size = [max(height, round(h * scale)), max(width, round(w * scale))]
    picture = interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return picture[:, :, top : top + height, left : left + width].clamp(0, 1)


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(values.clip(0, 1) * 255), np.uint8)
