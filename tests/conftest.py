"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def tiny_network():
    """A small network of the product's own class, with weights that make it do something."""
    import torch

    from napari_dmgn.model.config import NetworkConfig
    from napari_dmgn.model.network import DMGN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = DMGN(
            NetworkConfig(
                width=8,
                head_levels=2,
                branch_widths=(8, 12),
                bottleneck_cells=1,
                refine_dilations=(1, 2),
                attention_reduction=4,
            )
        )
        # The product starts near the identity; random last layers make every path count.
        for last in (network.background_branch.out, network.noise_branch.out, network.refiner.out):
            torch.nn.init.normal_(last.weight, std=0.05)
    return network.eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_network) -> Path:
    """A valid model file for rain with the tiny network's random weights."""
    from napari_dmgn import checkpoint

    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    checkpoint.save(path, tiny_network, task="rain", card={"name": "tiny", "licence": "BSD-3-Clause"})
    return path


@pytest.fixture
def rainy() -> NDArray[np.uint8]:
    """A (96, 128, 3) uint8 picture with rain."""
    import torch
    from skimage import data

    from napari_dmgn.synthesis.rain import LightRain

    clean = torch.from_numpy(data.astronaut()[:96, 180:308] / np.float32(255)).permute(2, 0, 1)[None]
    pair = LightRain()(clean, torch.Generator().manual_seed(0))
    return (pair.input[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
