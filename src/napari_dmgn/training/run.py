"""The state of a training run: network, average, optimiser; one step of it, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from napari_dmgn import checkpoint, devices
from napari_dmgn.data import PicturePool
from napari_dmgn.losses import restoration_loss
from napari_dmgn.model.network import DMGN
from napari_dmgn.synthesis.degradation import TensorPair
from napari_dmgn.training.settings import TrainConfig

__all__ = ["STATE", "Run"]

STATE = "state.safetensors"
_STEP_SEEDS = 1_000_003  # a prime: seeds of different runs do not fall onto each other's steps


class Run:
    """Network, average and optimiser of one run, and their file."""

    def __init__(self, config: TrainConfig, digest: str = "") -> None:
        self.config = config
        self.digest = digest
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
        state = {"step": self.step, "seconds": self.seconds, "config": self.config.to_dict(), "data": self.digest}
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
        if self.digest and state.get("data", self.digest) != self.digest:
            raise ValueError(f"cannot resume {self.config.run}: other training pictures than before")
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
    free = {"data", "run", "device", "save_minutes", "validate_every", "name", "half", "card"}
    now = json.loads(json.dumps(config.to_dict()))
    changed = sorted(k for k in now if k not in free and now[k] != saved.get(k))
    if changed:
        raise ValueError(f"cannot resume {config.run}: other settings than before: {changed}")
