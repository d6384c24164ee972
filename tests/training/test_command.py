"""`napari-dmgn train`: what it makes of its options, of a model to start from, and of a run to resume."""

import json
from dataclasses import replace

import pytest

from napari_dmgn import checkpoint
from napari_dmgn.cli import build_parser, main
from napari_dmgn.cli import train as command
from napari_dmgn.model.network import DMGN
from napari_dmgn.plugin import finetune_process
from napari_dmgn.training import TrainConfig, loop, state
from napari_dmgn.training.finetuning import FINE_TUNING


def read(*words):
    """Return the settings that the command line stands for."""
    return command._config(build_parser().parse_args(["train", *map(str, words)]))


@pytest.fixture
def quick(tmp_path):
    """Write settings of a small run: quick(name, further lines)."""

    def write(name, text=""):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            'preset = "start"\nphases = [[1.0, 32, 1]]\nvalidation_pictures = 1\nvalidation_crop = 32\n'
            f'device = "cpu"\nsteps = 3\n{text}'
        )
        return path

    return write


def test_a_model_to_start_from_is_not_trained_as_random_weights_are(tiny_checkpoint, quick, tmp_path):
    start, plain = ["--start", tiny_checkpoint, "--data", "x"], TrainConfig()

    def told(*words):
        config = read(*words)
        return config.learning_rate, config.charbonnier

    gentle, narrow = FINE_TUNING["learning_rate"], FINE_TUNING["charbonnier"]
    assert (gentle, narrow) < (plain.learning_rate, plain.charbonnier)
    assert told("--data", "x") == (plain.learning_rate, plain.charbonnier)
    assert told(*start) == told(quick("plain"), *start) == (gentle, narrow)
    untrained = tmp_path / "new.safetensors"
    assert main(["models", "new", "--preset", "compact", "-o", str(untrained)]) == 0
    new = ("--start", untrained, "--data", "x")
    assert told(*new) == (plain.learning_rate, plain.charbonnier)
    assert told(*start, "--rate", "2e-3") == (2e-3, narrow)
    assert told(quick("rate", "learning_rate = 1e-3\n"), *start) == (1e-3, narrow)
    assert told(quick("wide", "charbonnier = [0.2, 0.01]\n"), *start) == (gentle, (0.2, 0.01))
    assert told(quick("within", f'start = "{tiny_checkpoint}"\n'), "--data", "x") == (gentle, narrow)


def test_small_pictures_want_small_crops_which_options_name(pictures, tmp_path, capsys):
    words = ["train", "--data", str(pictures), "--validation", "1", "--check"]
    assert main(words) == 1
    assert "or a smaller validation_crop" in capsys.readouterr().out
    assert main([*words, "--crop", "48", "--validation-crop", "64"]) == 0
    assert "training 4 pictures" in capsys.readouterr().out
    config = read("--data", pictures, "--crop", "64", "--validation-crop", "32")
    assert (config.phases, config.validation_crop) == (((1.0, 64, 64),), 32)


def test_a_run_is_resumed_by_its_folder_alone(pictures, quick, tiny_checkpoint, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", quick("a", "seed = 3\n"), "--data", pictures, "--start", tiny_checkpoint]
    assert main([*map(str, words), "-o", str(run), "--stop-after", "1e-9"]) == 0
    run = run.rename(tmp_path / "moved")
    assert main(["train", "-o", str(run), "--resume", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [event["step"] for event in events] == [2, 3]
    assert (run / loop.MODEL).exists()
    assert main(["train", "-o", str(run), "--resume", "--check"]) == 0
    assert "training 4 pictures" in capsys.readouterr().out
    assert main(["train", "-o", str(run), "--resume", "--steps", "9"]) == 1
    assert "other settings than before: steps is 9, wanted 3" in capsys.readouterr().err
    assert main(["train", "-o", str(tmp_path / "none"), "--resume"]) == 2
    assert f"{tmp_path / 'none'} holds no run to resume" in capsys.readouterr().err
    (run / state.STATE).write_bytes(b"half")
    assert main(["train", "-o", str(run), "--resume"]) == 1
    assert "state.safetensors is damaged" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_keeps_its_rate(pictures, quick, tiny_checkpoint, tmp_path):
    """It was started without a rate when the default was that of random weights."""
    values = {"data": str(pictures), "start": str(tiny_checkpoint), "run": str(tmp_path / "run")}
    before = TrainConfig.from_file(quick("a"), **values)
    next(events := loop.iter_train(before))
    events.close()
    words = [quick("a"), "--data", pictures, "--start", tiny_checkpoint, "-o", tmp_path / "run"]
    assert read(*words, "--resume") == before
    assert read(*words).learning_rate == FINE_TUNING["learning_rate"]
    assert [event.step for event in loop.iter_train(read(*words, "--resume"), resume=True)] == [2, 3]


@pytest.mark.parametrize("stated", ["", "mask_alpha = 0.4", "[]"])
def test_a_resumed_run_keeps_what_its_settings_leave_to_a_model_that_got_more_cells(
    stated, pictures, quick, tiny_network, tmp_path
):
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    checkpoint.save(start, tiny_network, task="rain", card={"name": "start"})
    settings = quick("a", "" if stated == "[]" else f"[network]\n{stated}\n")
    words = [settings, "--data", pictures, "--start", start, "-o", run]
    config = read(*words)
    next(events := loop.iter_train(config))
    events.close()
    deeper = replace(tiny_network.config, bottleneck_cells=2)
    checkpoint.save(start, DMGN(deeper), task="rain", card={"name": "start"})
    if stated == "[]":
        settings = quick("a", "network = []\n")
        with pytest.raises(ValueError, match="network settings are"):
            read(*words, "--resume")
        return
    again = read(*words, "--resume")
    assert again.network_config() == tiny_network.config
    assert next(loop.iter_train(again, resume=True)).step == 2
    # In napari's own run of the same.
    finetune_process._write_settings(replace(config, network={}), run)
    assert finetune_process._settings(None, run).network_config() == tiny_network.config
