"""Settings: a file and keywords are the same, and every wrong value is refused by name."""

import json
import math
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.data import SourceSpec
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.growth import can_grow
from napari_dmgn.synthesis.variation import Variation
from napari_dmgn.training import TrainConfig


def test_settings_file_and_keywords_are_the_same_thing(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        'data = "pictures"\nsteps = 40\nphases = [[0.5, 32, 2], [1.0, 48, 1]]\n'
        "[network]\nwidth = 64\n[degradation]\nlight = 1\nheavy = 0.5\n[losses]\nnoise = 0.3\n"
    )
    config = TrainConfig.from_file(path, steps=50)
    wanted = TrainConfig(
        data="pictures",
        steps=50,
        phases=((0.5, 32, 2), (1.0, 48, 1)),
        network={"width": 64},
        degradation={"light": 1, "heavy": 0.5},
        losses={"noise": 0.3},
    )
    assert config == wanted
    assert TrainConfig(**json.loads(json.dumps(config.to_dict()))) == wanted
    assert config.network_config() == replace(PRESETS["compact"], width=64)
    assert config.loss_weights().noise == 0.3


def test_numpys_numbers_and_paths_are_kept_as_a_file_would_have_them():
    plain = TrainConfig(
        data="pictures",
        run="runs/a",
        steps=5,
        seed=3,
        learning_rate=0.5,
        half=True,
        phases=[[0.5, 32, 2], [1.0, 48, 1]],
        network={"width": 64},
        sources=[{"clean": "more", "weight": 2.0}],
        losses={"noise": 0.5},
    )
    config = TrainConfig(
        data=Path("pictures"),
        run=Path("runs/a"),
        steps=np.int64(5),
        seed=np.uint8(3),
        learning_rate=np.float32(0.5),
        half=np.bool_(True),
        phases=[[np.float32(0.5), np.int32(32), np.int32(2)], [1.0, 48, 1]],
        network={"width": np.int64(64)},
        sources=[{"clean": Path("more"), "weight": np.float32(2)}],
        losses={"noise": np.float64(0.5)},
    )
    assert config == plain
    assert json.dumps(config.to_dict()) == json.dumps(plain.to_dict())
    assert isinstance(config.steps, int)
    assert SourceSpec(clean=Path("more")) == SourceSpec(clean="more")
    with pytest.raises(ValueError, match="steps is True; wanted an integer"):
        TrainConfig(steps=np.bool_(True))


def test_haze_on_clean_pictures_keeps_them_upright_unless_told_otherwise():
    pairs = [{"input": "a", "background": "b"}]
    for upright, values in (
        (True, {"task": "haze", "data": "x"}),
        (True, {"task": "rain", "degradation_kind": "haze", "data": "x"}),
        (True, {"task": "haze", "data": "x", "sources": pairs}),
        (True, {"task": "haze"}),  # arrays are to come
        (False, {"task": "haze", "data": "x", "upright": False}),
        (False, {"task": "haze", "sources": pairs}),
        (False, {"task": "haze", "degradation_kind": "veil", "data": "x"}),
        (False, {"task": "rain", "data": "x"}),
        (True, {"task": "rain", "data": "x", "upright": True}),
    ):
        config = TrainConfig(**values)
        assert config.keeps_upright == upright, values
        assert config.extras().upright == upright


def test_shares_of_varied_pictures_reach_the_batches():
    config = TrainConfig(data="x", colour_jitter=0.25, shallow_focus=1, uneven_light=0.5, colour_grading=0.125)
    assert config.extras().variation == Variation(
        colour_jitter=0.25, shallow_focus=1, uneven_light=0.5, colour_grading=0.125
    )
    assert not TrainConfig(data="x").extras().variation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "cannot read training settings"),
        ("steps = 5", "lack data"),
        ('data = "x"\nstep = 5', r"unknown training settings \['step'\]"),
        ('data = "x"\n[network]\nwidht = 5', r"unknown network settings \['widht'\]"),
        ('data = "x"\n[losses]\nl1 = 5', r"unknown loss settings \['l1'\]"),
        ('data = "x"\n[degradation]\nsnow = 1', r"unknown degradation settings \['snow'\]"),
    ],
)
def test_wrong_settings_files_are_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig.from_file(path)
    assert "\n" not in str(caught.value)


def test_unreadable_settings_files_are_refused(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'data = "\xe9"')
    for name in ("missing.toml", "latin.toml", "."):
        with pytest.raises(ValueError, match="cannot read training settings"):
            TrainConfig.from_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("task", ["snow", None, 3]),
        ("degradation_kind", ["snow", "", 3]),
        ("recipe", ["slow", None, []]),
        ("adversarial", ["gan", None]),
        ("optimiser", ["sgd", None]),
        ("muon_rate", [0, "x"]),
        ("spectral_norm", ["yes", 0]),
        ("compile", ["yes", 1, None]),
        ("discriminator_rate", [0, "x"]),
        ("discriminator_width", [0, 1.5]),
        ("groups", [0, 3, "x"]),
        ("minutes", [0, -1, "x", math.inf]),
        ("patience", [-1, 1.5, "x"]),
        ("rescale", [(1, 0.5), (0, 1), (1,), 2, "ab"]),
        ("freeze", ["head", 3, [3], [""]]),
        ("run", ["", None, 5]),
        ("device", [5, None, "", "gpu", "cuda:x", "meta"]),
        ("precision", ["q", None, 16]),
        ("data", ["", 3]),
        ("depth", ["", 3]),
        ("features", ["", 3]),
        ("start", ["", 3]),
        ("sources", [{"clean": "x"}, ["x"], [{}], [{"input": "x"}], [{"clean": "x", "input": "y", "background": "z"}]]),
        ("sources", [[{"clean": "x", "weight": 0}], [{"clean": "x", "match": "like"}], [{"folder": "x"}], "x"]),
        ("validation", ["x", {"folder": "x"}, {"clean": 3}]),
        ("preset", ["huge", "paper"]),
        ("network", [{"width": 0}, {"width": "32"}, {"branch_widths": 3}, "wide", 5]),
        ("degradation", [{"light": -1}, {"light": 0, "heavy": 0, "none": 0}, {"light": "much"}, "light"]),
        ("losses", [{"noise": -1}, {"noise": "x"}, {"noise": math.nan}, {"noise_map_scale": 0}, 3]),
        ("steps", [0, -1, 1.5, "many", True, None]),
        ("phases", [[], [[0.5, 32, 2]], [[1.0, 32, 2], [0.5, 32, 2]], [[1.0, 32]], [[1.0, 0, 2]], [[1.0, 32, 0]]]),
        ("phases", [[[-1, 32, 2], [1.0, 32, 2]], [[0, 32, 2], [1.0, 32, 2]], [[1.0, 32, 2], [1.0, 48, 2]]]),
        ("phases", [[["a", 32, 2]], [[1.0, 32.5, 2]], 5, [5], None]),
        ("learning_rate", [0, -1e-3, "fast", math.nan, math.inf]),
        ("final_rate", [-0.1, 2, "low"]),
        ("warmup", [-0.1, 1.5, "short"]),
        ("betas", [(0.9,), (0.9, 1.0), (0.9, "x"), 0.9]),
        ("weight_decay", [-1, "x"]),
        ("ema", [1, -0.1, "x"]),
        ("clip", [0, "x"]),
        ("seed", [-1, 1.5, "x", 2**64]),
        ("validation_pictures", [0, 1.5]),
        ("validation_crop", [0, "x"]),
        ("validate_every", [0, 2.5]),
        ("save_minutes", [-1, "x"]),
        ("half", ["yes", 1]),
        ("upright", ["yes", 1]),
        ("colour_jitter", [-0.1, 1.1, "half", math.nan]),
        ("shallow_focus", [-0.1, 1.1, "half", math.nan]),
        ("uneven_light", [-0.1, 1.1, "half", math.nan]),
        ("colour_grading", [-0.1, 1.1, "half", math.nan]),
        ("card", [3, "text", ["licence"], {"task": "haze"}, {"scores": {}}]),
        ("card", [{"when": date(2026, 1, 1)}, {"x": math.nan}]),
        ("card", [{"working_side": 0}, {"working_side": "400"}, {"working_side": True}, {"working_side": 400.0}]),
    ],
)
def test_wrong_values_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=r"wanted|unknown|cannot") as caught:
            TrainConfig(**{"data": "x", name: value})
        assert "\n" not in str(caught.value)
        names = (name, "network setting", "source", "match", "loss", "noise_map_scale")
        assert any(word in str(caught.value) for word in names)


RECIPES = sorted((Path(__file__).parents[2] / "weights").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[p.stem for p in RECIPES])
def test_the_shipped_models_settings_are_a_chain(path):
    """Each stage can start from the network of the one that it names, and its card tells all stages up to itself."""
    config = TrainConfig.from_file(path)
    assert Path(config.run).name == path.stem
    stages = [line.partition(".toml")[0] for line in config.card.get("stages", ())]
    assert stages in ([], [f"{config.task}-{i}" for i in range(1, len(stages) + 1)])
    assert not stages or stages[-1] == path.stem
    if config.start is None:
        assert path.stem == "rain-1"
        return
    before = re.fullmatch(r"runs/(?:([a-z]+-\d+)/(?:model|best)|([a-z]+-)mean-\d+-(\d+))\.safetensors", config.start)
    name = before[1] or before[2] + before[3]
    if before[2]:  # a mean, which the stage before tells how to make
        assert f"-o {config.start}" in path.with_name(f"{name}.toml").read_text(encoding="utf-8")
    assert can_grow(TrainConfig.from_file(path.with_name(f"{name}.toml")).network_config(), config.network_config())
