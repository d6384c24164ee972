"""Training: settings, the loop as a generator, and exact resume.

A step's randomness is a function of the seed and the step's number alone, and the schedule is a
function of the step; so weights, moving average, optimiser and step number are the whole state.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import tomllib
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from napari_dmgn import checkpoint, devices, metrics
from napari_dmgn.data import PicturePool, find_pictures, split_pictures
from napari_dmgn.losses import LossWeights, restoration_loss
from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.model.network import DMGN
from napari_dmgn.synthesis.degradation import TensorPair
from napari_dmgn.synthesis.rain import HeavyRain, LightRain, rain_mixture

__all__ = ["TrainConfig", "TrainEvent", "iter_train", "train"]

log = logging.getLogger(__name__)

STATE = "state.safetensors"
LOG = "log.jsonl"
MODEL = "model.safetensors"
_STEP_SEEDS = 1_000_003  # a prime: seeds of different runs do not fall onto each other's steps


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
        # Built once here so that their own checks run now.
        if self.network_config().head == "vgg19" and self.start is None:
            raise ValueError(f"preset {self.preset!r} needs VGG-19's weights; wanted start, a model file with them")
        self.loss_weights()
        self.mixture()

    def _check_numbers(self) -> None:
        whole = {n: getattr(self, n) for n in ("steps", "validation_pictures", "validation_crop", "validate_every")}
        for name, value in whole.items():
            _check(name, value, _is_whole(value) and value >= 1, "an integer of at least 1")
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


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """What happened in one step.

    Attributes
    ----------
    step, steps : int
        Steps done and wanted.
    loss : float
    terms : dict of str to float
        Each loss before its weight.
    learning_rate, seconds : float
        `seconds` counts the whole run, resumed parts included.
    validation : dict or None
        PSNR in dB (`rain-y`) by part, where the step was followed by a validation.
    model : Path or None
        The finished model, in the last event.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    seconds: float
    validation: dict[str, float] | None = None
    model: Path | None = None


class _Run:
    """Network, average and optimiser of one run, and their file."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = torch.device(devices.resolve_device(config.device))
        self.precision = devices.resolve_precision(config.precision, str(self.device))
        self.step = 0
        self.seconds = 0.0
        self.between_steps = True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = DMGN(config.network_config())
        if config.start is not None:
            started = checkpoint.load(config.start)
            if started.config != self.network.config:
                raise ValueError(f"start {config.start} has another network than the settings")
            self.network.load_state_dict(started.network.state_dict())
        self.network.place(self.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )

    def schedule(self, step: int) -> tuple[float, int, int]:
        """Return the learning rate, crop size and batch size of a step, counted from 0."""
        c = self.config
        share = step / c.steps
        if share < c.warmup:
            rate = c.learning_rate * (step + 1) / math.ceil(c.warmup * c.steps)
        else:
            cosine = 0.5 + 0.5 * math.cos(math.pi * (share - c.warmup) / (1 - c.warmup))
            rate = c.learning_rate * (c.final_rate + (1 - c.final_rate) * cosine)
        crop, batch = next((crop, batch) for end, crop, batch in c.phases if share < end)
        return rate, crop, batch

    def epsilon(self, step: int) -> float:
        """Return the width of the losses' squares at a step: falls geometrically over the first half."""
        start, end = self.config.charbonnier
        return float(start * (end / start) ** min(1.0, 2 * step / self.config.steps))

    def pair(self, pool: PicturePool, crop: int, batch: int) -> TensorPair:
        """Make the current step's pairs: crops on the CPU, the degradation on the device."""
        seed = self.config.seed * _STEP_SEEDS + self.step
        clean = pool.crops(batch, crop, torch.Generator().manual_seed(seed))
        generator = torch.Generator(device=self.device).manual_seed(seed)
        pair: TensorPair = self.config.mixture()(clean.to(self.device), generator)
        return pair

    def advance(self, pool: PicturePool) -> tuple[float, dict[str, float], float]:
        """Do one optimiser step; return the loss, its terms and the learning rate."""
        rate, crop, batch = self.schedule(self.step)
        pair = self.pair(pool, crop, batch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.network(pair.input)
        loss, terms = restoration_loss(
            output, pair.background, pair.noise, self.config.loss_weights(), epsilon=self.epsilon(self.step)
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        value = loss.item()
        # Before anything is changed: the weights, and a state saved now, stay good.
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise FloatingPointError(
                f"the loss is {value} and its gradient's norm {norm.item()} at step {self.step + 1}; "
                "start anew with a lower learning_rate"
            )
        self.between_steps = False
        self.optimiser.step()
        self.step += 1
        # A young average follows fast, an old one slowly.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()
        torch._foreach_lerp_([self.average[name] for name in state], list(state.values()), 1 - decay)
        self.between_steps = True
        return value, {k: float(v) for k, v in terms.items()}, rate

    def averaged(self) -> DMGN:
        """Return a network with the averaged weights."""
        with torch.random.fork_rng(devices=[]):
            network = DMGN(self.network.config)
        network.load_state_dict(self.average)
        return network.place(self.device).eval()

    def save_state(self) -> None:
        """Write everything that `load_state` needs, atomically."""
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{k}": v for k, v in values.items()}
        state = {"step": self.step, "seconds": self.seconds, "config": self.config.to_dict()}
        checkpoint.write_tensors(
            Path(self.config.run) / STATE,
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            {"state": json.dumps(state)},
        )

    def load_state(self) -> None:
        """Continue from the run's saved state."""
        path = Path(self.config.run) / STATE
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
        _check_same_run(self.config, state["config"])
        tensors = safetensors.torch.load_file(path)
        self.network.load_state_dict(_part(tensors, "network/"))
        # Copied in place, which keeps the memory format: other formats take other kernels, and those
        # round differently.
        for name, value in _part(tensors, "average/").items():
            self.average[name].copy_(value)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimiser/").items():
            index, name = key.split("/")
            like = parameters[int(index)]
            kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            moments.setdefault(int(index), {})[name] = kept
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = state["step"], state["seconds"]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _check_same_run(config: TrainConfig, saved: Mapping[str, Any]) -> None:
    free = {"data", "run", "device", "save_minutes", "validate_every", "name"}
    now = json.loads(json.dumps(config.to_dict()))
    changed = sorted(k for k in now if k not in free and now[k] != saved.get(k))
    if changed:
        raise ValueError(f"cannot resume {config.run}: other settings than before: {changed}")


def iter_train(
    config: TrainConfig, *, resume: bool = False, overwrite: bool = False
) -> Generator[TrainEvent, None, None]:
    """Train a model, one event per step; stop by closing the generator.

    The last state is saved when the generator ends or is closed, and every `save_minutes`.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Continue the run in `config.run`; a run without a saved state starts anew.
    overwrite : bool
        Start anew although the folder holds a run.

    Raises
    ------
    ValueError
        Data that cannot be used, or a folder with an earlier run and neither option given.
    FloatingPointError
        The loss is not finite.
    """
    folder = Path(config.run)
    state_exists = (folder / STATE).exists()
    if state_exists and not (resume or overwrite):
        raise ValueError(f"{folder} holds an earlier run; resume it, or allow to overwrite it")
    training, held_out = split_pictures(find_pictures(config.data), config.validation_pictures)
    largest = max(crop for _, crop, _ in config.phases)
    pool = PicturePool(training, least=largest)
    validation = PicturePool(held_out, least=config.validation_crop)
    run = _Run(config)
    if state_exists and resume:
        run.load_state()
    elif overwrite:
        for name in (STATE, LOG):  # a state left here would be resumed if this run is killed early
            (folder / name).unlink(missing_ok=True)
    return _steps(run, pool, validation)


def _steps(run: _Run, pool: PicturePool, validation: PicturePool) -> Generator[TrainEvent, None, None]:
    config = run.config
    saved = clock = time.monotonic()
    saved_step = run.step
    try:
        while run.step < config.steps:
            torch.set_flush_denormal(True)  # denormals in young moments slow a CPU down several times
            loss, terms, rate = run.advance(pool)
            torch.set_flush_denormal(False)  # the caller's code between two steps is not ours
            now = time.monotonic()
            run.seconds, clock = run.seconds + now - clock, now
            scores = None
            if run.step % config.validate_every == 0 or run.step == config.steps:
                scores = validate(run.averaged(), validation, config, run)
            event = TrainEvent(
                step=run.step,
                steps=config.steps,
                loss=loss,
                terms=terms,
                learning_rate=rate,
                seconds=run.seconds,
                validation=scores,
            )
            if run.step == config.steps:
                # The model first: killed between the two, a resumed run writes both.
                event = replace(event, model=_finish(run, pool, validation, scores or {}))
                run.save_state()
                saved_step = run.step
            elif now - saved > 60 * config.save_minutes:
                run.save_state()
                saved, saved_step = now, run.step
            _log(event, Path(config.run))
            yield event
    finally:
        torch.set_flush_denormal(False)
        # An interrupt may fall into the middle of a step; such a state is never saved.
        if saved_step < run.step < config.steps and run.between_steps:
            run.save_state()


def _log(event: TrainEvent, folder: Path) -> None:
    if event.step % 20 and event.validation is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in asdict(event).items() if v is not None and k != "model"}
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


@torch.inference_mode()
def validate(network: DMGN, pool: PicturePool, config: TrainConfig, run: _Run) -> dict[str, float]:
    """Score the network on fixed pairs: mean PSNR in dB (`rain-y`) before and after, by part."""
    clean = pool.centres(config.validation_crop)
    scores = {}
    for part, degrade in (("light", LightRain()), ("heavy", HeavyRain())):
        pairs = degrade(clean, torch.Generator().manual_seed(config.seed))
        restored = []
        for i in range(0, len(clean), 8):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
                output = network(pairs.input[i : i + 8].to(run.device))
            restored.append(output.background.float().cpu())
        wanted = _bytes(clean)
        for name, images in (("input", pairs.input), ("output", torch.cat(restored))):
            each = [metrics.psnr_y(a, b) for a, b in zip(_bytes(images), wanted, strict=True)]
            scores[f"{part} {name}"] = round(float(np.mean(each)), 3)
    return scores


def _bytes(images: Tensor) -> Any:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _finish(run: _Run, pool: PicturePool, validation: PicturePool, scores: Mapping[str, float]) -> Path:
    config = run.config
    card = {
        "name": config.name,
        "task": config.task,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": "BSD-3-Clause",
        "input_range": [0, 1],
        "training": {
            "pictures": len(pool),
            "data_sha256": pool.digest,
            "seconds": round(run.seconds),
            "hardware": f"{run.device.type}, {run.precision}, {os.cpu_count()} cores",
            "settings": {k: v for k, v in config.to_dict().items() if k not in ("data", "run")},
        },
        "scores": {
            "protocol": f"rain-y PSNR in dB, mean of {len(validation)} held-out pictures, "
            f"central {config.validation_crop} px, synthetic rain",
            **scores,
        },
    }
    path = Path(config.run) / MODEL
    checkpoint.save(path, run.averaged(), task=config.task, card=card)
    return path


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a model to the end and return its file; see `iter_train`."""
    path = None
    for event in iter_train(config, resume=resume, overwrite=overwrite):
        path = event.model
    if path is None:  # a finished run that was resumed: nothing was left to do
        path = Path(config.run) / MODEL
    return path
