"""The network over the windows of large images: a generator, one step per window and phase.

Phase 1 gathers what depends on the whole image (the means behind the channel attention, Eq. 8);
phase 2 restores window by window with those fixed. Windows carry a halo of the network's receptive
field and are padded only at the image's own border, so a tiled image equals a whole one up to the
rounding of floats.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_dmgn import devices
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.descriptor import Model
from napari_dmgn.model.network import NetworkOutput, Separated
from napari_dmgn.tiling import Span, Window, windows

__all__ = ["Plan", "Planes", "Step", "iter_infer", "plan"]

_IMAGES = ("background", "coarse", "noise")
# Share of the free memory that a window may take, and a ceiling: beyond it a window only gets slower.
_MEMORY_SHARE = 0.4
_MEMORY_CEILING = 6 << 30


@dataclass(frozen=True, kw_only=True)
class Step:
    """One window of one phase is done.

    Attributes
    ----------
    done, total : int
        Steps of this call, both phases counted.
    """

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a plane will be restored.

    Attributes
    ----------
    device, precision : str
    tile : int or None
        Pixels that a window contributes along each axis; None for the whole plane at once.
    halo : int
        Pixels that a window reads beyond what it contributes.
    parts : tuple of Window
    """

    device: str
    precision: str
    tile: int | None
    halo: int
    parts: tuple[Window, ...] = field(repr=False)

    @property
    def windows(self) -> int:
        """Number of `Step` events that a batch of planes yields."""
        return 2 * len(self.parts)


@dataclass(kw_only=True)
class Planes:
    """Restored planes.

    Attributes
    ----------
    background, coarse : (N, 3, H, W) float32 arrays in [0, 1]
    noise : (N, 3, H, W) float32 array
        Not clipped: small negative values are the network's.
    noise_map : (N, H, W) float32 array in [0, 1]
    masks : dict of (N, h, w) float32 arrays in [0, 1], or None
        Each cell's mask under its name, at its own resolution.
    report : dict
        device, precision, tile, halo, windows, and the fallbacks taken.
    """

    background: NDArray[np.float32]
    coarse: NDArray[np.float32]
    noise: NDArray[np.float32]
    noise_map: NDArray[np.float32]
    masks: dict[str, NDArray[np.float32]] | None
    report: dict[str, Any]


def plan(
    model: Model,
    shape: tuple[int, int],
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
) -> Plan:
    """Decide how planes of (H, W) pixels are restored.

    Parameters
    ----------
    model : Model
    shape : (H, W)
    device, precision : str
        See `devices`.
    tile : int, "auto" or None
        Pixels along each axis that a window contributes, rounded up to the network's stride;
        "auto" takes the whole plane where the memory allows it; None takes it in any case.
    halo : int or "exact"
        Pixels read beyond a tile; "exact" is the network's receptive field.

    Raises
    ------
    ValueError
        An empty plane, or a setting out of range.
    """
    if min(shape) < 1:
        raise ValueError(f"image is {shape[1]}x{shape[0]} pixels; wanted at least 1x1")
    device = devices.resolve_device(device)
    precision = devices.resolve_precision(precision, device)
    config = model.config
    margin = config.receptive_radius if halo == "exact" else _whole_number("halo", halo, 0)
    stride = config.stride
    padded = config.working_size(*shape)
    if not config.exact_tiles:  # a last window may be one pixel wide: its halo makes it workable
        margin = max(margin, *config.working_size(1, 1))
    if tile == "auto":
        side = _tile_for_memory(config, padded, margin, devices.free_memory(device), precision)
    elif tile is None:
        side = None
    else:
        side = _round_up(_whole_number("tile", tile, 1), stride)
    if side is None or side >= max(padded):
        parts = [Window(rows=_whole(padded[0]), columns=_whole(padded[1]))]
        return Plan(device=device, precision=precision, tile=None, halo=0, parts=tuple(parts))
    aligned = (_round_up(padded[0], stride), _round_up(padded[1], stride))
    parts = [
        Window(rows=_clipped(w.rows, padded[0]), columns=_clipped(w.columns, padded[1]))
        for w in windows(aligned, tile=(side, side), halo=margin, stride=stride)
    ]
    return Plan(device=device, precision=precision, tile=side, halo=margin, parts=tuple(parts))


def _whole(length: int) -> Span:
    return Span(read=(0, length), paste=(0, length))


def _clipped(span: Span, length: int) -> Span:
    """End a window at the image's border where the network takes the image's own size."""
    (first, last), (start, stop) = span.read, span.paste
    return Span(read=(first, min(last, length)), paste=(start, min(stop, length)))


def _round_up(value: int, stride: int) -> int:
    return -(-value // stride) * stride


def _whole_number(name: str, value: int | str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        words = '"exact"' if name == "halo" else '"auto", None'
        raise ValueError(f"{name} is {value!r}; wanted {words} or an integer of at least {least}")
    return int(value)


def _tile_for_memory(
    config: NetworkConfig, padded: tuple[int, int], halo: int, free: int, precision: str
) -> int | None:
    pixels = min(free * _MEMORY_SHARE, _MEMORY_CEILING) / _bytes_per_pixel(config, precision)
    if padded[0] * padded[1] <= pixels:
        return None
    side = int(math.sqrt(pixels)) - 2 * halo
    return max(_round_up(max(side, 1), config.stride), 2 * config.stride)


def _bytes_per_pixel(config: NetworkConfig, precision: str) -> float:
    if config.head == "vgg19":  # measured: 7.0 kB in float32, 6.1 kB in bf16
        return 7.5e3
    # About twelve feature maps of the trunk live at the refining phase's peak, beside some ten
    # float32 images; measured peaks of the compact network lie within a fifth of this.
    item = 2 if precision == "bf16" else 4
    return 12 * item * config.width / config.trunk_stride**2 + 10 * 3 * 4


def iter_infer(
    model: Model,
    batch: NDArray[np.float32],
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    masks: bool = False,
) -> Generator[Step | Planes, None, None]:
    """Restore planes, one step at a time; the last item holds the result.

    Parameters
    ----------
    model : Model
        Moved to the device where it is not there.
    batch : (N, 3, H, W) float32 array in [0, 1]
        Never modified; read window by window.
    device, precision, tile, halo
        See `plan`.
    masks : bool
        Keep every cell's mask.

    Raises
    ------
    ValueError
        See `plan`.
    """
    if batch.ndim != 4 or batch.shape[1] != 3 or len(batch) < 1:
        raise ValueError(f"batch has shape {batch.shape}; wanted (N, 3, H, W), not empty")
    height, width = batch.shape[2:]
    made = plan(model, (height, width), device=device, precision=precision, tile=tile, halo=halo)
    return _run(model, batch, made, masks)


def _run(model: Model, batch: NDArray[np.float32], made: Plan, masks: bool) -> Generator[Step | Planes, None, None]:
    engine = _Engine(model, batch, made, masks)
    for done, window in enumerate(made.parts, start=1):
        engine.gather(window)
        yield Step(done=done, total=made.windows)
    gains = engine.gains()
    for done, window in enumerate(made.parts, start=len(made.parts) + 1):
        engine.restore(window, gains)
        yield Step(done=done, total=made.windows)
    yield engine.planes()


class _Engine:
    """The two phases over one batch of planes."""

    def __init__(self, model: Model, batch: NDArray[np.float32], made: Plan, masks: bool) -> None:
        self.network = model.network.place(made.device)
        self.batch = batch
        self.plan = made
        self.keep_masks = masks
        n, _, h, w = batch.shape
        self.images = {name: np.empty((n, 3, h, w), np.float32) for name in _IMAGES}
        self.noise_map = np.empty((n, h, w), np.float32)
        self.masks: dict[str, NDArray[np.float32]] = {}
        self.total: Tensor | None = None
        self.map_total: Tensor | None = None
        self.map_peak: Tensor | None = None
        self.positions = 0
        self.whole: Separated | None = None  # phase 1's result, where one window is all

    def _separate(self, window: Window) -> Separated:
        image = self._read(window).to(self.plan.device)
        return self.network.separate(image, masks=self.keep_masks)

    def _read(self, window: Window) -> Tensor:
        h, w = self.batch.shape[2:]
        (top, bottom), (left, right) = window.rows.read, window.columns.read
        part = np.asarray(self.batch[:, :, top:bottom, left:right], np.float32)
        missing = [(0, 0), (0, 0), (0, max(0, bottom - h)), (0, max(0, right - w))]
        if any(after for _, after in missing):
            part = np.pad(part, missing, mode="edge")  # up to the stride, at the image's own border
        return torch.from_numpy(np.ascontiguousarray(part))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.plan.device.split(":")[0], torch.bfloat16, enabled=self.plan.precision == "bf16")

    def gather(self, window: Window) -> None:
        """Phase 1: add the window's part of the sums behind the attention."""
        # The mode is set per window, not per run: a generator must not leave it set between steps.
        with torch.inference_mode(), self._autocast():
            separated = self._separate(window)
            responses = self.network.responses(separated)
        cell = self.network.config.trunk_stride * self.network.channel_attention.stride
        own = responses[..., _slice(window.rows, cell), _slice(window.columns, cell)]
        self.positions += own.shape[2] * own.shape[3]
        part = _sum(own, (2, 3))
        self.total = part if self.total is None else self.total + part
        if separated.noise_map is not None:
            self._gather_map(window, separated.noise_map)
        if len(self.plan.parts) == 1:
            self.whole = separated

    def _gather_map(self, window: Window, noise_map: Tensor) -> None:
        cell = self.network.config.trunk_stride
        own = noise_map[..., _slice(window.rows, cell), _slice(window.columns, cell)]
        part, peak = _sum(own, (1, 2, 3)), own.amax(dim=(1, 2, 3)).float()
        self.map_total = part if self.map_total is None else self.map_total + part
        self.map_peak = peak if self.map_peak is None else torch.maximum(self.map_peak, peak)

    def _map_range(self) -> tuple[Tensor, Tensor] | None:
        """Return the map's mean and maximum over the whole image, where the network wants them."""
        if self.map_total is None or self.map_peak is None:
            return None
        rows, columns = self.plan.parts[-1].rows.paste[1], self.plan.parts[-1].columns.paste[1]
        return (self.map_total / (rows * columns)).float(), self.map_peak

    def gains(self) -> tuple[Tensor, ...]:
        """Turn the sums into the channel gains of the whole image (Eq. 8)."""
        if self.total is None:
            raise RuntimeError("gains are known after phase 1 only")
        with torch.inference_mode():  # a few numbers: float32 costs nothing
            return self.network.attention((self.total / self.positions).float())

    def restore(self, window: Window, gains: tuple[Tensor, ...]) -> None:
        """Phase 2: restore the window and paste what is its own."""
        with torch.inference_mode(), self._autocast():
            separated = self._separate(window) if self.whole is None else self.whole
            self.whole = None
            output = self.network.refine(separated, gains, map_range=self._map_range(), masks=self.keep_masks)
            self._paste(window, output)

    def _paste(self, window: Window, output: NetworkOutput) -> None:
        for name, image in self.images.items():
            _paste(image, getattr(output, name).float(), window.rows, window.columns)
        _paste(self.noise_map, output.noise_map[:, 0].float(), window.rows, window.columns)
        height = window.rows.read[1] - window.rows.read[0]
        trunk = self.network.config.trunk_stride
        for name, mask in output.masks.items():
            # Input pixels per position of the mask: a stride-2 convolution rounds an odd size up.
            cell = trunk << round(math.log2(height / mask.shape[2] / trunk))
            rows, columns = _coarser(window.rows, cell), _coarser(window.columns, cell)
            if name not in self.masks:
                n, h, w = self.noise_map.shape
                self.masks[name] = np.empty((n, -(-h // cell), -(-w // cell)), np.float32)
            _paste(self.masks[name], mask[:, 0].float(), rows, columns)

    def planes(self) -> Planes:
        """Return the result; call it once, after phase 2."""
        for name in ("background", "coarse"):
            np.clip(self.images[name], 0, 1, out=self.images[name])
        return Planes(
            **self.images,
            noise_map=self.noise_map,
            masks=self.masks if self.keep_masks else None,
            report={
                "device": self.plan.device,
                "precision": self.plan.precision,
                "tile": self.plan.tile,
                "halo": self.plan.halo,
                "windows": len(self.plan.parts),
                "fallbacks": self._fallbacks(),
            },
        )

    def _fallbacks(self) -> list[str]:
        if self.network.config.exact_tiles or len(self.plan.parts) == 1:
            return []
        return ["tiles are approximate: this network's result depends on where a pixel lies in what it is given"]


def _sum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.sum(dim=axes) if x.device.type == "mps" else x.double().sum(dim=axes)


def _slice(span: Span, cell: int) -> slice:
    start, stop = span.keep
    # At the image's border the last position may stand for less than a cell, or for more.
    ends = span.paste[1] == span.read[1]
    return slice(start // cell, None if ends else stop // cell)


def _coarser(span: Span, cell: int) -> Span:
    (first, last), (start, stop) = span.read, span.paste
    return Span(read=(first // cell, -(-last // cell)), paste=(start // cell, -(-stop // cell)))


def _paste(target: NDArray[np.float32], source: Tensor, rows: Span, columns: Span) -> None:
    h, w = target.shape[-2:]
    bottom, right = min(rows.paste[1], h), min(columns.paste[1], w)  # without the padding
    (top, _), (left, _) = rows.paste, columns.paste
    y, x = rows.keep[0], columns.keep[0]
    own = source[..., y : y + bottom - top, x : x + right - left]
    target[..., top:bottom, left:right] = own.cpu().numpy()
