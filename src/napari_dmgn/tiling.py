"""Sizes at which images are seen, and windows of tiled inference: integer geometry, one axis first, then two.

An axis of n pixels is cut into tiles. Each tile is *pasted* into the result; to compute it, a larger
part of the image is *read*, and of what was computed a part is *kept*. Positions are in the padded
image, whose length is a multiple of the network's stride, so that every window falls on its grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Span", "Window", "downscale_factor", "halved", "spans", "widened", "windows"]


def downscale_factor(asked: int | str, card: Mapping[str, Any], shape: tuple[int, int]) -> int:
    """Return the factor by which an image of (H, W) pixels is made smaller for a network.

    Parameters
    ----------
    asked : int or "auto"
        More than an image has pixels a side is as much as these.
    card : mapping
        Of the model. For "auto" its ``working_side``, in pixels, is what the shorter side keeps at least; a model whose
        card tells nothing sees every image as it is.
    shape : (H, W)
    """
    if asked != "auto":
        return min(int(asked), max(shape))
    side = card.get("working_side")
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        return 1
    return max(1, min(shape) // side)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One tile along one axis, in pixels of the padded image, ends excluded.

    Attributes
    ----------
    read : (start, stop)
        What the network sees.
    paste : (start, stop)
        What the tile contributes; lies within `read`.
    """

    read: tuple[int, int]
    paste: tuple[int, int]

    @property
    def keep(self) -> tuple[int, int]:
        """`paste`, relative to the start of `read`."""
        return self.paste[0] - self.read[0], self.paste[1] - self.read[0]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One tile of an image: a span of rows and a span of columns."""

    rows: Span
    columns: Span


def spans(length: int, *, tile: int, halo: int, stride: int) -> list[Span]:
    """Cut an axis into tiles.

    Parameters
    ----------
    length : int
        Pixels of the padded axis, a multiple of `stride`.
    tile : int
        Pixels that a tile contributes; a multiple of `stride`, at least one stride.
    halo : int
        Pixels read beyond the tile on each side, where the image has them; rounded up to `stride`.
    stride : int
        Pixels per position of the network's coarsest grid.

    Returns
    -------
    list of Span
        The pasted parts follow each other without gap or overlap. The tiles are as equal as the
        stride allows: a thin last tile would cost a whole halo.

    Raises
    ------
    ValueError
        A length or tile that is no positive multiple of the stride, or a negative halo.
    """
    if length < stride or length % stride or tile < stride or tile % stride or halo < 0:
        raise ValueError(
            f"length {length}, tile {tile}, halo {halo}; wanted positive multiples of {stride} and a halo of at least 0"
        )
    halo = -(-halo // stride) * stride
    count = -(-length // tile)
    positions = length // stride
    edges = [stride * (i * positions // count) for i in range(count + 1)]
    return [
        Span(read=(max(0, start - halo), min(length, stop + halo)), paste=(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]


def windows(size: tuple[int, int], *, tile: tuple[int, int], halo: int, stride: int) -> Iterator[Window]:
    """Cut a padded (H, W) image into windows, row by row; see `spans`."""
    rows = spans(size[0], tile=tile[0], halo=halo, stride=stride)
    columns = spans(size[1], tile=tile[1], halo=halo, stride=stride)
    return (Window(rows=r, columns=c) for r in rows for c in columns)


def halved(window: Window, *, size: tuple[int, int], halo: int, stride: int) -> Iterator[Window]:
    """Cut a window of a padded (H, W) image into two halves along each axis that is longer than a stride."""
    rows = _halved(window.rows, length=size[0], halo=halo, stride=stride)
    columns = _halved(window.columns, length=size[1], halo=halo, stride=stride)
    return (Window(rows=r, columns=c) for r in rows for c in columns)


def _halved(span: Span, *, length: int, halo: int, stride: int) -> list[Span]:
    start, stop = span.paste
    halo = -(-halo // stride) * stride
    middle = start + -(-(stop - start) // (2 * stride)) * stride
    edges = (start, middle, stop) if middle < stop else (start, stop)
    return [Span(read=(max(0, a - halo), min(length, b + halo)), paste=(a, b)) for a, b in itertools.pairwise(edges)]


def widened(window: Window, *, size: tuple[int, int], halo: int, stride: int) -> Window:
    """Return a window of a padded (H, W) image with another halo."""
    halo = -(-halo // stride) * stride
    rows, columns = (
        Span(read=(max(0, span.paste[0] - halo), min(length, span.paste[1] + halo)), paste=span.paste)
        for span, length in zip((window.rows, window.columns), size, strict=True)
    )
    return Window(rows=rows, columns=columns)
