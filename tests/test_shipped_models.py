"""The models that come with the package do what their cards say."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import napari_dmgn as dmgn
from napari_dmgn import samples, zoo
from napari_dmgn.metrics import PROTOCOL_OF_TASK, psnr, psnr_y

CROP = (slice(0, 192), slice(0, 256))
WEIGHTS = Path(__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def rain():
    info = zoo.find_model("rain")
    assert info.shipped
    return dmgn.load_model("rain")


@pytest.mark.parametrize(("strength", "gain"), [("light", 6), ("heavy", 5)])
@pytest.mark.parametrize("name", ["chelsea", "rocket"])
def test_rain_is_removed(rain, name, strength, gain):
    sample = samples.rainy_sample(name, strength)
    clean, wet = sample.clean[CROP], sample.input[CROP]
    result = dmgn.restore(wet, model=rain)
    assert psnr_y(result.background, clean) >= psnr_y(wet, clean) + gain
    # The noise layer is the rain; only correlated, because the input was cut off at white.
    streaks = wet.astype(float) - clean
    assert np.corrcoef(result.noise.ravel(), streaks.ravel())[0, 1] > 0.6
    # The map is high on streaks and low beside them.
    on, off = (streaks.mean(axis=2) > 40), (streaks.mean(axis=2) == 0)
    assert result.noise_map[on].mean() > result.noise_map[off].mean() + 0.3


@pytest.mark.parametrize("name", ["chelsea", "rocket"])
def test_clean_picture_stays_as_it_is(rain, name):
    clean = samples.clean_sample(name)[CROP]
    assert psnr_y(dmgn.restore(clean, model=rain).background, clean) > 35


@pytest.mark.parametrize(
    ("task", "name", "strength", "gain", "downscale"),
    [
        ("haze", "astronaut", "thin", 3, 1),  # a smaller copy of it looks clear
        ("haze", "rocket", "thin", 3, "auto"),
        ("haze", "astronaut", "dense", 8, "auto"),
        ("haze", "coffee", "medium", 5, "auto"),
        ("haze", "chelsea", "coloured", 3, "auto"),
        ("reflection", "chelsea", "gamma", 0.5, "auto"),
        ("reflection", "rocket", "sharp", 0.3, "auto"),
    ],
)
def test_haze_and_reflections_become_weaker(task, name, strength, gain, downscale):
    make = {"haze": samples.hazy_sample, "reflection": samples.reflection_sample}[task]
    sample, protocol = make(name, strength), PROTOCOL_OF_TASK[task]
    result = dmgn.restore(sample.input, task, downscale=downscale)
    assert result.provenance["model_task"] == task
    assert psnr(result.background, sample.clean, protocol) >= psnr(sample.input, sample.clean, protocol) + gain


@pytest.mark.parametrize(("task", "least"), [("haze", 30), ("reflection", 30)])
def test_picture_without_haze_or_reflection_stays_as_it_is(task, least):
    clean = samples.clean_sample("coffee")
    assert psnr(dmgn.restore(clean, task).background, clean, PROTOCOL_OF_TASK[task]) > least


def test_large_picture_in_tiles_has_no_seam(rain):
    wet = samples.rainy_sample("rocket", "light").input
    whole = dmgn.restore(wet, model=rain, precision="float32", tile=None)
    tiled = dmgn.restore(wet, model=rain, precision="float32", tile=160)
    assert tiled.provenance["windows"] > 1
    assert np.abs(tiled.noise - whole.noise).max() <= 1e-5 * 255
    assert np.abs(tiled.background.astype(int) - whole.background).max() <= 1


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_card_names_the_file_that_is_shipped(path):
    data = path.read_bytes()
    section = (WEIGHTS / "README.md").read_text(encoding="utf-8").split(f"\n## {path.stem}\n")[1].split("\n## ")[0]
    assert f"{len(data):,} bytes, sha256 `{hashlib.sha256(data).hexdigest()}`" in section
