"""The file that a run is resumed from: everything that a step depends on, and nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from napari_dmgn import checkpoint
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.paths import expanded
from napari_dmgn.training.optimiser import MuonAdamW
from napari_dmgn.training.run import Run
from napari_dmgn.training.settings import TrainConfig

__all__ = ["STATE", "load_state", "read_config", "save_state", "state_bytes"]

STATE = "state.safetensors"

_logger = logging.getLogger(__name__)

# What may change without changing what the run computes.
_FREE = {
    "card", "compile", "data", "depth", "device", "features", "half", "name", "patience", "run", "save_minutes",
    "validate_every", "validation",
}  # fmt: skip
# What features that are no file are called.
_DOWNLOADS = ("vgg19", "download")
# What of a setting is compared.
_NAMES = {"sources": "weights of sources"}


def save_state(run: Run) -> None:
    """Write the run's state into its folder; it appears complete, or not at all."""
    tensors = {
        **_named("network/", run.network.state_dict()),
        **_named("average/", run.average),
        **_moments("optimiser/", run.optimiser),
    }
    if run.adversary is not None:
        tensors |= _named("discriminator/", run.adversary.network.state_dict())
        tensors |= _moments("discriminator_optimiser/", run.adversary.optimiser)
    state = {
        "config": _anywhere(run.config.to_dict()),
        "network": run.network.config.to_dict(),  # presets and models to start from may come to have other ones
        "data": run.digest,
        "step": run.step,
        "steps": run.steps,
        "groups": run.groups,
        "seconds": run.seconds,
        "loss": run.loss,
        "best": run.best,
        "stale": run.stale,
        "validated": run.validated,
        "stopped": run.stopped,
        "threads": torch.get_num_threads(),
    }
    path = Path(run.config.run) / STATE
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    checkpoint.write_tensors(path, contiguous, {"state": json.dumps(state)})


def _anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Make paths absolute: a run is also resumed from another folder than it was started in."""
    sources = [_absolute(source, "clean", "input", "background") for source in settings["sources"]]
    validation = _absolute(settings["validation"], "clean", "input", "background")
    named = ["data", "depth", "run"]
    named += ["start"] if str(settings["start"]).lower().endswith(".safetensors") else []
    named += [] if settings["features"] in _DOWNLOADS else ["features"]
    return {**_absolute(settings, *named), "sources": sources, "validation": validation}


def _absolute(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {
        name: str(expanded(value).absolute()) if name in names and value else value for name, value in table.items()
    }


def state_bytes(run: Run) -> int:
    """Return about how many bytes a saved state takes: weights, average and two moments each."""
    networks = [run.network] if run.adversary is None else [run.network, run.adversary.network]
    return sum(16 * p.numel() for network in networks for p in network.parameters())


def load_state(run: Run) -> None:
    """Continue from the state in the run's folder.

    Raises
    ------
    ValueError
        The file is damaged, or is that of a run with other settings or pictures.
    """
    state = _read(Path(run.config.run))
    path = Path(run.config.run) / STATE
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"cannot resume {run.config.run}: {path} is damaged: {error}") from error
    _check_same_run(run.config, state)
    _tell_threads(run, state.get("threads"))
    if run.digest and state.get("data", run.digest) != run.digest:
        raise ValueError(f"cannot resume {run.config.run}: other training pictures than before")
    groups = state.get("groups", 1)
    if groups % run.processes.size:
        raise ValueError(
            f"cannot resume {run.config.run}: batches of {groups} groups; wanted 1 or {groups} processes, "
            f"not {run.processes.size}"
        )
    run.groups = groups
    run.fit(state.get("steps", run.steps))
    run.network.load_state_dict(_part(tensors, "network/"))
    # Copied in place, which keeps the memory format: other formats take other kernels, and those
    # round differently.
    for name, value in _part(tensors, "average/").items():
        run.average[name].copy_(value)
    _load_moments(run.optimiser, _part(tensors, "optimiser/"))
    if run.adversary is not None:
        run.adversary.network.load_state_dict(_part(tensors, "discriminator/"))
        _load_moments(run.adversary.optimiser, _part(tensors, "discriminator_optimiser/"))
    run.step, run.seconds, run.loss = state["step"], state["seconds"], state.get("loss")
    run.best, run.stale, run.stopped = state.get("best"), state.get("stale", 0), state.get("stopped", "")
    run.validated = state.get("validated", run.step)  # an older state does not say; nearly always it was
    if not 0 < run.config.patience <= run.stale:  # more of it than when the run was stopped
        run.stopped = ""


def read_config(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings of the state in a run's folder, a state of an earlier version may lack some; None of none.

    Raises
    ------
    ValueError
        The file is damaged.
    """
    folder = Path(folder)
    if not (folder / STATE).exists():
        return None
    state = _read(folder)
    settings = dict(state["config"])
    if state["network"] is not None and _network(settings) != state["network"]:
        settings["network"] = state["network"]
    return settings


def _network(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return TrainConfig.from_dict(settings).network_config().to_dict()
    except ValueError:  # the model that it starts from may be gone
        return None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            names = list(file.keys())
        if not isinstance(state["config"], dict):
            raise ValueError("it has no settings")
        if "network" in state:  # settings that came later are as they were before there was a choice
            state["network"] = NetworkConfig.from_dict(state["network"]).to_dict()
        else:
            state["network"] = _earlier_network(state["config"], names)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot resume {folder}: {path} is damaged: {error}") from error
    return state


def _earlier_network(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """Return the network of a state that does not say it: presets had fewer cells then, or no gains."""
    network = _network(settings)
    if network is None:
        return None
    network["background_gain"] = any(".gain." in name for name in names)
    network["bottleneck_cells"] = _count(names, "network/background_branch.cells.")
    network["refine_dilations"] = network["refine_dilations"][: _count(names, "network/refiner.cells.")]
    return network


def _count(names: Sequence[str], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _moments(prefix: str, optimiser: torch.optim.Optimizer | MuonAdamW) -> dict[str, Tensor]:
    return {
        f"{prefix}{index}/{name}": value
        for index, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def _load_moments(optimiser: torch.optim.Optimizer | MuonAdamW, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        like = parameters[int(index)]
        kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        moments.setdefault(int(index), {})[name] = kept
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _tell_threads(run: Run, before: int | None) -> None:
    # Sums in another number of parts round otherwise: no mistake, but no longer the same run bit for bit.
    now = torch.get_num_threads()
    if before not in (None, now) and run.device.type == "cpu":
        told = "resumed with %d threads, before with %d: the same run to rounding, not bit for bit"
        _logger.warning(told, now, before)


def _check_same_run(config: TrainConfig, state: Mapping[str, Any]) -> None:
    now = config.to_dict()
    before = {**TrainConfig().to_dict(), **state["config"]}  # a state may be older than a setting
    if (kept := state["network"]) is not None:
        ours = config.network_config().to_dict()
        different = [name for name in ours if ours[name] != kept[name]]
        now["network"], before["network"] = ({n: values[n] for n in different} for values in (ours, kept))
    for settings in (now, before):  # folders may move; the pictures themselves are compared by their digest
        settings["sources"] = [source.get("weight", 1.0) for source in settings["sources"]]
        settings["start"] = settings["start"] and Path(settings["start"]).name
    now["upright"] = config.keeps_upright
    if before["upright"] is None:
        before["upright"] = replace(config, upright=None).keeps_upright
    changed = sorted(k for k in now if k not in _FREE and now[k] != before[k])
    if changed:
        told = "; ".join(f"{_NAMES.get(k, k)} is {now[k]!r}, wanted {before[k]!r}" for k in changed)
        raise ValueError(f"cannot resume {config.run}: other settings than before: {told}")
