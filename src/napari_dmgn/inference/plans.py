"""How planes will be restored: device, precision, windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_dmgn import devices
from napari_dmgn.tiling import Span, Window, windows

if TYPE_CHECKING:
    from napari_dmgn.model.config import NetworkConfig
    from napari_dmgn.model.descriptor import Model

__all__ = ["Plan", "bytes_per_pixel", "plan", "round_up"]

# Share of the free memory that a window may take, and a ceiling: beyond it a window only gets slower.
_MEMORY_SHARE = 0.4
_MEMORY_CEILING = 6 << 30
# Pixels of a strip: larger ones are no faster, and a caller waits longer for a chance to stop.
_STRIP_PIXELS = {"cpu": 1 << 19, "cuda": 1 << 24}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a plane will be restored.

    Attributes
    ----------
    shape : (H, W)
    device, precision : str
    tile : int or None
        Pixels that a window contributes along each axis; None for the whole plane at once.
    halo : int
        Pixels that a window reads beyond what it contributes.
    parts : tuple of Window
    strip : int or None
        Rows of a strip, where the one window passes in strips.
    """

    shape: tuple[int, int]
    device: str
    precision: str
    tile: int | None
    halo: int
    parts: tuple[Window, ...] = field(repr=False)
    strip: int | None = None


def plan(
    model: Model,
    shape: tuple[int, int],
    *,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    batch: int = 1,
) -> Plan:
    """Decide how planes of (H, W) pixels are restored.

    Parameters
    ----------
    model : Model
    shape : (H, W)
    device, precision : str
        See `devices`.
    tile : int, "auto", "strips" or None
        Pixels along each axis that a window contributes, rounded up to the network's stride;
        "auto" takes the whole plane where the memory allows it; None takes it in any case;
        "strips" takes a small plane whole and a larger one in strips of rows.
    halo : int or "exact"
        Pixels read beyond a tile; "exact" is the network's receptive field.
    batch : int
        Planes that pass together.

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
    free = devices.free_memory(device)
    side, strip = None, None
    if tile == "auto":
        side = _tile_for_memory(config, padded, margin, free // batch, precision)
    elif tile == "strips":
        strip = _strip_rows(config, padded, batch, free, device, precision)
    elif tile is not None:
        side = round_up(_whole_number("tile", tile, 1), stride)
    if side is None or side >= max(padded):
        side, margin = None, 0
        parts = [Window(rows=_whole(padded[0]), columns=_whole(padded[1]))]
    else:
        parts = _cut(padded, side, margin, stride)
    return Plan(
        shape=shape, device=device, precision=precision, tile=side, halo=margin, parts=tuple(parts), strip=strip
    )


def _strip_rows(
    config: NetworkConfig, padded: tuple[int, int], batch: int, free: int, device: str, precision: str
) -> int | None:
    """Rows of a strip that is large enough to be fast and fits; None for a plane that is no larger."""
    across = padded[1] * batch
    rows = _STRIP_PIXELS["cuda" if device.startswith("cuda") else "cpu"] // across
    # With the last strip come the rows that the operators still wait with: a receptive field of them.
    fitting = int(free * _MEMORY_SHARE / bytes_per_pixel(config, precision)) // across - config.receptive_radius
    rows = max(min(rows, fitting) // config.stride, 1) * config.stride
    return rows if 2 * rows < padded[0] else None


def _cut(padded: tuple[int, int], side: int, margin: int, stride: int) -> list[Window]:
    aligned = (round_up(padded[0], stride), round_up(padded[1], stride))
    return [
        Window(rows=_clipped(w.rows, padded[0]), columns=_clipped(w.columns, padded[1]))
        for w in windows(aligned, tile=(side, side), halo=margin, stride=stride)
    ]


def _whole(length: int) -> Span:
    return Span(read=(0, length), paste=(0, length))


def _clipped(span: Span, length: int) -> Span:
    """End a window at the image's border where the network takes the image's own size."""
    (first, last), (start, stop) = span.read, span.paste
    return Span(read=(first, min(last, length)), paste=(start, min(stop, length)))


def round_up(value: int, stride: int) -> int:
    """Return the next multiple of a stride."""
    return -(-value // stride) * stride


def _whole_number(name: str, value: int | str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        words = '"exact"' if name == "halo" else '"auto", None'
        raise ValueError(f"{name} is {value!r}; wanted {words} or an integer of at least {least}")
    return int(value)


def _tile_for_memory(
    config: NetworkConfig, padded: tuple[int, int], halo: int, free: int, precision: str
) -> int | None:
    pixels = min(free * _MEMORY_SHARE, _MEMORY_CEILING) / bytes_per_pixel(config, precision)
    if padded[0] * padded[1] <= pixels:
        return None
    side = int(math.sqrt(pixels)) - 2 * halo
    return max(round_up(max(side, 1), config.stride), 2 * config.stride)


def bytes_per_pixel(config: NetworkConfig, precision: str) -> float:
    """Return the bytes that a window takes at most, per pixel that it reads."""
    if config.head == "vgg19":  # measured: 7.0 kB in float32, 6.1 kB in bf16
        return 7.5e3
    # About sixteen feature maps of the trunk live at the refining phase's peak, beside some ten float32 images:
    # without gains, 2 megapixels were measured at 236 to 250 bytes each in bf16. Gains are two images more.
    images = 12 if config.background_gain else 10
    item = 2 if precision == "bf16" else 4
    return 16 * item * config.width / config.trunk_stride**2 + images * 3 * 4
