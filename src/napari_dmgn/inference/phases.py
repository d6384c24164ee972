"""The two phases over one window: what it adds to the image's statistics, and its restored pixels.

Phase 1 gathers what depends on the whole image (the means behind the channel attention, Eq. 8); phase 2
restores a window with those fixed. The windows may be on one machine or on many: what a window hands on
is a few NumPy numbers that can be added and sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_dmgn.inference.planes import IMAGES, FloatArray, Mask, Part, Pixels
from napari_dmgn.tiling import Span, Window

if TYPE_CHECKING:
    from napari_dmgn.inference.plans import Plan
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.model.network import DMGN, NetworkOutput, Separated

__all__ = [
    "Gains",
    "WindowSums",
    "autocast",
    "gains",
    "read_window",
    "restore_window",
    "separate",
    "sums_of",
    "window_sums",
]


@dataclass(frozen=True, kw_only=True)
class WindowSums:
    """What phase 1 finds in a part of the image; of two parts that do not overlap, the sums add.

    Attributes
    ----------
    responses : (N, K) float64 array
        Sum of the attention's responses (Eq. 7).
    positions : int
        Number of responses.
    map_total, map_peak : (N,) float64 arrays or None
        Sum and maximum of the noise map, where the network scales it by the whole image's.
    pixels : int
        Number of values of the map.
    """

    responses: NDArray[np.float64]
    positions: int
    map_total: NDArray[np.float64] | None = None
    map_peak: NDArray[np.float64] | None = None
    pixels: int = 0

    def __add__(self, other: WindowSums) -> WindowSums:
        """Join two parts of an image."""
        total, peak = self.map_total, self.map_peak
        if total is not None and peak is not None:
            assert other.map_total is not None
            assert other.map_peak is not None
            total, peak = total + other.map_total, np.maximum(peak, other.map_peak)
        return WindowSums(
            responses=self.responses + other.responses,
            positions=self.positions + other.positions,
            map_total=total,
            map_peak=peak,
            pixels=self.pixels + other.pixels,
        )


@dataclass(frozen=True, kw_only=True)
class Gains:
    """What phase 2 wants to know of the whole image.

    Attributes
    ----------
    channels : tuple of (N, C, 1, 1) float32 arrays in [0, 1]
        The attention's factors (Eq. 8).
    map_range : pair of (N,) float32 arrays, or None
        Mean and maximum of the noise map.
    """

    channels: tuple[FloatArray, ...]
    map_range: tuple[FloatArray, FloatArray] | None = None


def read_window(pixels: Pixels, window: Window) -> FloatArray:
    """Read what the network sees of a window: its part of the image, repeated at the image's own border."""
    h, w = pixels.shape[2:]
    (top, bottom), (left, right) = window.rows.read, window.columns.read
    part = np.asarray(pixels[:, :, min(top, h - 1) : bottom, min(left, w - 1) : right], np.float32)
    missing = [(0, 0), (0, 0), (0, bottom - top - part.shape[2]), (0, right - left - part.shape[3])]
    if any(after for _, after in missing):
        part = np.pad(part, missing, mode="edge")
    return np.ascontiguousarray(part)


def window_sums(model: Model, part: FloatArray, window: Window, plan: Plan) -> WindowSums:
    """Phase 1 of one window.

    Parameters
    ----------
    model : Model
    part : (N, 3, h, w) float32 array in [0, 1]
        What `read_window` gives.
    window : Window
        One of `plan.parts`.
    plan : Plan
    """
    return sums_of(model.network, separate(model, part, plan), window, plan)


def gains(model: Model, sums: WindowSums | Iterable[WindowSums]) -> Gains:
    """Turn the sums of all windows into what phase 2 needs (Eq. 8).

    Sums are added in the order in which they come; the same order gives the same bits.
    """
    if not isinstance(sums, WindowSums):
        first, *others = sums
        sums = sum(others, first)
    network = model.network
    mean = torch.from_numpy(sums.responses / sums.positions).float()
    device = next(network.parameters()).device
    # A few numbers: float32 costs nothing, also where the caller has an autocast of their own.
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        found = network.attention(mean.to(device))
    map_range = None
    if sums.map_total is not None and sums.map_peak is not None:
        with np.errstate(under="ignore"):
            map_range = (sums.map_total / sums.pixels).astype(np.float32), sums.map_peak.astype(np.float32)
    return Gains(channels=tuple(g.cpu().numpy() for g in found), map_range=map_range)


def restore_window(
    model: Model, part: FloatArray, window: Window, known: Gains, plan: Plan, *, masks: bool = False
) -> Part:
    """Phase 2 of one window.

    Parameters
    ----------
    model, part, window, plan
        See `window_sums`.
    known : Gains
        Of the whole image.
    masks : bool
        Keep the cells' masks.

    Returns
    -------
    Part
        The pixels that are the window's own.
    """
    separated = separate(model, part, plan, masks=masks)
    return refined(model.network, separated, window, known, plan, masks=masks)


def autocast(plan: Plan) -> torch.autocast:
    """Return the context in which a plan's windows are computed."""
    return torch.autocast(plan.device.split(":")[0], torch.bfloat16, enabled=plan.precision == "bf16")


def separate(model: Model, part: FloatArray, plan: Plan, *, masks: bool = False) -> Separated:
    """Run the network's local step on a window."""
    # The mode is set per window, not per run: a generator must not leave it set between steps.
    with torch.inference_mode(), autocast(plan):
        network = model.network.place(plan.device)
        return network.separate(torch.from_numpy(part).to(plan.device), masks=masks)


def sums_of(network: DMGN, separated: Separated, window: Window, plan: Plan) -> WindowSums:
    """Sum what is a window's own of the responses and of the map."""
    with torch.inference_mode(), autocast(plan):
        responses = network.responses(separated)
    cell = network.config.trunk_stride * network.channel_attention.stride
    own = responses[..., _slice(window.rows, cell), _slice(window.columns, cell)]
    values = separated.noise_map
    if values is not None:
        cell = network.config.trunk_stride
        values = values[..., _slice(window.rows, cell), _slice(window.columns, cell)]
    return add_up(own, values)


def add_up(responses: Tensor, noise_map: Tensor | None) -> WindowSums:
    """Sum the responses and the map of a part of the image.

    Parameters
    ----------
    responses : (N, K, h, w) float tensor
    noise_map : (N, s s, h, w) float tensor or None
    """
    total, peak, pixels = None, None, 0
    if noise_map is not None:
        total, peak = _sum(noise_map, (1, 2, 3)), np.full(len(noise_map), -np.inf)
        pixels = noise_map[0].numel()
        if pixels:
            peak = noise_map.amax(dim=(1, 2, 3)).double().cpu().numpy()
    return WindowSums(
        responses=_sum(responses, (2, 3)),
        positions=responses.shape[2] * responses.shape[3],
        map_total=total,
        map_peak=peak,
        pixels=pixels,
    )


def refined(
    network: DMGN, separated: Separated, window: Window, known: Gains, plan: Plan, *, masks: bool = False
) -> Part:
    """Run the network's last step on a window and keep what is the window's own."""
    with torch.inference_mode(), autocast(plan):
        channels, map_range = on_device(known, plan.device)
        output = network.refine(separated, channels, map_range=map_range, masks=masks)
        return _own(output, window, plan.shape, network.config.trunk_stride)


def on_device(known: Gains, device: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None]:
    """Return the gains as tensors."""
    channels = tuple(torch.from_numpy(g).to(device) for g in known.channels)
    if known.map_range is None:
        return channels, None
    mean, peak = (torch.from_numpy(v).to(device) for v in known.map_range)
    return channels, (mean, peak)


def _own(output: NetworkOutput, window: Window, shape: tuple[int, int], trunk: int) -> Part:
    rows, columns = _inside(window.rows, shape[0]), _inside(window.columns, shape[1])
    images = {name: _cut(getattr(output, name), window.rows, window.columns, shape) for name in IMAGES}
    for name in ("background", "coarse"):
        np.clip(images[name], 0, 1, out=images[name])
    height = window.rows.read[1] - window.rows.read[0]
    masks = {}
    for name, mask in output.masks.items():
        # Input pixels per position of the mask: a stride-2 convolution rounds an odd size up.
        cell = trunk << round(math.log2(height / mask.shape[2] / trunk))
        down, across = _coarser(window.rows, cell), _coarser(window.columns, cell)
        size = -(-shape[0] // cell), -(-shape[1] // cell)
        masks[name] = Mask(
            rows=_inside(down, size[0]),
            columns=_inside(across, size[1]),
            size=size,
            values=_cut(mask[:, 0], down, across, size),
        )
    return Part(
        rows=rows,
        columns=columns,
        noise_map=_cut(output.noise_map[:, 0], window.rows, window.columns, shape),
        masks=masks,
        **images,
    )


def _sum(x: Tensor, axes: tuple[int, ...]) -> NDArray[np.float64]:
    total = x.sum(dim=axes) if x.device.type == "mps" else x.double().sum(dim=axes)
    return total.cpu().numpy().astype(np.float64)


def _slice(span: Span, cell: int) -> slice:
    start, stop = span.keep
    # At the image's border the last position may stand for less than a cell, or for more.
    ends = span.paste[1] == span.read[1]
    return slice(start // cell, None if ends else stop // cell)


def _coarser(span: Span, cell: int) -> Span:
    (first, last), (start, stop) = span.read, span.paste
    return Span(read=(first // cell, -(-last // cell)), paste=(start // cell, -(-stop // cell)))


def _inside(span: Span, length: int) -> tuple[int, int]:
    return span.paste[0], min(span.paste[1], length)  # without the padding


def _cut(source: Tensor, rows: Span, columns: Span, size: tuple[int, int]) -> FloatArray:
    """Return what is pasted, as an array of its own: a view would hold the window's memory."""
    (top, bottom), (left, right) = _inside(rows, size[0]), _inside(columns, size[1])
    y, x = rows.keep[0], columns.keep[0]
    own = source[..., y : y + bottom - top, x : x + right - left]
    return np.array(own.float().cpu().numpy(), order="C", copy=True)
