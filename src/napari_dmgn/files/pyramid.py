"""The coarser levels of an OME-Zarr image, made block by block of the finest."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.files.image_file import Array
from napari_dmgn.files.ome_zarr import import_zarr

__all__ = ["Block", "blocks", "fill"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some chunks of a level, and the level; written by one hand, so that blocks can be filled at the same time."""

    level: int
    region: tuple[slice, ...]


def blocks(path: Path, *, side: int = 1024) -> Iterator[list[Block]]:
    """Yield the blocks of each level above the finest; a level needs the one before it.

    `side` is rows and columns of a block, at least; a block holds whole chunks.
    """
    group = import_zarr().open_group(path, mode="r")
    for level in itertools.count(1):
        if str(level) not in group:
            return
        array = group[str(level)]
        sides = list(array.chunks)
        sides[-2:] = [chunk * max(1, side // chunk) for chunk in array.chunks[-2:]]
        steps = [
            [slice(start, min(start + step, n)) for start in range(0, n, step)]
            for n, step in zip(array.shape, sides, strict=True)
        ]
        yield [Block(level=level, region=region) for region in itertools.product(*steps)]


def fill(path: Path, block: Block) -> None:
    """Write a block: the means of 2 x 2 pixels of the next finer level."""
    group = import_zarr().open_group(path, mode="r+")
    finer, array = group[str(block.level - 1)], group[str(block.level)]
    rows, columns = (slice(2 * part.start, 2 * part.stop) for part in block.region[-2:])
    array[block.region] = _halved(np.asarray(finer[(*block.region[:-2], rows, columns)]))


def _halved(values: Array) -> Array:
    """Means over pairs of the last two axes; an odd last row or column stands for two."""
    odd: list[Any] = [(0, 0)] * (values.ndim - 2) + [(0, side % 2) for side in values.shape[-2:]]
    padded = np.pad(values, odd, mode="edge").astype(np.float64)
    *others, h, w = padded.shape
    means = padded.reshape(*others, h // 2, 2, w // 2, 2).mean(axis=(-3, -1))
    if values.dtype.kind != "f":
        means = np.rint(means)
    halved: Array = means.astype(values.dtype)
    return halved
