"""The parts that each task's training and validation are made of, by name.

Rain, haze and reflection are tasks with models of their own; stripes, veil and background are kinds
of noise that a model is fine-tuned to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from napari_dmgn.synthesis.degradation import Clean, Degradation, Mixture
from napari_dmgn.synthesis.haze import Haze, MetricHaze
from napari_dmgn.synthesis.microscopy import OutOfFocusVeil, Stripes, UnevenBackground
from napari_dmgn.synthesis.photo import PhotoEffects
from napari_dmgn.synthesis.rain import HeavyRain, LightRain, SeenRain, VeiledRain
from napari_dmgn.synthesis.reflection import (
    GammaReflection,
    GhostReflection,
    LinearReflection,
    ScreenReflection,
    SharpReflection,
)

__all__ = ["DEFAULT_WEIGHTS", "TASK_PARTS", "mixture", "validation_parts"]

# Given depth maps are few: they are used for half of the images, the others get drawn ones.
_REAL = 0.5
# Haze is mostly seen outdoors, where the given maps are not from.
_outdoors = partial(Haze, real_depth=0.2, landscape=0.6)

TASK_PARTS: dict[str, dict[str, Callable[[], Degradation]]] = {
    "rain": {
        "light": LightRain,
        "heavy": HeavyRain,
        "veiled": lambda: VeiledRain(real_depth=_REAL),
        "photo": lambda: PhotoEffects(degrade=SeenRain(real_depth=_REAL)),
        "none": Clean,
    },
    "haze": {
        "thin": lambda: _outdoors(transmission=(0.65, 0.95)),
        "medium": lambda: _outdoors(transmission=(0.4, 0.65)),
        "dense": lambda: _outdoors(transmission=(0.15, 0.4)),
        "coloured": lambda: _outdoors(transmission=(0.25, 0.9), airlight=(0.45, 0.95), tint=0.12),
        "indoor": lambda: MetricHaze(real_depth=_REAL),
        "outdoor": lambda: MetricHaze(
            beta=(0.04, 0.2),
            near=(1.0, 3.0),
            far=(4.0, 24.0),
            airlight=(0.8, 1.0),
            tint=0.0,
            real_depth=0.1,
            landscape=0.85,
            drifting=0.1,
        ),
        "photo": lambda: PhotoEffects(
            degrade=_outdoors(transmission=(0.25, 0.9), airlight=(0.5, 1.0), tint=0.06),
            noise=(2 / 255, 20 / 255),
            dim=0.3,
        ),
        # 8 bits hold few levels of a sky behind dense haze; restoring makes their steps and JPEG's
        # blocks visible, which sensor noise would hide.
        "compressed": lambda: PhotoEffects(
            degrade=_outdoors(transmission=(0.15, 0.8), airlight=(0.6, 1.0), tint=0.04),
            noise=(0.05 / 255, 1 / 255),
            quality=(60, 100),
        ),
        "none": Clean,
    },
    "reflection": {
        "linear": LinearReflection,
        "gamma": GammaReflection,
        "screen": ScreenReflection,
        "ghost": GhostReflection,
        "sharp": SharpReflection,
        "photo": lambda: PhotoEffects(degrade=LinearReflection(sigma=(0.5, 4.0))),
        "none": Clean,
    },
    "stripes": {
        "dark": lambda: Stripes(dark=1.0),
        "bright": lambda: Stripes(dark=0.0),
        "none": Clean,
    },
    "veil": {
        "thin": lambda: OutOfFocusVeil(amplitude=(0.2, 0.7)),
        "thick": lambda: OutOfFocusVeil(amplitude=(0.7, 1.6)),
        "none": Clean,
    },
    "background": {
        "glow": lambda: UnevenBackground(shaded=0.0),
        "shade": lambda: UnevenBackground(shaded=1.0),
        "none": Clean,
    },
}
"""Task or kind of noise -> name of the part -> what makes it."""

DEFAULT_WEIGHTS: dict[str, dict[str, float]] = {
    "rain": {"light": 0.32, "heavy": 0.28, "veiled": 0.14, "photo": 0.18, "none": 0.08},
    "haze": {
        "thin": 0.12,
        "medium": 0.16,
        "dense": 0.1,
        "coloured": 0.12,
        "indoor": 0.1,
        "outdoor": 0.2,
        "photo": 0.08,
        "compressed": 0.06,
        "none": 0.06,
    },
    "reflection": {
        "linear": 0.28,
        "gamma": 0.2,
        "screen": 0.14,
        "ghost": 0.1,
        "sharp": 0.1,
        "photo": 0.1,
        "none": 0.08,
    },
    "stripes": {"dark": 0.46, "bright": 0.46, "none": 0.08},
    "veil": {"thin": 0.46, "thick": 0.46, "none": 0.08},
    "background": {"glow": 0.46, "shade": 0.46, "none": 0.08},
}
"""Shares of the parts in a task's training, unless it says otherwise."""


def mixture(task: str, weights: Mapping[str, float] | None = None) -> Mixture:
    """Return a task's mixture.

    Parameters
    ----------
    task : str
        A key of `TASK_PARTS`.
    weights : mapping of str to float, optional
        Part -> weight >= 0; parts left out are not used. Default: `DEFAULT_WEIGHTS`.

    Raises
    ------
    ValueError
        An unknown task or part, or weights that are negative, not finite or all zero.
    """
    known = _parts(task)
    weights = DEFAULT_WEIGHTS[task] if weights is None else weights
    if unknown := sorted(set(weights) - set(known)):
        raise ValueError(f"{task} has no part {', '.join(unknown)}; its parts are {', '.join(known)}")
    values = [weights.get(name, 0.0) for name in known]
    if not all(0 <= v < math.inf for v in values) or sum(values) <= 0:
        raise ValueError(f"{task} has weights {dict(weights)}; wanted numbers >= 0, not all zero")
    return Mixture({name: make() for name, make in known.items()}, values)


def validation_parts(task: str) -> dict[str, Degradation]:
    """Return the parts that are scored separately, in a fixed order: all but the clean image.

    Raises
    ------
    ValueError
        An unknown task.
    """
    return {name: make() for name, make in _parts(task).items() if name != "none"}


def _parts(task: str) -> dict[str, Callable[[], Degradation]]:
    if not isinstance(task, str) or task not in TASK_PARTS:
        raise ValueError(f"no synthesis for task {task!r}; wanted one of {', '.join(TASK_PARTS)}")
    return TASK_PARTS[task]
