"""What goes into the network and what comes out: whole planes, and the parts that a step makes of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IMAGES",
    "Collector",
    "Mask",
    "Part",
    "Pixels",
    "Planes",
    "Sink",
    "Step",
    "finished",
    "passed_on",
    "taken_by",
    "whole_mask",
]

FloatArray = NDArray[np.float32]

IMAGES = ("background", "coarse", "noise")
"""The results that have three channels."""


class Pixels(Protocol):
    """Planes to restore, (N, 3, H, W) in [0, 1]: an array, or what looks like one when a window is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""

    def __getitem__(self, place: tuple[slice, ...], /) -> NDArray[Any]:
        """Return the part at four slices."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One window of one phase is done, or one strip is carried back from a smaller image.

    Attributes
    ----------
    done, total : int
        Steps of this call, both phases counted.
    """

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Part of a cell's mask.

    Attributes
    ----------
    rows, columns : (start, stop)
        Where it lies in the whole mask.
    size : (h, w)
        Of the whole mask.
    values : (N, rows, columns) float32 array in [0, 1]
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    size: tuple[int, int]
    values: FloatArray


@dataclass(frozen=True, kw_only=True)
class Part:
    """A restored part of the planes.

    Attributes
    ----------
    rows, columns : (start, stop)
        Pixels of the image, ends excluded.
    background, coarse : (N, 3, rows, columns) float32 arrays in [0, 1]
    noise : (N, 3, rows, columns) float32 array
    noise_map : (N, rows, columns) float32 array in [0, 1]
    masks : dict of `Mask`
        By the cells' names; empty unless asked for.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    background: FloatArray
    coarse: FloatArray
    noise: FloatArray
    noise_map: FloatArray
    masks: dict[str, Mask] = field(default_factory=dict)


class Sink(Protocol):
    """What takes the restored parts; each pixel comes once."""

    def put(self, part: Part) -> None:
        """Take a part."""


@dataclass(kw_only=True)
class Planes:
    """Restored planes.

    Attributes
    ----------
    background, coarse : (N, 3, H, W) float32 arrays in [0, 1]
        Empty, like the others, where a sink took the parts.
    noise : (N, 3, H, W) float32 array
        Not clipped: small negative values are the network's.
    noise_map : (N, H, W) float32 array in [0, 1]
    masks : dict of (N, h, w) float32 arrays in [0, 1], or None
        Each cell's mask under its name, at its own resolution.
    report : dict
        device, precision, tile, halo, windows, the fallbacks taken, and halo_error where it was measured.
    """

    background: FloatArray
    coarse: FloatArray
    noise: FloatArray
    noise_map: FloatArray
    masks: dict[str, FloatArray] | None
    report: dict[str, Any]


class Collector:
    """The sink that keeps everything in memory."""

    def __init__(self, n: int, height: int, width: int) -> None:
        self.images = {name: np.empty((n, 3, height, width), np.float32) for name in IMAGES}
        self.noise_map = np.empty((n, height, width), np.float32)
        self.masks: dict[str, FloatArray] = {}

    def put(self, part: Part) -> None:
        """Paste a part."""
        rows, columns = slice(*part.rows), slice(*part.columns)
        for name, image in self.images.items():
            image[..., rows, columns] = getattr(part, name)
        self.noise_map[:, rows, columns] = part.noise_map
        for name, mask in part.masks.items():
            if name not in self.masks:
                self.masks[name] = np.empty((len(self.noise_map), *mask.size), np.float32)
            self.masks[name][:, slice(*mask.rows), slice(*mask.columns)] = mask.values


def taken_by(sink: Sink | None, shape: tuple[int, ...]) -> tuple[Collector | None, Callable[[Part], None]]:
    """Return what takes the parts of (N, 3, H, W) planes: the sink, or a collector, which then comes first."""
    if sink is not None:
        return None, sink.put
    n, _, h, w = shape
    kept = Collector(n, h, w)
    return kept, kept.put


def passed_on(
    steps: Generator[Step | Planes, None, None], *, done: int = 0, later: int = 0
) -> Generator[Step, None, tuple[Planes, int]]:
    """Pass an inference's steps on as those of a larger work, and close it.

    Parameters
    ----------
    steps : as of `iter_infer`
    done, later : int
        Steps of the larger work before these, and after them.

    Returns
    -------
    planes : Planes
        The last item.
    done : int
        Steps of the larger work until then.
    """
    own = 0
    with closing(steps):
        for item in steps:
            if isinstance(item, Planes):
                return item, done + own
            own = item.done
            yield Step(done=done + own, total=done + item.total + later)
    raise RuntimeError("inference ended without a result")


def finished(n: int, kept: Collector | None, *, masks: bool, report: dict[str, Any]) -> Planes:
    """Return what was kept of a batch of `n`; None where a sink took the parts."""
    if kept is None:
        none: FloatArray = np.empty((n, 3, 0, 0), np.float32)
        return Planes(
            background=none, coarse=none, noise=none, noise_map=none[:, 0], masks={} if masks else None, report=report
        )
    return Planes(**kept.images, noise_map=kept.noise_map, masks=kept.masks if masks else None, report=report)


def whole_mask(values: FloatArray) -> Mask:
    """Return (N, h, w) values as a mask that is complete."""
    h, w = values.shape[1:]
    return Mask(rows=(0, h), columns=(0, w), size=(h, w), values=values)
