"""Restoring a large image from a smaller copy of it.

A network knows haze and reflections by what they look like in pictures of some hundred pixels a side: blurs, shades
and edges of a scene. In a photograph of many more pixels everything is softer and farther apart, and soft scenes
are taken for hazy or reflected. Here the network sees means of blocks of pixels. What it makes of them is carried back
as maps that are affine in the image within a neighbourhood, the guided filter's (He, Sun and Tang, IEEE TPAMI 2013,
Eq. 5-8), of which only the coefficients are enlarged (He and Sun, arXiv 1505.00996): edges and texture stay the image's
own. Haze is affine in the image where its depth is even, and a blurred reflection is all but a constant there; fine
noise, such as rain streaks, has no such maps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dmgn.inference.engine import iter_infer
from napari_dmgn.inference.planes import Part, Pixels, Planes, Sink, Step, finished, passed_on, taken_by, whole_mask

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["iter_infer_reduced"]

_RADIUS = 4
"""Of the neighbourhoods in which maps are affine, in pixels of the smaller copy."""
_EVEN = 3e-5
"""Variance below which a neighbourhood counts as even; there the maps add, instead of scaling noise."""
_STRIP_PIXELS = 1 << 20
"""Pixels that are read, or carried back, at a time."""


def iter_infer_reduced(
    model: Model,
    batch: Pixels,
    *,
    downscale: int,
    infer: Callable[..., Generator[Step | Planes, None, None]] | None = None,
    sink: Sink | None = None,
    **engine: Any,
) -> Generator[Step | Planes, None, None]:
    """Restore planes from a smaller copy, one step at a time; the last item holds the result.

    Parameters
    ----------
    model : Model
    batch : (N, 3, H, W) float32 array in [0, 1], or what reads like one
        Read twice, strip by strip.
    downscale : int
        2 or more. Side of the blocks of which the network sees the means; those at the lower and right border
        may be smaller.
    infer : callable or None
        What restores the smaller copy, called and iterated like `iter_infer`; None is that.
    sink : Sink or None
        As in `iter_infer`.
    **engine
        The other arguments of `iter_infer`. Masks are those of the smaller copy.
    """
    n, _, h, w = batch.shape
    factor = min(downscale, max(h, w))  # from there on there is one block
    small = _means(batch, factor)
    strips = list(_strips((n, h, w), factor))
    seen = (infer or iter_infer)(model, small.numpy(), **engine)
    planes, done = yield from passed_on(seen, later=len(strips))
    kept, put = taken_by(sink, batch.shape)
    enlarger = _Enlarger(small, planes, factor, (h, w))
    for number, (first, last) in enumerate(strips, 1):
        put(enlarger.part(batch, first, last, masks=number == 1))
        yield Step(done=done + number, total=done + len(strips))
    yield finished(n, kept, masks=planes.masks is not None, report=planes.report)


def _strips(shape: tuple[int, int, int], factor: int) -> Iterator[tuple[int, int]]:
    """Cut (N, H, W) into rows (first, last) of whole blocks."""
    n, h, w = shape
    rows = max(1, _STRIP_PIXELS // (n * w * factor)) * factor
    for first in range(0, h, rows):
        yield first, min(first + rows, h)


def _read(batch: Pixels, first: int, last: int) -> Tensor:
    n, channels, _, w = batch.shape
    part = batch[slice(0, n), slice(0, channels), slice(first, last), slice(0, w)]
    return torch.from_numpy(np.require(part, np.float32, ["C", "W"]))


def _means(batch: Pixels, factor: int) -> Tensor:
    n, _, h, w = batch.shape
    means = [F.avg_pool2d(_read(batch, *rows), factor, ceil_mode=True) for rows in _strips((n, h, w), factor)]
    return torch.cat(means, dim=2)


class _Enlarger:
    """Carries what a network made of blocks back to their pixels."""

    def __init__(self, small: Tensor, planes: Planes, factor: int, size: tuple[int, int]) -> None:
        self._factor = factor
        self._size = size
        self._small = small
        self._images = [torch.from_numpy(image) for image in (planes.background, planes.coarse)]
        self._noise = torch.cat([torch.from_numpy(planes.noise), torch.from_numpy(planes.noise_map)[:, None]], dim=1)
        self._masks = planes.masks or {}

    def part(self, batch: Pixels, first: int, last: int, *, masks: bool) -> Part:
        """Return some rows of whole blocks, with the masks if asked for."""
        pixels = _read(batch, first, last)
        maps = self._enlarged(first, last)
        background, coarse = (
            torch.addcmul(shift, scale, pixels).clamp_(0, 1).numpy()
            for scale, shift in ((maps[:, :3], maps[:, 6:9]), (maps[:, 3:6], maps[:, 9:12]))
        )
        return Part(
            rows=(first, last),
            columns=(0, self._size[1]),
            background=background,
            coarse=coarse,
            noise=maps[:, 12:15].numpy(),
            noise_map=maps[:, 15].numpy(),
            masks={name: whole_mask(mask) for name, mask in self._masks.items()} if masks else {},
        )

    def _enlarged(self, first: int, last: int) -> Tensor:
        """Interpolate the maps between the blocks' centres."""
        factor = self._factor
        top = max(0, first // factor - 1)
        maps = self._maps(top, -(-last // factor) + 1)
        large = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
        start = first - top * factor
        return large[:, :, start : start + last - first, : self._size[1]]

    def _maps(self, top: int, bottom: int) -> Tensor:
        """Return scales and shifts of both images, noise and its map, (N, 16, rows, w), for some rows of blocks.

        Those of all rows would take more memory than the results of the network.
        """
        seen = slice(max(0, top - 2 * _RADIUS), bottom + 2 * _RADIUS)  # a mean of means reaches so far
        maps = [_affine(self._small[:, :, seen], image[:, :, seen]) for image in self._images]
        own = slice(top - seen.start, bottom - seen.start)
        scales, shifts = ([pair[i][:, :, own] for pair in maps] for i in (0, 1))
        return torch.cat([*scales, *shifts, self._noise[:, :, top:bottom]], dim=1)


def _affine(guide: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (N, 3, h, w) each, with target = scale * guide + shift at every pixel.

    The scale is the guided filter's, which is even over a neighbourhood; the shift takes all that it leaves.
    """
    mean_guide, mean_target = _mean(guide), _mean(target)
    covariance = _mean(guide * target) - mean_guide * mean_target
    variance = _mean(guide * guide) - mean_guide * mean_guide
    # Where nothing tells scale and shift apart, the scale is 1: the guided filter's is 0, which would blur.
    scale = _mean((covariance + _EVEN) / (variance.clamp(min=0) + _EVEN))
    return scale, target - scale * guide


def _mean(x: Tensor) -> Tensor:
    """Average over neighbourhoods, as far as the image reaches: down and across is faster than both at once."""
    side = 2 * _RADIUS + 1
    down = F.avg_pool2d(x, (side, 1), stride=1, padding=(_RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(down, (1, side), stride=1, padding=(0, _RADIUS), count_include_pad=False)
