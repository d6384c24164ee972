"""Small pictures with known errors, and what makes folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.files import write_image


@pytest.fixture
def clean() -> np.ndarray:
    """A (40, 48, 3) uint8 picture with room above and below its values."""
    y, x, c = np.indices((40, 48, 3))
    return (60 + (5 * y + 3 * x + 40 * c) % 120).astype(np.uint8)


@pytest.fixture
def put(tmp_path):
    """Write a picture at a place below the test's folder and return the place."""

    def write(place: str, picture: np.ndarray) -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, picture)
        return path

    return write


@pytest.fixture
def run_on(tiny_checkpoint):
    """Arguments of `evaluate` that take the small model on the CPU."""
    return {"model": tiny_checkpoint, "device": "cpu", "precision": "float32"}
