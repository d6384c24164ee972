"""One training in one process or in several, on one machine or many."""

from __future__ import annotations

import atexit
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from napari_dmgn import devices

__all__ = ["Alone", "Processes", "Several", "are_several", "join", "rank_of_environment", "seeded"]


class Processes(Protocol):
    """What a run needs to know of the processes that it is done by."""

    rank: int
    size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> Any:
        """Return the module with gradients that are averaged over all processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...


class Alone:
    """A single process.

    Parameters
    ----------
    device : str
        As in `TrainConfig`.
    """

    rank = 0
    size = 1

    def __init__(self, device: str) -> None:
        self.device = torch.device(devices.resolve_device(device))

    def wrap(self, module: nn.Module) -> Any:
        """Return the module."""
        return module

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def mean(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def barrier(self) -> None:
        """Do nothing."""


class Several:
    """One of several processes that ``torchrun`` started; Lightning Fabric joins them.

    Parameters
    ----------
    device : str
        "auto", "cpu" or "cuda"; each process on a machine takes a GPU of its own.
    """

    def __init__(self, device: str) -> None:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ValueError(
                "training in several processes needs lightning-fabric; wanted: pip install 'napari-dmgn[distributed]'"
            ) from error
        kind = torch.device(devices.resolve_device(device)).type
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device is {device!r}; several processes wanted cpu or cuda")
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._fabric = Fabric(
            accelerator=kind, devices=local, num_nodes=max(1, world // local), strategy="ddp", precision="32-true"
        )
        ours = not torch.distributed.is_initialized()
        self._fabric.launch()
        if ours:
            atexit.register(_leave)
        self.rank: int = self._fabric.global_rank
        self.size: int = self._fabric.world_size
        self.device: torch.device = self._fabric.device

    def wrap(self, module: nn.Module) -> Any:
        """Return the module with gradients that are averaged over all processes."""
        return self._fabric.setup_module(module, move_to_device=False)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        with warnings.catch_warnings():
            # Depth-wise weights have one memory layout under two names; nothing is copied or lost.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self._fabric.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes; the result has no gradient."""
        averaged: Tensor = self._fabric.all_reduce(value.detach().clone(), reduce_op="mean")
        return averaged

    def barrier(self) -> None:
        """Wait for all processes."""
        self._fabric.barrier()


def _leave() -> None:
    """Leave the group of processes; waits for its threads, unless a module that is wrapped is still held.

    Gloo's threads hold the tensors of an exchange for a moment after it, and to let go of them they need the
    interpreter: one that ends in that moment is aborted. They end with the last reference to the group.
    """
    gc.collect()  # wrapped modules, which refer to it
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def join(device: str) -> Processes:
    """Return the processes of this run: several where ``torchrun`` says so."""
    return Several(device) if are_several() else Alone(device)


def rank_of_environment() -> int:
    """Return this process's number before they have joined: 0 speaks for all."""
    return int(os.environ.get("RANK", "0")) if are_several() else 0


def are_several() -> bool:
    """Tell whether ``torchrun`` started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from the global generator of the CPU, which modules initialise from, without touching it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
