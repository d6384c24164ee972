"""Training settings that suit what a user asks for and the pictures that there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn.plugin.finetune_request import KINDS, FineTuneRequest

if TYPE_CHECKING:
    from napari_dmgn.data import Collection, DataReport
    from napari_dmgn.training import TrainConfig
    from napari_dmgn.training.run import Run

__all__ = ["choose_settings", "picture_sides", "spend", "to_toml"]

_CROPS = (192, 128, 96, 64, 48, 32)
_VALIDATION_CROPS = (256, 192, 128, 96, 64, 48, 32)
# A crop may leave out so many of the pictures as too small for it.
_TOO_SMALL = 0.2
# Pixels of a batch on a CPU: small batches and many steps learn most in minutes.
_PIXELS = 2 * 192**2
_BATCH = 16
_MOST_HELD_OUT = 24
_VALIDATIONS = 12
# Validations may take so much of the time.
_VALIDATION_TIME = 0.2


def picture_sides(report: DataReport) -> list[int]:
    """Return the smaller side of every picture that was read."""
    sides: list[int] = []
    for source in report.sources:
        for size, count in source.sizes.items():
            sides += [min(int(side) for side in size.split("x"))] * count
    return sides


def choose_settings(request: FineTuneRequest, folder: Path, sides: Sequence[int]) -> TrainConfig:
    """Return settings of the run: crops that the pictures can give, and some of them held out.

    Parameters
    ----------
    request : FineTuneRequest
    folder : Path
        Of the run.
    sides : sequence of int
        Smaller sides of the pictures in pixels.

    Raises
    ------
    ValueError
        Fewer than two pictures, or a base model that cannot be used.
    """
    from napari_dmgn.devices import resolve_device
    from napari_dmgn.training import TrainConfig
    from napari_dmgn.training.finetuning import FINE_TUNING

    if len(sides) < 2:
        raise ValueError(
            f"{len(sides)} picture{'' if len(sides) == 1 else 's'} to train on; wanted at least 2, "
            "since one is held out to see what the training brings"
        )
    crop = _largest(_CROPS, sides)
    on_cpu = resolve_device(request.device) == "cpu"
    batch = min(_BATCH, max(2, _PIXELS // crop**2)) if on_cpu else _BATCH
    held = min(_MOST_HELD_OUT, max(1, round(request.share * len(sides))), len(sides) - 1)
    kind = None if request.kind is None else KINDS[request.kind]
    card: dict[str, Any] = {
        "fine_tuned_from": Path(request.base).stem,
        "removes": "the noise in the pairs that it was trained on" if kind is None else kind.label,
    }
    steps = request.steps or 1
    return TrainConfig(
        task=request.task,
        degradation_kind=None if kind is None else kind.kind,
        degradation={} if kind is None else kind.parts,
        name=request.name,
        sources=request.sources,
        run=str(folder),
        preset="start",
        start=request.base,
        steps=steps,
        phases=((1.0, crop, batch),),
        learning_rate=request.learning_rate,
        charbonnier=FINE_TUNING["charbonnier"],
        device=request.device,
        validation_pictures=held,
        validation_crop=_largest(_VALIDATION_CROPS, sides),
        validate_every=max(1, steps // _VALIDATIONS),
        save_minutes=1.0,
        card=card,
    )


def _largest(choices: Sequence[int], sides: Sequence[int]) -> int:
    for choice in choices:
        if sum(side < choice for side in sides) <= _TOO_SMALL * len(sides):
            return choice
    return choices[-1]


def spend(config: TrainConfig, minutes: float, run: Run, collection: Collection, validation: float) -> TrainConfig:
    """Fit the steps, and how often they are validated, to a time.

    Parameters
    ----------
    config : TrainConfig
    minutes : float
        For the whole training.
    run : Run
        Of these settings, before its first step; it is not changed.
    collection : Collection
    validation : float
        Seconds that one validation takes.
    """
    from napari_dmgn.data import Batches
    from napari_dmgn.training.budget import fit_steps

    count = min(_VALIDATIONS, max(2, int(_VALIDATION_TIME * 60 * minutes / max(validation, 1e-3))))
    batches = Batches(collection.sources, config.extras(), run.device)
    # The base model is validated once more at the end.
    left = minutes - (count + 1) * validation / 60
    steps = fit_steps(run, batches, max(left, 1e-3), lambda: None)
    return replace(config, steps=steps, validate_every=max(1, -(-steps // count)))


def to_toml(values: Mapping[str, Any]) -> str:
    """Write settings as TOML, without those that are None."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        rows = (f"{_toml(str(name))} = {_toml(v)}" for name, v in value.items() if v is not None)
        return "{ " + ", ".join(rows) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # Text, numbers, true and false are written as in JSON; TOML knows no surrogate pairs.
    return json.dumps(value, ensure_ascii=False)
