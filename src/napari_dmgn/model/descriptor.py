"""A loaded model: the network and what its file says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.network import DMGN, NetworkOutput

__all__ = ["Metadata", "Model"]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Where a model comes from.

    Attributes
    ----------
    name, task : str
    card : dict
        The model card.
    sha256 : str
        Of the file.
    path : Path or None
        The file; None for a model that was never on disk.
    """

    name: str
    task: str
    card: dict[str, Any]
    sha256: str
    path: Path | None = None


class Model:
    """A network in evaluation mode with its metadata; call it on a batch of images.

    Parameters
    ----------
    network : DMGN
    metadata : Metadata
    """

    def __init__(self, network: DMGN, metadata: Metadata) -> None:
        self.network = network
        self.metadata = metadata

    @property
    def config(self) -> NetworkConfig:
        """The network's settings."""
        return self.network.config

    def __call__(self, batch: Tensor, *, masks: bool = False) -> NetworkOutput:
        """Restore whole images, in float32 even within an autocast of the caller: `restore` has bf16.

        Parameters
        ----------
        batch : (N, 3, H, W) float tensor in [0, 1]
            Any H, W >= 1, any float type and device: taken to the network's, which are those of the result.
        masks : bool
            Return every cell's mask too.

        Raises
        ------
        ValueError
            No tensor, another rank or number of channels, an empty batch, or integers.
        """
        if not isinstance(batch, Tensor):
            raise ValueError(f"batch is a {type(batch).__name__}; wanted a float tensor in [0, 1]")
        if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
            raise ValueError(f"batch has shape {tuple(batch.shape)}; wanted (N, 3, H, W), not empty")
        if not batch.is_floating_point():
            raise ValueError(f"batch is {batch.dtype}; wanted a float tensor in [0, 1]")
        like = next(self.network.parameters())
        with torch.autocast(like.device.type, enabled=False):
            output: NetworkOutput = self.network(batch.to(like.device, like.dtype), masks=masks)
        return output
