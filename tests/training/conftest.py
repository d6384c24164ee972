"""What the tests of training share: pictures, small settings, and a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from napari_dmgn.data import Batches, PicturePool, Source, find_pictures, read_pictures
from napari_dmgn.training import TrainConfig, iter_train, loop, state

NETWORK = {
    "width": 8,
    "head_levels": 2,
    "branch_widths": [8, 12],
    "bottleneck_cells": 1,
    "refine_dilations": [1, 2],
    "attention_reduction": 4,
}
STEPS = 12


def write_pictures(folder: Path, count: int = 5) -> Path:
    """Smooth random pictures with a few edges."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    for index in range(count):
        small = random.integers(0, 255, (8, 9, 3)).astype(np.uint8)
        picture = np.array(Image.fromarray(small).resize((72, 64), Image.Resampling.BICUBIC))
        picture[10 + index : 30, 5:40] //= 2
        Image.fromarray(picture).save(folder / f"picture{index}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of five pictures of 72x64."""
    return write_pictures(tmp_path_factory.mktemp("clean") / "pictures")


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainConfig]:
    """Make settings of a small run: settings(pictures, run, **changes)."""

    def make(pictures: Path | None, run: Path, **changes) -> TrainConfig:
        values = {
            "data": str(pictures) if pictures else None,
            "run": str(run),
            "network": NETWORK,
            "degradation": {"light": 0.5, "heavy": 0.42, "none": 0.08},
            "phases": [[0.5, 32, 2], [1.0, 48, 2]],
            "steps": STEPS,
            "validation_pictures": 2,
            "validation_crop": 32,
            "validate_every": 5,
            "device": "cpu",
            "seed": 4,
        }
        return TrainConfig(**{**values, **changes})

    return make


class TinyFeatures(torch.nn.Module):
    """Two levels of fixed random features."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn((4, 3, 3, 3), generator=generator) / 5, requires_grad=False)
        self.second = torch.nn.Parameter(torch.randn((6, 4, 3, 3), generator=generator) / 6, requires_grad=False)

    def forward(self, image):
        one = torch.relu(torch.nn.functional.conv2d(image, self.first, padding=1))
        return [one, torch.relu(torch.nn.functional.conv2d(one, self.second, stride=2, padding=1))]


@pytest.fixture(scope="session")
def features() -> TinyFeatures:
    return TinyFeatures()


@pytest.fixture(scope="session")
def every_loss() -> dict[str, object]:
    """Settings under which no loss is off."""
    losses = {"background_fft": 0.1, "noise": 0.2, "noise_map": 0.05, "balance": 0.02}
    return {"recipe": "paper", "losses": losses, "discriminator_width": 4}


@pytest.fixture(scope="session")
def batches() -> Callable[..., Batches]:
    """Make the batches of a folder's pictures as a run would: batches(pictures, config)."""

    def make(pictures: Path, config: TrainConfig) -> Batches:
        pool = PicturePool([p for path in find_pictures(pictures) for p in read_pictures(path)])
        extras = config.extras()
        return Batches([Source(pool=pool)], extras, torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def uninterrupted(pictures, settings, tmp_path_factory):
    """A whole run: its folder and its events."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    events = list(iter_train(settings(pictures, folder)))
    return folder, events


def _bits(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.fixture(scope="session")
def bits() -> Callable[[Path], dict[str, bytes]]:
    """Every tensor of a safetensors file, byte for byte."""
    return _bits


@pytest.fixture(scope="session")
def same_run() -> Callable[[Path, Path], None]:
    """Compare state, last and best model of two runs, bit for bit."""

    def compare(folder: Path, other: Path) -> None:
        for name in (state.STATE, loop.MODEL, loop.BEST):
            first, second = _bits(folder / name), _bits(other / name)
            assert first.keys() == second.keys()
            assert [k for k in first if first[k] != second[k]] == []

    return compare
