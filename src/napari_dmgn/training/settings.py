"""The settings of a training run, checked before any work."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from napari_dmgn.losses import LossWeights
from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.synthesis.rain import rain_mixture

__all__ = ["TrainConfig"]

# What the run itself writes into the card.
_CARD_OF_THE_RUN = ("created", "input_range", "name", "scores", "task", "training", "version")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; a TOML file with these names is the same thing."""

    task: str = "rain"
    """What the model is for; only rain has a degradation to train on so far."""
    name: str = "rain"
    """The model's name, in its card."""
    data: str
    """Folder of clean pictures."""
    run: str = "runs/rain"
    """Folder of the run: state, log and the model."""
    preset: str = "compact"
    """Network preset."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Network settings that differ from the preset."""
    degradation: Mapping[str, float] = field(default_factory=dict)
    """Weights of the mixture: light, heavy, none."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Loss weights that differ from the default."""
    charbonnier: tuple[float, float] = (0.2, 0.01)
    """Differences below this are squared in the losses, larger ones absolute: at the start of
    training, and from its middle on. Starting wide finds sparse noise, ending narrow keeps detail."""
    start: str | None = None
    """Model file to start from, of the same network; None starts from random weights."""
    steps: int = 10_000
    """Optimiser steps."""
    phases: tuple[tuple[float, int, int], ...] = ((0.75, 128, 16), (1.0, 192, 8))
    """Rows of (end as a share of the steps, crop size in pixels, batch size)."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW."""
    final_rate: float = 0.01
    """Rate at the end, as a share of the highest."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    weight_decay: float = 1e-2
    """Of convolution and linear weights; never of biases."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept."""
    clip: float = 1.0
    """Largest gradient norm."""
    device: str = "auto"
    """Device to train on."""
    precision: str = "auto"
    """"auto", "bf16" (autocast) or "float32"."""
    seed: int = 0
    """Seed of initial weights, crops and degradations."""
    validation_pictures: int = 24
    """Pictures held out of training."""
    validation_crop: int = 256
    """Size of the central crops that are validated on."""
    validate_every: int = 500
    """Steps between two validations."""
    save_minutes: float = 3.0
    """Minutes between two saved states; a killed run loses at most these."""
    half: bool = False
    """Write the model's weights as float16."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the model card, such as licence, data or not_trained_for."""

    def __post_init__(self) -> None:
        """Check every setting before any work."""
        object.__setattr__(self, "phases", _rows("phases", self.phases))
        for name in ("betas", "charbonnier"):
            object.__setattr__(self, name, _rows(name, [getattr(self, name)])[0])
        if self.task != "rain":
            raise ValueError(f"cannot train task {self.task!r} yet; wanted 'rain'")
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; wanted one of {sorted(PRESETS)}")
        self._check_numbers()
        ends = [phase[0] for phase in self.phases]
        if not ends or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(f"phases end at {ends}; wanted rising shares, the last 1.0")
        self._check_card()
        # Built once here so that their own checks run now.
        if self.network_config().head == "vgg19" and self.start is None:
            raise ValueError(f"preset {self.preset!r} needs VGG-19's weights; wanted start, a model file with them")
        self.loss_weights()
        self.mixture()

    def _check_numbers(self) -> None:
        whole = {n: getattr(self, n) for n in ("steps", "validation_pictures", "validation_crop", "validate_every")}
        for name, value in whole.items():
            _check(name, value, _is_whole(value) and value >= 1, "an integer of at least 1")
        _check("half", self.half, isinstance(self.half, bool), "true or false")
        _check("seed", self.seed, _is_whole(self.seed) and 0 <= self.seed < 2**32, "an integer in [0, 2**32)")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            _check(name, value, _is_number(value) and value > 0, "a number above 0")
        for name in ("final_rate", "warmup"):
            value = getattr(self, name)
            _check(name, value, _is_number(value) and 0 <= value <= 1, "a number in [0, 1]")
        for name in ("weight_decay", "save_minutes"):
            value = getattr(self, name)
            _check(name, value, _is_number(value) and value >= 0, "a number of at least 0")
        below_one = {"ema": (self.ema,), "betas": self.betas}
        for name, values in below_one.items():
            good = all(_is_number(v) and 0 <= v < 1 for v in values)
            _check(name, getattr(self, name), good, "in [0, 1)")
        _check("betas", self.betas, len(self.betas) == 2, "two numbers")
        good = len(self.charbonnier) == 2 and all(_is_number(v) and v > 0 for v in self.charbonnier)
        _check("charbonnier", self.charbonnier, good, "two numbers above 0")
        for row in self.phases:
            good = len(row) == 3 and _is_number(row[0]) and all(_is_whole(v) and v >= 1 for v in row[1:])
            _check("phases", self.phases, good, "rows of (share of the steps, crop size, batch size)")

    def _check_card(self) -> None:
        # A card that cannot be written would come to light only when the training is over.
        _check("card", self.card, isinstance(self.card, Mapping), "a table of names and values")
        if taken := sorted(set(_CARD_OF_THE_RUN) & set(self.card)):
            raise ValueError(f"card has {taken}; these are filled in by the training, wanted other names")
        try:
            json.dumps(dict(self.card), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"card cannot be written: {error}; wanted text, numbers, lists and tables") from None

    def network_config(self) -> NetworkConfig:
        """Return the network's settings."""
        _known(self.network, [f.name for f in fields(NetworkConfig)], "network")
        return NetworkConfig.from_dict({**PRESETS[self.preset].to_dict(), **self.network})

    def loss_weights(self) -> LossWeights:
        """Return the losses' weights."""
        _known(self.losses, [f.name for f in fields(LossWeights)], "loss")
        return LossWeights(**self.losses)

    def mixture(self) -> Any:
        """Return the degradation that the pairs are made with."""
        _known(self.degradation, ["light", "heavy", "none"], "degradation")
        for name, weight in self.degradation.items():
            _check(f"degradation {name}", weight, _is_number(weight) and weight >= 0, "a number of at least 0")
        return rain_mixture(**self.degradation)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> TrainConfig:
        """Read settings from a TOML file; `changes` go over them.

        Raises
        ------
        ValueError
            The file cannot be read, is no TOML, or has an unknown or wrong setting.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read training settings {path}: {error}") from error
        values |= changes
        _known(values, [f.name for f in fields(cls)], "training")
        if "data" not in values:
            raise ValueError(f"training settings {path} lack data, the folder of clean pictures")
        return cls(**values)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _rows(name: str, values: Any) -> tuple[tuple[Any, ...], ...]:
    try:
        return tuple(tuple(row) for row in values)
    except TypeError:
        raise ValueError(f"{name} is {values!r}; wanted lists of numbers") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value!r}; wanted {wanted}")


def _known(values: Mapping[str, Any], names: list[str], what: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} settings are {values!r}; wanted a table of names and values")
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"unknown {what} settings {unknown}; known are {sorted(names)}")
