"""The state of a training run: network, average, optimiser, adversary; and one step of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from napari_dmgn import checkpoint, devices, zoo
from napari_dmgn.data import Batches
from napari_dmgn.losses import restoration_loss
from napari_dmgn.model.growth import can_grow, grow
from napari_dmgn.model.network import DMGN, NetworkOutput
from napari_dmgn.perceptual import Features
from napari_dmgn.synthesis.degradation import TensorPair
from napari_dmgn.training.adversary import Adversary
from napari_dmgn.training.optimiser import build_optimiser
from napari_dmgn.training.processes import Alone, Processes, seeded
from napari_dmgn.training.schedule import Schedule
from napari_dmgn.training.settings import TrainConfig

__all__ = ["Done", "Run", "Timing"]

_IMAGES = ("input", "background", "noise")
_STEP_SEEDS = 1_000_003  # a prime: seeds of different runs do not fall onto each other's steps


@dataclass(kw_only=True)
class Timing:
    """Seconds of one step: crops, what is put on them, and the networks."""

    data: float = 0.0
    synthesis: float = 0.0
    network: float = 0.0

    @property
    def busy(self) -> float:
        """Share of the time that the networks take."""
        total = self.data + self.synthesis + self.network
        return self.network / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The pairs of some steps from the first on, drawn together, and the seconds that took."""

    pair: TensorPair
    first: int
    crop: int
    batch: int
    timing: Timing


@dataclass(frozen=True, kw_only=True)
class Done:
    """What one step gave: the loss, its terms before their weights, the rate and the seconds."""

    loss: float
    terms: dict[str, float]
    rate: float
    timing: Timing = field(default_factory=Timing)


class Run:
    """Network, average, optimiser and adversary of one run.

    Parameters
    ----------
    config : TrainConfig
    digest : str
        Of the training pictures.
    processes : Processes or None
        None is this one alone.
    features : callable or None
        What the perceptual losses compare by.
    started : bool
        Whether weights of the run itself will be loaded; those of `config.start` then are not.
    """

    def __init__(
        self,
        config: TrainConfig,
        digest: str = "",
        *,
        processes: Processes | None = None,
        features: Features | None = None,
        started: bool = False,
    ) -> None:
        self.config = config
        self.digest = digest
        self.processes = processes or Alone(config.device)
        self.device = self.processes.device
        self.precision = devices.resolve_precision(config.precision, str(self.device))
        self.weights = config.loss_weights()
        self.schedule = Schedule(config, config.steps)
        self.step = 0
        self.seconds = 0.0
        self.loss: float | None = None  # of the last step
        self.best: float | None = None  # highest validation score
        self.stale = 0  # validations since
        self.validated = 0  # step of the last one
        self.stopped = ""  # why the run ended before its last step
        self.between_steps = True
        self._block: _Block | None = None
        self.groups = self._groups()
        if isinstance(features, nn.Module):
            features.to(self.device)
            features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the images are
        self.features = features
        with seeded(config.seed):
            self.network = DMGN(config.network_config())
        if config.start is not None and not started:
            start = _start(config)
            if not can_grow(start.config, self.network.config):
                raise ValueError(
                    f"start {config.start} has another network than the settings; preset 'start' is its own"
                )
            grow(start, self.network)
        self._freeze()
        self.network.place(self.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = build_optimiser(
            self.network,
            config.optimiser,
            rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            muon_rate=config.muon_rate,
        )
        self._forward = self.processes.wrap(self._compiled())
        self.adversary = None
        if self.weights.adversarial:
            self.adversary = Adversary(config, self.processes, self.autocast)

    def _groups(self) -> int:
        size, groups = self.processes.size, self.config.groups
        groups = size if groups == 1 else groups
        if groups % size:
            raise ValueError(f"groups is {groups}; {size} processes wanted a multiple of {size}")
        for _, _, batch in self.config.phases:
            if batch % groups:
                raise ValueError(f"phases have batches of {batch}; {groups} groups wanted a multiple of {groups}")
        return groups

    def _freeze(self) -> None:
        names = [name for name, _ in self.network.named_parameters()]
        for prefix in self.config.freeze:
            frozen = [name for name in names if name == prefix or name.startswith(prefix + ".")]
            if not frozen:
                parts = sorted({name.partition(".")[0] for name in names})
                raise ValueError(f"freeze names {prefix!r}, which the network lacks; its parts are {', '.join(parts)}")
            for name in frozen:
                self.network.get_parameter(name).requires_grad_(False)
        if not any(p.requires_grad for p in self.network.parameters()):
            raise ValueError(f"freeze is {list(self.config.freeze)}, which leaves nothing to train")

    def _compiled(self) -> nn.Module:
        wanted = self.device.type == "cuda" if self.config.compile == "auto" else self.config.compile
        if not wanted:
            return self.network
        # Not dynamic: each phase has one size, and fixed sizes give the faster kernels.
        compiled: Any = torch.compile(self.network, dynamic=False)
        module: nn.Module = compiled
        return module

    def fit(self, steps: int) -> None:
        """Set the steps of the whole run, before the first."""
        assert self.step == 0
        self.schedule = Schedule(self.config, steps)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.steps

    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.step >= self.steps or bool(self.stopped)

    def wants_validation(self) -> bool:
        """Whether this step is one that is validated, and it was not yet."""
        due = self.step > 0 and (self.step % self.config.validate_every == 0 or self.step == self.steps)
        return due and self.validated != self.step

    def release(self) -> None:
        """Let go of what only steps need: the wrapped networks, which tie processes together, and the discriminator."""
        self._forward = None
        self.adversary = None
        self._block = None

    def pair(self, batches: Batches, crop: int, batch: int, timing: Timing | None = None) -> TensorPair:
        """Make the current step's pairs, with those of the steps after it where `draw_ahead` says so."""
        ahead = self.config.draw_ahead
        first = self.step - self.step % ahead
        block = self._block
        if block is None or (block.first, block.crop, block.batch) != (first, crop, batch):
            self._block = None  # not both in memory
            block = self._drawn(batches, crop, batch, first)
        self._block = block if ahead > 1 else None
        if timing is not None:
            timing.data += block.timing.data / ahead
            timing.synthesis += block.timing.synthesis / ahead
        if ahead == 1:
            return block.pair
        # Every so many-th: what comes first in a batch (clean pictures, then pairs) is shared out over the steps.
        ours = {name: getattr(block.pair, name)[self.step - first :: ahead].contiguous() for name in _IMAGES}
        return TensorPair(**ours, parameters={})

    def _drawn(self, batches: Batches, crop: int, batch: int, first: int) -> _Block:
        """Draw the pairs of `draw_ahead` steps: those groups of the batches that are this process's."""
        per_process = self.groups // self.processes.size
        count = self.config.draw_ahead * batch // self.groups
        group = self.processes.rank * per_process
        parts, timing, seed = [], Timing(), self.config.seed * _STEP_SEEDS + first
        for i in range(group, group + per_process):
            clock = self._clock()
            crops = batches.crops(count, crop, seed, group=i)
            made = self._clock()
            parts.append(batches.pair(crops, seed, group=i))
            timing.data += made - clock
            timing.synthesis += self._clock() - made
        pair = parts[0]
        if len(parts) > 1:
            joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in _IMAGES}
            pair = TensorPair(**joined, parameters={})
        return _Block(pair=pair, first=first, crop=crop, batch=batch, timing=timing)

    def _clock(self) -> float:
        if self.device.type == "cuda":  # work is queued there; the time is when it is done
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def autocast(self) -> torch.autocast:
        """Return the context that the networks run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def advance(self, batches: Batches) -> Done:
        """Do one optimiser step.

        Raises
        ------
        FloatingPointError
            A loss or a gradient is not finite; nothing is changed then.
        """
        timing = Timing()
        crop, batch = self.schedule.phase(self.step)
        pair = self.pair(batches, crop, batch, timing)
        clock = self._clock()
        share = self.schedule.share_of_rate(self.step)
        rate = self.config.learning_rate * share
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate_scale"]
        with nullcontext() if self.adversary is None else self.adversary.undone_by_errors():
            values = self._gradients(pair)
        self._apply(share)
        timing.network = self._clock() - clock
        del values["gradient"]
        values.pop("discriminator_gradient", None)
        return Done(loss=values.pop("total"), terms=values, rate=rate, timing=timing)

    def _gradients(self, pair: TensorPair) -> dict[str, float]:
        """Compute all gradients; return the losses and the gradients' norms."""
        loss, terms, output = self._loss(pair)
        self.optimiser.zero_grad(set_to_none=True)
        self.processes.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        terms = {"total": loss.detach(), **terms, "gradient": norm}
        if self.adversary is not None:
            learned, slope = self.adversary.learn(output.background, pair.background, pair.input)
            terms |= {"discriminator": learned, "discriminator_gradient": slope}
        values = self._shared(terms)
        # Before anything is changed: the weights, and a state saved now, stay good.
        if bad := {name: value for name, value in values.items() if not math.isfinite(value)}:
            raise FloatingPointError(
                f"not finite at step {self.step + 1}: {', '.join(f'{n} {v}' for n, v in bad.items())}; "
                "start anew with a lower learning_rate"
            )
        return values

    def probe(self, batches: Batches, crop: int, batch: int) -> float:
        """Do the work of a step, changing nothing; return its seconds, with its share of what is drawn ahead."""
        kept = None if self.adversary is None else self.adversary.network.state_dict()
        kept = None if kept is None else {name: tensor.clone() for name, tensor in kept.items()}
        self._block = None
        timing = Timing()
        pair = self.pair(batches, crop, batch, timing)
        clock = self._clock()
        loss, _, output = self._loss(pair)
        self.processes.backward(loss)
        if self.adversary is not None and kept is not None:
            self.adversary.learn(output.background, pair.background, pair.input)
            self.adversary.network.load_state_dict(kept)  # the spectral norm remembers every pass
        self.optimiser.zero_grad(set_to_none=True)
        return timing.data + timing.synthesis + self._clock() - clock

    def agreed(self, values: dict[str, float]) -> dict[str, float]:
        """Return numbers that all processes then have, the means of theirs: they decide by them alike."""
        if self.processes.size == 1:
            return values
        stacked = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        return dict(zip(values, self.processes.mean(stacked).tolist(), strict=True))

    def _loss(self, pair: TensorPair) -> tuple[Tensor, dict[str, Tensor], NetworkOutput]:
        with self.autocast():
            output = self._forward(pair.input)
        loss, terms = restoration_loss(
            output,
            pair.background,
            pair.noise,
            self.weights,
            epsilon=self.schedule.epsilon(self.step),
            features=self._cast(self.features) if self.features else None,
            adversary=self._judge(pair.input),
            mean=self.processes.mean,
        )
        return loss, terms, output

    def _cast(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def cast(*args: Tensor) -> Any:
            with self.autocast():
                return function(*args)

        return cast

    def _judge(self, image: Tensor) -> Callable[[Tensor], Tensor] | None:
        adversary = self.adversary
        return None if adversary is None else lambda background: adversary.judge(background, image)

    def _shared(self, terms: dict[str, Tensor]) -> dict[str, float]:
        # One exchange between the processes, and one copy from a GPU.
        stacked = torch.stack([value.float() for value in terms.values()])
        return dict(zip(terms, self.processes.mean(stacked).tolist(), strict=True))

    def _apply(self, share: float) -> None:
        self.between_steps = False
        self.optimiser.step()
        if self.adversary is not None:
            self.adversary.step(share)
        self.step += 1
        # A young average follows fast, an old one slowly.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()
        torch._foreach_lerp_([self.average[name] for name in state], list(state.values()), 1 - decay)
        self.between_steps = True

    def is_best(self, score: float) -> bool:
        """Tell whether a validation's score is above all that were noted."""
        return self.best is None or score > self.best

    def note(self, score: float) -> None:
        """Take note of a validation's score."""
        better = self.is_best(score)
        self.best = score if better else self.best
        self.stale = 0 if better else self.stale + 1
        self.validated = self.step
        if self.config.patience and self.stale >= self.config.patience and self.step < self.steps:
            self.stopped = f"no better validation in {self.stale}, the best is {self.best:.2f} dB"

    def averaged(self) -> DMGN:
        """Return a network with the averaged weights."""
        with seeded(0):
            network = DMGN(self.network.config)
        network.load_state_dict(self.average)
        return network.place(self.device).eval()

    def base(self) -> DMGN | None:
        """Return the network that the run started from, if it did."""
        return None if self.config.start is None else _start(self.config).place(self.device).eval()


def _start(config: TrainConfig) -> DMGN:
    assert config.start is not None
    return checkpoint.load(zoo.find_model(config.start).path).network
