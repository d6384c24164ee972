"""Operators with a kernel on maps that pass by row by row: convolution, pooling, padding, change of size.

Importing this module makes torch's functions of these names take `Rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dmgn.inference.rows import Rows, align, operator, tail

__all__: list[str] = []


@operator("cat")
def _cat(maps: Sequence[Rows], dim: int = 0) -> Rows:
    assert dim == 1
    aligned = align(*maps)
    channels = sum(m.shape[1] for m in maps)
    if aligned[0].data is None:
        return aligned[0].like(None, channels=channels)
    return aligned[0].like(torch.cat([m.data for m in aligned if m.data is not None], dim=1), channels=channels)


@operator("conv2d")
def _conv2d(
    x: Rows,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> Rows:
    reach = dilation[0] * (weight.shape[2] - 1)
    wide = dilation[1] * (weight.shape[3] - 1)
    n, _, h, w = x.shape
    height = (h + 2 * padding[0] - reach - 1) // stride[0] + 1
    shape = (n, weight.shape[0], height, (w + 2 * padding[1] - wide - 1) // stride[1] + 1)

    def convolve(block: Tensor) -> Tensor:
        return F.conv2d(block, weight, bias, stride, (0, padding[1]), dilation, groups)

    if reach == 0 and stride[0] == 1 and padding[0] == 0:
        return Rows(x.tape, None if x.data is None else convolve(x.data), x.start, shape)
    return _windowed(x, shape, convolve, step=stride[0], before=padding[0], reach=reach)


@operator("max_pool2d")
def _max_pool2d(x: Rows, kernel_size: int, stride: Any = None, *_: Any, **__: Any) -> Rows:
    assert kernel_size == 2
    assert stride in (None, 2)
    n, c, h, w = x.shape
    return _windowed(x, (n, c, h // 2, w // 2), lambda block: F.max_pool2d(block, 2), step=2, before=0, reach=1)


@operator("pixel_unshuffle")
def _pixel_unshuffle(x: Rows, factor: int) -> Rows:
    n, c, h, w = x.shape
    shape = (n, c * factor**2, h // factor, w // factor)
    return _windowed(x, shape, lambda block: F.pixel_unshuffle(block, factor), step=factor, before=0, reach=factor - 1)


def _windowed(
    x: Rows,
    shape: tuple[int, ...],
    function: Callable[[Tensor], Tensor],
    *,
    step: int,
    before: int,
    reach: int,
) -> Rows:
    """Output row i is a function of rows i step - before ... i step - before + reach; beyond the map they are 0."""

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.below(rest)  # rows first ... x.stop
        ready = shape[2] if x.stop == x.shape[2] else max(done, (x.stop - 1 - reach + before) // step + 1)
        ready = min(ready, shape[2])
        out = None
        if ready > done and data is not None:
            top, bottom = done * step - before, (ready - 1) * step - before + reach + 1
            block = data[:, :, max(top, 0) - first : min(bottom, x.stop) - first]
            missing = max(0, -top), max(0, bottom - x.stop)
            if any(missing):
                block = F.pad(block, (0, 0, *missing))
            out = function(block)
        keep = min(max(ready * step - before, first), x.stop)
        return Rows(x.tape, out, done, shape), (tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result


@operator("pad")
def _pad(x: Rows, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Rows:
    left, right, top, bottom = (*pad, 0, 0)[:4]
    n, c, h, w = x.shape
    shape = (n, c, h + top + bottom, w + left + right)

    def widened(data: Tensor | None) -> Tensor | None:
        if data is None or (left == 0 and right == 0):
            return data
        return F.pad(data, (left, right, 0, 0), mode=mode)

    if top == 0 and bottom == 0:
        return Rows(x.tape, widened(x.data), x.start, shape)

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.like(widened(x.data)).below(rest)  # rows first ... x.stop
        ends = x.stop == h
        if data is None or (x.stop <= top and not ends):  # a reflection needs one row more than it shows
            return Rows(x.tape, None, done, shape), (data, first, done)
        pieces = [data[:, :, max(done - top, 0) - first :]]
        if done == 0 and top:
            pieces.insert(0, _beyond(data[:, :, : top + 1], top, mode, above=True))
        if ends and bottom:
            pieces.append(_beyond(data[:, :, -bottom - 1 :], bottom, mode, above=False))
        out = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        count = min(bottom + 1, data.shape[2])
        ready = shape[2] if ends else x.stop + top
        return Rows(x.tape, out, done, shape), (tail(data, count), x.stop - count, ready)

    result: Rows = x.tape.turn(turn)
    return result


def _beyond(edge: Tensor, count: int, mode: str, *, above: bool) -> Tensor:
    """The rows beyond a border, from `count` + 1 rows inside it."""
    if mode == "reflect":
        return (edge[:, :, 1:] if above else edge[:, :, :-1]).flip(2)
    if mode != "constant":
        raise NotImplementedError(f"padding {mode!r} does not work row by row")
    return edge.new_zeros((*edge.shape[:2], count, edge.shape[3]))


@operator("pixel_shuffle")
def _pixel_shuffle(x: Rows, factor: int) -> Rows:
    n, c, h, w = x.shape
    shape = (n, c // factor**2, h * factor, w * factor)
    return Rows(x.tape, None if x.data is None else F.pixel_shuffle(x.data, factor), x.start * factor, shape)


@operator("interpolate")
def _interpolate(
    x: Rows,
    size: Any = None,
    scale_factor: float | None = None,
    mode: str = "",
    align_corners: bool | None = None,
    **_: Any,
) -> Rows:
    assert mode == "bilinear"
    n, c, h, w = x.shape
    if size is None:
        assert scale_factor is not None
        size = (math.floor(h * scale_factor), math.floor(w * scale_factor))
    height, width = size
    shape = (n, c, height, width)
    factor, rest = divmod(height, h)

    def across(data: Tensor, rows: int) -> Tensor:
        return F.interpolate(data, size=(rows, width), mode="bilinear", align_corners=align_corners)

    if height == h:
        return Rows(x.tape, None if x.data is None else across(x.data, x.data.shape[2]), x.start, shape)
    if rest == 0 and factor % 2 == 0 and not align_corners:
        return _enlarged(x, shape, factor, across)
    return _resampled(x, shape, across, bool(align_corners))


def _enlarged(x: Rows, shape: tuple[int, ...], factor: int, across: Callable[[Tensor, int], Tensor]) -> Rows:
    """By a whole factor: torch's own enlargement, less the rows at a border that is none of the map's."""
    half = factor // 2

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.below(rest)  # rows first ... x.stop
        ready = shape[2] if x.stop == x.shape[2] else max(done, x.stop * factor - half)
        out = None
        if ready > done and data is not None:
            large = across(data, data.shape[2] * factor)
            out = large[:, :, done - first * factor : ready - first * factor]
        keep = max(first, x.stop - 1)
        return Rows(x.tape, out, done, shape), (tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result


def _resampled(x: Rows, shape: tuple[int, ...], across: Callable[[Tensor, int], Tensor], aligned: bool) -> Rows:
    """By any factor: between the two nearest rows, found by torch's own float32 arithmetic."""
    h, height = x.shape[2], shape[2]
    # Torch computes the place in float32, too.
    if aligned:
        scale = torch.tensor((h - 1) / (height - 1) if height > 1 else 0.0, dtype=torch.float32)
        places = torch.arange(height, dtype=torch.float32) * scale
    else:
        scale = torch.tensor(h / height, dtype=torch.float32)
        places = ((torch.arange(height, dtype=torch.float32) + 0.5) * scale - 0.5).clamp_min(0)
    upper = places.long().clamp_max(h - 1)
    lower = (upper + 1).clamp_max(h - 1)

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        new = None if x.data is None else across(x.data, x.data.shape[2])
        data = x.like(new).below(rest)  # rows first ... x.stop
        ready = int(torch.searchsorted(lower, x.stop)) if x.stop < h else height
        ready = max(ready, done)
        out = None
        if ready > done and data is not None:
            place = slice(done, ready)
            weight = (places[place] - upper[place])[:, None].to(data.device)
            a, b = (data.index_select(2, (i[place] - first).to(data.device)) for i in (upper, lower))
            out = torch.lerp(a.float(), b.float(), weight).to(data.dtype)
        keep = int(upper[ready]) if ready < height else x.stop
        keep = min(max(keep, first), x.stop)
        return Rows(x.tape, out, done, shape), (tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result
