"""Fine-tuning: frozen parts stay, and the result is set beside the model it started from."""

import shutil
from dataclasses import replace

import pytest
import torch

from napari_dmgn import checkpoint
from napari_dmgn.model.config import ABLATIONS
from napari_dmgn.model.network import DMGN
from napari_dmgn.training import Comparison, iter_train, loop
from napari_dmgn.training import run as run_module


@pytest.fixture
def tuning(pictures, settings, tiny_checkpoint, tmp_path):
    def make(**changes):
        return settings(
            pictures, tmp_path / "run", **{"start": str(tiny_checkpoint), "preset": "start", "network": {}, **changes}
        )

    return make


def test_frozen_parts_stay_as_they_are_and_others_move(tuning, tiny_checkpoint):
    config = tuning(freeze=["head", "background_branch", "refiner.out"], steps=4)
    events = list(iter_train(config))
    before = checkpoint.load(tiny_checkpoint).network.state_dict()
    after = checkpoint.load(events[-1].model).network.state_dict()
    for name, value in after.items():
        frozen = name.startswith(("head.", "background_branch.", "refiner.out."))
        assert torch.equal(value, before[name]) == frozen, name


def test_frozen_parts_that_are_none_are_refused_with_the_names_there_are(tuning):
    for prefix in ("heads", "hea", "refiner.no"):
        with pytest.raises(ValueError, match=f"freeze names '{prefix}', .* background_branch, channel_attention, head"):
            run_module.Run(tuning(freeze=[prefix]))
    network = run_module.Run(tuning()).network
    with pytest.raises(ValueError, match="leaves nothing to train"):
        run_module.Run(tuning(freeze=[name for name, _ in network.named_children()]))


def test_the_network_of_the_start_model_is_taken_from_its_file(tuning, tiny_checkpoint):
    assert tuning().network_config() == checkpoint.read_header(tiny_checkpoint).config
    with pytest.raises(ValueError, match="wanted start, a model"):
        tuning(start=None)
    with pytest.raises(ValueError, match="cannot read model file"):
        tuning(start="none.safetensors")
    with pytest.raises(ValueError, match="no model 'rian'"):
        tuning(start="rian")


def test_a_model_without_gains_gets_them_where_the_settings_have_them(tuning, tiny_checkpoint):
    own = checkpoint.read_header(tiny_checkpoint).config
    wide = {"preset": "compact", "network": {**own.to_dict(), "background_gain": True}}
    *_, last = iter_train(tuning(**wide, steps=4, learning_rate=1e-2))
    trained = checkpoint.load(last.model)
    assert trained.config == replace(own, background_gain=True)
    assert trained.network.refiner.gain.weight.any()
    assert last.comparison is not None
    with pytest.raises(ValueError, match="has another network than the settings"):
        run_module.Run(tuning(preset="compact", network={**own.to_dict(), "width": 16}))


def test_networks_that_cannot_have_gains_are_started_from(tuning, tiny_checkpoint, tmp_path):
    own = replace(checkpoint.read_header(tiny_checkpoint).config, **ABLATIONS["R-RDMC"])
    path = tmp_path / "variant.safetensors"
    checkpoint.save(path, DMGN(own), task="rain", card={"name": "variant"})
    *_, last = iter_train(tuning(start=str(path), steps=2))
    assert checkpoint.read_header(last.model).config == own
    assert last.comparison is not None


def test_a_model_that_got_better_is_said_to_be(tuning):
    """The start has random last layers: nearly anything is better."""
    *_, last = iter_train(tuning(steps=8, learning_rate=1e-2))
    assert last.comparison.better
    assert last.comparison.after == pytest.approx(
        (last.validation["light output"] + last.validation["heavy output"]) / 2, abs=1e-3
    )
    assert "better than tiny on the validation pictures" in last.comparison.verdict
    card = checkpoint.read_header(last.model).card
    assert card["comparison"] == last.comparison.to_dict()


def test_a_model_that_did_not_is_said_not_to_be(tuning):
    *_, last = iter_train(tuning(steps=2, learning_rate=1e-12, weight_decay=0))
    assert last.comparison.before == pytest.approx(last.comparison.after, abs=2e-3)
    assert not last.comparison.better
    assert last.comparison.verdict.startswith("NOT better than tiny on the validation pictures: ")
    assert last.comparison.verdict.endswith("; keep using tiny")
    assert "NOT better" in checkpoint.read_header(last.model).card["comparison"]["verdict"]


def test_a_gain_that_nobody_sees_is_none():
    for gain, better in ((-1, False), (0, False), (0.04, False), (0.06, True)):
        assert Comparison(base="x", before=30, after=30 + gain).better is better


def test_a_best_model_that_gained_what_the_last_lost_is_named(tuning, monkeypatch):
    left = iter([31.0, 29.0, 30.0])  # two validations, and the base
    monkeypatch.setattr(loop, "validate", lambda *_: {"x output": next(left)})
    *_, last = iter_train(tuning(steps=2, validate_every=1))
    assert not last.comparison.better
    assert last.comparison.verdict == (
        "the last model is not better than tiny on the validation pictures: "
        "29.00 dB after fine-tuning, 30.00 dB before; best.safetensors is: 31.00 dB"
    )
    for best in (30.04, 29.0, None):
        assert Comparison(base="x", before=30, after=29, best=best).verdict.startswith("NOT better than x")
    assert Comparison(base="x", before=30, after=31, best=32).verdict.startswith("better than x")


@pytest.mark.parametrize("name", ["model", "best"])
def test_a_base_that_is_named_as_every_runs_model_is_told_by_its_folder(
    name, tuning, tiny_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    file = shutil.copy(tiny_checkpoint, tmp_path / "mine" / f"{name}.safetensors")
    *_, last = iter_train(tuning(steps=1, start=str(file)))
    assert last.comparison.base == "mine"
    monkeypatch.chdir(tmp_path / "mine")
    *_, last = iter_train(tuning(steps=1, start=f"{name}.safetensors"), overwrite=True)
    assert last.comparison.base == "mine"
