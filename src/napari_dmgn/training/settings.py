"""The settings of a training run, checked before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from napari_dmgn import devices, discriminator, zoo
from napari_dmgn.checkpoint import read_header
from napari_dmgn.data import Extras, PicturePool, SourceSpec
from napari_dmgn.losses import RECIPES, LossWeights
from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.synthesis import mixtures
from napari_dmgn.synthesis.variation import Variation
from napari_dmgn.training.checks import check, is_number, is_whole, known, plain, read_settings, rows
from napari_dmgn.training.optimiser import OPTIMISERS

__all__ = ["TrainConfig"]

# What the run itself writes into the card.
_CARD_OF_THE_RUN = ("comparison", "created", "input_range", "name", "scores", "task", "training", "version")
# Whether this machine has it is seen when the training starts: settings may be made on another one.
_DEVICE = re.compile(r"auto|(cpu|cuda|mps)(:\d+)?")
_WHOLE = (
    "steps",
    "validation_pictures",
    "validation_crop",
    "validate_every",
    "discriminator_width",
    "draw_ahead",
    "groups",
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; a TOML file with these names is the same thing."""

    task: str = "rain"
    """What the model is asked for by: rain, haze or reflection. A kind of noise of your own takes the
    task that it resembles most: light that is added (rain), a veil (haze), a second picture (reflection)."""
    degradation_kind: str | None = None
    """What is put on clean pictures, where that is not the task's own: a kind of `synthesis.mixtures`,
    such as a microscopy's; None is the task."""
    name: str | None = None
    """The model's name, in its card; None is the task."""
    data: str | None = None
    """Folder of clean pictures."""
    sources: tuple[Mapping[str, Any], ...] = ()
    """Further sources: tables of clean, or input and background (folders of pairs), match and weight;
    see `data.SourceSpec`."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """Source of the validation pictures, a table like those of `sources`; empty holds them out."""
    depth: str | None = None
    """Folder of depth maps for haze (0 near): those named *_depth, or else all its pictures. None draws them."""
    run: str = "runs/rain"
    """Folder of the run: state, log and the model."""
    preset: str = "compact"
    """Network preset, or "start": the network of the model that `start` names."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Network settings that differ from the preset."""
    degradation: Mapping[str, float] = field(default_factory=dict)
    """Weights of the mixture's parts; for rain: light, heavy, none and others."""
    recipe: str = "fast"
    """Losses: "fast", or "paper" (Eq. 11-17 with the published weights; needs `features`)."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Loss weights that differ from the recipe's."""
    features: str | None = None
    """For the perceptual losses: a file of VGG-19 (torchvision's .pth, or safetensors) or of a distillation of
    it (see `perceptual`), "vgg19" for the .pth downloaded earlier, or "download" to fetch it where it is missing."""
    adversarial: str = "critic"
    """What the discriminator learns by: "critic" (Eq. 14) or "hinge"."""
    spectral_norm: bool = True
    """Bound the discriminator's slope; without it the critic has no bound, as in the paper."""
    discriminator_rate: float = 2e-4
    """Highest rate of the discriminator's Adam; it follows the network's schedule."""
    discriminator_width: int = 64
    """Channels of the discriminator's first convolution."""
    charbonnier: tuple[float, float] = (0.2, 0.01)
    """Differences below this are squared in the losses, larger ones absolute: at the start of
    training, and from its middle on. Starting wide finds sparse noise, ending narrow keeps detail.
    Not used by the recipe "paper", whose L1 is plain."""
    start: str | None = None
    """Model to start from: a file, or a model's name; None starts from random weights. Its network is that of these
    settings, or that without some of its last cells or without gains, which then begin as (nearly) nothing."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: prefixes of parameters' names, such as "head" or "background_branch.cells"."""
    steps: int = 10_000
    """Optimiser steps."""
    minutes: float | None = None
    """Time for the training; `steps` is then fitted to it, once, before the first step."""
    phases: tuple[tuple[float, int, int], ...] = ((0.75, 128, 16), (1.0, 192, 8))
    """Rows of (end as a share of the steps, crop size in pixels, batch size)."""
    rescale: tuple[float, float] = (1.0, 1.0)
    """Pictures are resized by a factor from this interval, log-uniformly, before they are cropped."""
    upright: bool | None = None
    """Crops are mirrored left and right only, not turned too: for what depends on which side is up. None is true where
    haze is put on clean pictures."""
    colour_jitter: float = 0.0
    """Share of the clean pictures, and of those reflected or seen out of focus in them, whose colours are changed."""
    shallow_focus: float = 0.0
    """Share of the clean pictures of which a part is kept before an out-of-focus rest: what glass or haze does is then
    learnt apart from what a lens does."""
    uneven_light: float = 0.0
    """Share of the clean pictures of which a part lies in the shade or in the sun: what is added to a scene is then
    learnt apart from the light that falls on it."""
    colour_grading: float = 0.0
    """Share of the same pictures whose tones and colours change further, as far as filters of photographs take them."""
    optimiser: str = "adamw"
    """"adamw", or "muon": Muon for the 3x3 convolutions between feature maps, AdamW for the rest."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW."""
    muon_rate: float = 4.0
    """Highest rate of Muon as a multiple of AdamW's."""
    final_rate: float = 0.01
    """Rate at the end, as a share of the highest."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    weight_decay: float = 1e-2
    """Of the weights of convolutions, linear layers and attention; never of biases."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept."""
    clip: float = 1.0
    """Largest gradient norm."""
    device: str = "auto"
    """Device to train on."""
    precision: str = "auto"
    """"auto", "bf16" (autocast) or "float32"."""
    compile: bool | str = "auto"
    """Compile the network: true, false, or "auto", which is true on CUDA."""
    draw_ahead: int = 1
    """Steps whose pairs are made in one go: a GPU takes hardly longer for several than for one. Other pairs are drawn
    then, of the same kind."""
    groups: int = 1
    """Parts of a batch that are drawn apart. Of several processes each makes its own; one process
    with as many groups makes the same batches."""
    seed: int = 0
    """Seed of initial weights, crops and degradations."""
    validation_pictures: int = 24
    """Pictures held out of training, or taken of `validation`."""
    validation_crop: int = 256
    """Size of the central crops that are validated on."""
    validate_every: int = 500
    """Steps between two validations."""
    patience: int = 0
    """Stop after so many validations without a better score; 0 never does. Resumed with more, or 0, it goes on."""
    save_minutes: float = 3.0
    """Minutes between two saved states; a killed run loses at most these."""
    half: bool = False
    """Write the model's weights as float16, but for tensors of few values (`checkpoint.halve`)."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the model card, such as licence, data or not_trained_for. Of images whose shorter side has
    two or more times `working_side` pixels the model will be shown smaller copies; see `restore`."""

    def __post_init__(self) -> None:
        """Check every setting before any work."""
        for setting in fields(self):
            object.__setattr__(self, setting.name, plain(getattr(self, setting.name)))
        object.__setattr__(self, "phases", rows("phases", self.phases))
        for name in ("betas", "charbonnier", "rescale"):
            object.__setattr__(self, name, rows(name, [getattr(self, name)])[0])
        self._check_words()
        self._check_numbers()
        self._check_phases()
        self._check_card()
        # Built once here so that their own checks run now.
        self._check_sources()
        if self.network_config().head == "vgg19" and self.start is None:
            raise ValueError(f"preset {self.preset!r} needs VGG-19's weights; wanted start, a model file with them")
        self.loss_weights()
        self.mixture()

    def _check_words(self) -> None:
        presets = sorted([*PRESETS, "start"])
        choices: dict[str, list[Any]] = {
            "task": list(zoo.TASKS),
            "recipe": sorted(RECIPES),
            "adversarial": list(discriminator.FORMS),
            "optimiser": list(OPTIMISERS),
            "precision": list(devices.PRECISIONS),
            "compile": ["auto", True, False],
        }
        for name, wanted in choices.items():
            value = getattr(self, name)
            good = any(value == w and type(value) is type(w) for w in wanted)
            check(name, value, good, f"one of {', '.join(map(repr, wanted))}")
        if self.preset not in presets:
            raise ValueError(f"unknown preset {self.preset!r}; wanted one of {presets}")
        if self.preset == "start" and self.start is None:
            raise ValueError("preset 'start' is the start model's network; wanted start, a model")
        for name in ("data", "depth", "features", "name", "start", "degradation_kind"):
            value = getattr(self, name)
            check(name, value, value is None or (isinstance(value, str) and value != ""), "text or nothing")
        # An empty path is the current folder, where an earlier file may be a foreign one.
        check("run", self.run, isinstance(self.run, str) and self.run != "", "a folder")
        good = isinstance(self.device, str) and _DEVICE.fullmatch(self.device) is not None
        check("device", self.device, good, "auto, cpu, cuda, cuda:N or mps")
        for name in ("freeze", "sources"):
            value = getattr(self, name)
            check(name, value, isinstance(value, list | tuple), "a list")
            object.__setattr__(self, name, tuple(value))
        check("freeze", self.freeze, all(isinstance(f, str) and f for f in self.freeze), "a list of names")

    def _check_numbers(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            check(name, value, is_whole(value) and value >= 1, "an integer of at least 1")
        check("patience", self.patience, is_whole(self.patience) and self.patience >= 0, "an integer of at least 0")
        for name in ("half", "spectral_norm"):
            check(name, getattr(self, name), isinstance(getattr(self, name), bool), "true or false")
        check("upright", self.upright, self.upright is None or isinstance(self.upright, bool), "true, false or nothing")
        check("seed", self.seed, is_whole(self.seed) and 0 <= self.seed < 2**32, "an integer in [0, 2**32)")
        for name in ("learning_rate", "muon_rate", "clip", "discriminator_rate"):
            value = getattr(self, name)
            check(name, value, is_number(value) and value > 0, "a number above 0")
        good = self.minutes is None or (is_number(self.minutes) and self.minutes > 0)
        check("minutes", self.minutes, good, "a number above 0, or nothing")
        for name in ("final_rate", "warmup", "colour_jitter", "shallow_focus", "uneven_light", "colour_grading"):
            value = getattr(self, name)
            check(name, value, is_number(value) and 0 <= value <= 1, "a number in [0, 1]")
        for name in ("weight_decay", "save_minutes"):
            value = getattr(self, name)
            check(name, value, is_number(value) and value >= 0, "a number of at least 0")
        below_one = {"ema": (self.ema,), "betas": self.betas}
        for name, values in below_one.items():
            good = all(is_number(v) and 0 <= v < 1 for v in values)
            check(name, getattr(self, name), good, "in [0, 1)")
        check("betas", self.betas, len(self.betas) == 2, "two numbers")
        for name in ("charbonnier", "rescale"):
            value = getattr(self, name)
            good = len(value) == 2 and all(is_number(v) and v > 0 for v in value)
            check(name, value, good, "two numbers above 0")
        check("rescale", self.rescale, self.rescale[0] <= self.rescale[1], "the smaller factor first")

    def _check_phases(self) -> None:
        for row in self.phases:
            good = len(row) == 3 and is_number(row[0]) and all(is_whole(v) and v >= 1 for v in row[1:])
            check("phases", self.phases, good, "rows of (share of the steps, crop size, batch size)")
            check("phases", self.phases, row[2] % self.groups == 0, f"batches that groups ({self.groups}) divides")
        ends = [phase[0] for phase in self.phases]
        if not ends or any(a >= b for a, b in pairwise([0, *ends])) or ends[-1] != 1.0:
            raise ValueError(f"phases end at {ends}; wanted rising shares above 0, the last 1.0")
        crop, least = min(phase[1] for phase in self.phases), discriminator.SMALLEST
        if self.loss_weights().adversarial and crop < least:
            raise ValueError(f"phases have crops of {crop} px; the adversarial loss wanted at least {least}")

    def _check_card(self) -> None:
        # A card that cannot be written would come to light only when the training is over.
        check("card", self.card, isinstance(self.card, Mapping), "a table of names and values")
        if taken := sorted(set(_CARD_OF_THE_RUN) & set(self.card)):
            raise ValueError(f"card has {taken}; these are filled in by the training, wanted other names")
        try:
            json.dumps(dict(self.card), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"card cannot be written: {error}; wanted text, numbers, lists and tables") from None
        side = self.card.get("working_side")
        good = side is None or (is_whole(side) and side >= 1)
        check("working_side of the card", side, good, "a whole number of pixels")

    def _check_sources(self) -> None:
        self.source_specs()
        self.validation_spec()

    @property
    def kind(self) -> str:
        """What is put on clean pictures."""
        return self.degradation_kind or self.task

    @property
    def largest_crop(self) -> int:
        """Largest crop of all phases, in pixels."""
        return max(crop for _, crop, _ in self.phases)

    def source_specs(self) -> list[SourceSpec]:
        """Return the sources of training pictures; none where `data` and `sources` are empty."""
        first = [SourceSpec(clean=self.data)] if self.data else []
        return first + [SourceSpec.from_dict(source) for source in self.sources]

    def validation_spec(self) -> SourceSpec | None:
        """Return the source of validation pictures, if it is another one."""
        check("validation", self.validation, isinstance(self.validation, Mapping), "a table like those of sources")
        return SourceSpec.from_dict(self.validation) if self.validation else None

    def network_config(self) -> NetworkConfig:
        """Return the network's settings."""
        names = [f.name for f in fields(NetworkConfig)]
        known(self.network, names, "network")
        if set(self.network) == set(names):  # the model to start from is not asked: it may be gone
            return NetworkConfig.from_dict(self.network)
        if self.preset == "start":
            assert self.start is not None
            base = read_header(zoo.find_model(self.start).path).config
        else:
            base = PRESETS[self.preset]
        return NetworkConfig.from_dict({**base.to_dict(), **self.network})

    def loss_weights(self) -> LossWeights:
        """Return the losses' weights."""
        known(self.losses, [f.name for f in fields(LossWeights)], "loss")
        return replace(RECIPES[self.recipe], **self.losses)

    def extras(self, depth: PicturePool | None = None) -> Extras:
        """Return what the batches' crops become pairs with."""
        return Extras(
            degrade=self.mixture(),
            task=self.task,
            depth=depth,
            rescale=self.rescale,
            upright=self.keeps_upright,
            variation=Variation(
                colour_jitter=self.colour_jitter,
                shallow_focus=self.shallow_focus,
                uneven_light=self.uneven_light,
                colour_grading=self.colour_grading,
            ),
        )

    @property
    def keeps_upright(self) -> bool:
        """Whether crops are not turned."""
        if self.upright is not None:
            return self.upright
        pairs_only = self.data is None and bool(self.sources) and all("input" in source for source in self.sources)
        return self.kind == "haze" and not pairs_only

    def mixture(self) -> Any:
        """Return the degradation that the pairs are made with."""
        check("degradation", self.degradation, isinstance(self.degradation, Mapping), "a table of parts and weights")
        for name, weight in self.degradation.items():
            check(f"degradation {name}", weight, is_number(weight) and weight >= 0, "a number of at least 0")
        kinds = list(mixtures.TASK_PARTS)
        check("degradation_kind", self.kind, self.kind in kinds, f"one of {', '.join(kinds)}")
        known(self.degradation, mixtures.TASK_PARTS[self.kind], "degradation")
        total = sum(self.degradation.values())
        check("degradation", self.degradation, not self.degradation or total > 0, "a weight above 0")
        return mixtures.mixture(self.kind, dict(self.degradation) or None)

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
        values = {**read_settings(path), **changes}
        cls._check_names(values)
        if not (values.get("data") or values.get("sources")):
            raise ValueError(f"training settings {path} lack data, the folder of clean pictures, or sources")
        return cls(**values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from what `to_dict` returned; ValueError for an unknown or wrong setting."""
        cls._check_names(values)
        return cls(**values)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        known(values, [f.name for f in fields(cls)], "training")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
