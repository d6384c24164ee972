"""Whether an input looks like what a model was trained on: measured numbers, and signs of a microscope.

The models are trained on photographs of everyday exposure. The bounds are wide: of scikit-image's colour
photographs with light or heavy rain, haze or reflections none is outside (a test holds them to it), while a
night, an overexposed or a noise-ridden picture is. A stack of well exposed cells is inside as well: what it is
tell its axes, type and units, and whether that matters the model's card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Looks", "excluded", "looks", "measure", "microscopy", "notes", "sentence", "signs"]

_SIDE = 256  # pixels along an axis of what is looked at
_DARK, _BRIGHT = 0.08, 0.92
_LEAST_RANGE = 0.25
_MOST_SATURATED = 0.25
_MOST_NOISE = 0.06
_SMALLEST = 32
# As napari's units write themselves.
_SMALL_UNITS = ("micrometer", "micron", "nanometer", "angstrom")


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What was measured, in units of the intensity range.

    Attributes
    ----------
    mean : mean brightness
    used : from the 1st to the 99th percentile
    saturated : share of values at either end of the range
    noise : standard deviation of pixel noise, by the median of absolute second differences
    side : the shorter side in pixels
    """

    mean: float
    used: float
    saturated: float
    noise: float
    side: int


def measure(image: NDArray[Any], *, rgb: bool, limits: tuple[float, float] | None = None) -> Looks:
    """Measure one picture, or the first of a stack.

    Parameters
    ----------
    image : (..., H, W) or (..., H, W, 3 or 4) array
    rgb : whether the last axis is colours
    limits : intensities of black and white; None takes the type's, or the extremes of what is measured
    """
    picture = image[(0,) * (image.ndim - (3 if rgb else 2))]
    height, width = picture.shape[:2]
    # Whole pixels from the middle, not every n-th: noise is told by neighbours.
    top, left = max(0, (height - _SIDE) // 2), max(0, (width - _SIDE) // 2)
    part = np.asarray(picture[top : top + _SIDE, left : left + _SIDE])
    values = part[..., :3] if rgb else part[..., None]
    low, high = limits or _limits(values)
    exact = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    unit = np.clip(np.where(np.isfinite(exact), exact, 0), 0, 1).astype(np.float32)
    first, last = np.percentile(unit[::2, ::2], (1, 99))  # of a quarter: it runs whenever a layer is chosen
    return Looks(
        mean=float(unit.mean()),
        used=float(last - first),
        saturated=float(((unit <= 0) | (unit >= 1)).mean()),
        noise=_noise(unit),
        side=min(height, width),
    )


def notes(looks: Looks) -> list[str]:
    """Say in what an input is unlike photographs of everyday exposure; empty where in nothing."""
    found = []
    if looks.side < _SMALLEST:
        found.append(f"it is only {looks.side} pixels wide or high")
    if looks.mean < _DARK:
        found.append(f"it is very dark (mean brightness {looks.mean:.0%})")
    elif looks.mean > _BRIGHT:
        found.append(f"it is very bright (mean brightness {looks.mean:.0%})")
    if looks.used < _LEAST_RANGE:
        found.append(f"it uses little of the intensity range ({looks.used:.0%}; set the range under Advanced)")
    if looks.saturated > _MOST_SATURATED:
        found.append(f"much of it is black or white ({looks.saturated:.0%} of the values)")
    if looks.noise > _MOST_NOISE:
        found.append(f"it is noisy (standard deviation {looks.noise:.1%} of the range)")
    return found


def excluded(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a model's card says the model is not trained for."""
    named = card.get("not_trained_for") or ()
    return (named,) if isinstance(named, str) else tuple(map(str, named)) if isinstance(named, list | tuple) else ()


def microscopy(
    shape: Sequence[int], dtype: np.dtype[Any], *, rgb: bool, units: Sequence[object], not_trained_for: Sequence[str]
) -> list[str]:
    """Say that an input comes from a microscope, by all signs, and that the model is not trained for such.

    Units of a thousandth of a millimetre or less are proof. One channel, more than 8 bits and a stack are so
    together only: gray photographs have one or two of them.

    Parameters
    ----------
    shape : of the whole layer
    units : of the layer's axes
    not_trained_for : of the model's card
    """
    named = [text for text in not_trained_for if "microscop" in text.lower()]
    signs = {
        "one channel": not rgb,
        "more than 8 bits": dtype.itemsize > 1,
        "a stack": math.prod(shape[: -3 if rgb else -2]) > 1,
    }
    small = next((str(unit) for unit in units if str(unit) in _SMALL_UNITS), None)
    if not named or (small is None and not all(signs.values())):
        return []
    found = [sign for sign, there in signs.items() if there] + ([f"pixels in {small}s"] if small else [])
    return [f"it looks like microscopy ({', '.join(found)}), and the model is not trained for {', '.join(named)}"]


def looks(layer: Any) -> list[str]:
    """Say in what an image layer is unlike the training data; of a lazy one nothing, which is seen when it is read."""
    if not isinstance(layer.data, np.ndarray):
        return []
    return notes(measure(layer.data, rgb=bool(layer.rgb)))


def signs(layer: Any, card: Mapping[str, Any]) -> list[str]:
    """Say that an image layer comes from a microscope where a model's card says that it is not for such."""
    data = layer.data[0] if layer.multiscale else layer.data
    kind = np.dtype(data.dtype)
    return microscopy(data.shape, kind, rgb=bool(layer.rgb), units=layer.units, not_trained_for=excluded(card))


def sentence(found: list[str]) -> str:
    """Put the notes into one sentence."""
    if not found:
        return ""
    return f"Unlike the pictures that the model was trained on: {'; '.join(found)}. Check the result with care."


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    if values.dtype == np.uint8:
        return 0.0, 255.0
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return (min(0.0, low) if values.dtype.kind != "f" else low), high


def _noise(unit: NDArray[np.float32]) -> float:
    """Estimate the noise: of white noise the mask below has 6 times the deviation (Immerkaer 1996)."""
    if min(unit.shape[:2]) < 3:
        return 0.0
    rows = unit[:-2] - 2 * unit[1:-1] + unit[2:]
    both = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.median(np.abs(both)) / 0.6745 / 6)
