"""Good states are kept, and what cannot work is refused before it starts."""

import math

import pytest
import torch

from napari_dmgn import checkpoint
from napari_dmgn.losses import restoration_loss
from napari_dmgn.training import iter_train, state, train
from napari_dmgn.training import run as run_module


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_good(
    where, pictures, tmp_path, monkeypatch, settings
):
    calls = []

    def broken(*args, **options):
        loss, terms = restoration_loss(*args, **options)
        calls.append(1)
        if len(calls) == 4:
            # sqrt(0) is finite, its slope is not
            loss = loss * math.nan if where == "loss" else loss + (loss - loss).sqrt()
        return loss, terms

    monkeypatch.setattr(run_module, "restoration_loss", broken)
    config = settings(pictures, tmp_path)
    steps = []
    with pytest.raises(FloatingPointError, match=r"at step 4.*lower learning_rate"):
        steps.extend(event.step for event in iter_train(config))
    monkeypatch.undo()
    run = run_module.Run(config)
    state.load_state(run)
    assert run.step == 3
    for tensors in (run.network.state_dict(), run.average):
        assert all(t.isfinite().all() for t in tensors.values())
    assert next(iter_train(config, resume=True)).step == 4


def test_bad_data_is_refused_before_anything_is_written(pictures, tmp_path, settings):
    run = tmp_path / "run"
    cases = [
        ({"data": str(tmp_path / "none")}, "does not exist"),
        ({"validation_pictures": 5}, "leave none to train"),
        ({"phases": [[1.0, 65, 1]]}, r"no picture is left to train on; .*3 smaller than the crops of 65 px: .*72x64"),
        ({"validation_crop": 65}, "0 of 5 pictures have the 65 px of validation_crop; wanted 2 to validate on"),
        ({"start": str(tmp_path / "none.safetensors")}, "cannot read model file"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            iter_train(settings(pictures, run, **change))
    assert not run.exists()


def test_a_head_of_vgg_is_not_trained_from_made_up_features(pictures, tmp_path, settings):
    with pytest.raises(ValueError, match=r"needs VGG-19's weights; wanted start, a model file with them"):
        settings(pictures, tmp_path, preset="paper")


def test_warm_start_begins_with_the_given_weights(pictures, tmp_path, tiny_checkpoint, settings, bits):
    own = checkpoint.read_header(tiny_checkpoint).config.to_dict()
    still = {"learning_rate": 1e-12, "warmup": 0, "weight_decay": 0}
    config = settings(pictures, tmp_path, start=str(tiny_checkpoint), network=own, **still)
    given = bits(tiny_checkpoint)
    run = run_module.Run(config)
    for tensors in (run.network.state_dict(), run.average):
        assert {k: v.contiguous().numpy().tobytes() for k, v in tensors.items()} == given
    model = checkpoint.load(train(config))
    assert model.metadata.card["training"]["settings"]["start"] == tiny_checkpoint.name  # the name, not the folder
    trained = model.network.state_dict()
    wanted = checkpoint.load(tiny_checkpoint).network.state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(trained[name], value, atol=1e-9, rtol=1e-6)
    with pytest.raises(ValueError, match="another network than the settings"):
        iter_train(settings(pictures, tmp_path / "b", start=str(tiny_checkpoint), network={}))
