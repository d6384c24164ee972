"""Training resumes exactly, learns, keeps good states only, and refuses wrong settings."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import napari_dmgn
from napari_dmgn import checkpoint
from napari_dmgn.data import PicturePool, find_pictures, split_pictures
from napari_dmgn.losses import restoration_loss
from napari_dmgn.model.config import PRESETS
from napari_dmgn.training import TrainConfig, iter_train, loop, train, validation
from napari_dmgn.training import card as card_module
from napari_dmgn.training import run as run_module

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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("clean") / "pictures")


def settings(pictures: Path, run: Path, **changes) -> TrainConfig:
    values = {
        "data": str(pictures),
        "run": str(run),
        "network": NETWORK,
        "phases": [[0.5, 32, 2], [1.0, 48, 2]],
        "steps": STEPS,
        "validation_pictures": 2,
        "validation_crop": 32,
        "validate_every": 5,
        "device": "cpu",
        "seed": 4,
    }
    return TrainConfig(**{**values, **changes})


def bits(path: Path) -> dict[str, bytes]:
    """Every tensor of a safetensors file, byte for byte."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    """A whole run: its folder and its events."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    events = list(iter_train(settings(pictures, folder)))
    return folder, events


def assert_same_run(folder: Path, other: Path) -> None:
    for name in (run_module.STATE, loop.MODEL):
        first, second = bits(folder / name), bits(other / name)
        assert first.keys() == second.keys()
        assert [k for k in first if first[k] != second[k]] == []


# Resume ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(1,), (6,), (11,), (4, 9)])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(stops, pictures, uninterrupted, tmp_path):
    config = settings(pictures, tmp_path)
    losses = []
    for stop in stops:
        events = iter_train(config, resume=True)
        for event in events:
            losses.append(event.loss)
            if event.step == stop:
                events.close()
    losses += [event.loss for event in iter_train(config, resume=True)]
    assert losses == [event.loss for event in uninterrupted[1]]
    assert_same_run(tmp_path, uninterrupted[0])


def test_killed_trainer_resumes_to_the_same_weights(pictures, uninterrupted, tmp_path):
    config = settings(pictures, tmp_path / "run", save_minutes=0)
    # The child saves after every step and dawdles, so that the signal surely finds it at work.
    script = (
        "import json, sys, time\n"
        "from napari_dmgn.training import TrainConfig, iter_train\n"
        "for event in iter_train(TrainConfig(**json.loads(sys.argv[1]))):\n"
        "    print(event.step, flush=True)\n"
        "    time.sleep(0.15)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(config.to_dict())]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 4:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / loop.MODEL).exists()
    rest = list(iter_train(replace(config, save_minutes=3), resume=True))
    assert 1 < rest[0].step < STEPS  # it did go on, not start anew
    assert_same_run(tmp_path / "run", uninterrupted[0])


def test_resuming_without_a_state_starts_anew_and_after_the_end_does_nothing(pictures, uninterrupted, tmp_path):
    config = settings(pictures, tmp_path)
    assert train(config, resume=True) == tmp_path / loop.MODEL
    assert_same_run(tmp_path, uninterrupted[0])
    before = (tmp_path / loop.MODEL).stat().st_mtime_ns
    assert list(iter_train(config, resume=True)) == []
    assert train(config, resume=True) == tmp_path / loop.MODEL
    assert (tmp_path / loop.MODEL).stat().st_mtime_ns == before


def test_killed_between_model_and_last_state_still_ends_with_a_model(pictures, uninterrupted, tmp_path, monkeypatch):
    config = settings(pictures, tmp_path)
    events = iter_train(config)
    for event in events:
        if event.step == 8:
            events.close()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            list(iter_train(config, resume=True))
    train(config, resume=True)
    assert_same_run(tmp_path, uninterrupted[0])


def test_an_interrupt_within_a_step_saves_no_half_updated_state(pictures, uninterrupted, tmp_path, monkeypatch):
    config = settings(pictures, tmp_path)
    step = torch.optim.AdamW.step
    calls = []

    def interrupted(self, *args):
        calls.append(1)
        step(self, *args)
        if len(calls) == 6:  # the weights are new, the average is not
            raise KeyboardInterrupt

    events = iter_train(config)
    for event in events:
        if event.step == 3:
            events.close()
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(iter_train(config, resume=True))
    assert next(iter_train(config, resume=True)).step == 4  # back to what step 3 left
    train(config, resume=True)
    assert_same_run(tmp_path, uninterrupted[0])


def test_an_interrupt_between_two_steps_loses_nothing(pictures, tmp_path, monkeypatch):
    config = settings(pictures, tmp_path)
    pair = run_module.Run.pair

    def interrupted(self, *args):
        if self.step == 5:
            raise KeyboardInterrupt
        return pair(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "pair", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(iter_train(config))
    assert next(iter_train(config, resume=True)).step == 6


def test_an_earlier_run_is_neither_lost_nor_mixed_up(pictures, uninterrupted, tmp_path):
    config = settings(pictures, tmp_path, seed=9)
    next(events := iter_train(config))
    events.close()
    state = (tmp_path / run_module.STATE).read_bytes()
    with pytest.raises(ValueError, match="holds an earlier run; resume it, or allow to overwrite it"):
        iter_train(config)
    for change in ({"seed": 5}, {"steps": 24}, {"learning_rate": 2e-3}, {"losses": {"noise": 0}}, {"network": {}}):
        with pytest.raises(ValueError, match=f"other settings than before: \\['{next(iter(change))}'\\]"):
            iter_train(replace(config, **change), resume=True)
    assert (tmp_path / run_module.STATE).read_bytes() == state
    # Overwritten and killed before its first save: the earlier state must not come back.
    again = settings(pictures, tmp_path)
    iter_train(again, overwrite=True)
    train(again, resume=True)
    assert_same_run(tmp_path, uninterrupted[0])


def test_where_and_how_often_to_save_may_change_on_resume(pictures, uninterrupted, tmp_path):
    config = settings(pictures, tmp_path / "a")
    next(events := iter_train(config))
    events.close()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = replace(config, run=str(tmp_path / "b"), save_minutes=0, validate_every=100, name="other")
    train(moved, resume=True)
    assert_same_run(tmp_path / "b", uninterrupted[0])


def test_training_leaves_the_global_random_state_and_denormals_alone(pictures, tmp_path):
    before = torch.random.get_rng_state()
    events = iter_train(settings(pictures, tmp_path, validate_every=1))
    tiny = torch.tensor([1e-39])
    for event in events:
        assert (tiny * 0.5).item() > 0
        if event.step == 2:
            events.close()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (tiny * 0.5).item() > 0
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# What is learned ---------------------------------------------------------------------------------


def test_one_fixed_pair_is_overfitted(pictures, tmp_path):
    config = settings(
        pictures,
        tmp_path,
        steps=200,
        learning_rate=5e-3,
        degradation={"light": 1, "heavy": 0, "none": 0},
        network={**NETWORK, "trunk_stride": 2, "width": 16, "branch_widths": [16, 16]},
        precision="float32",
    )
    run = run_module.Run(config)
    pool = PicturePool(find_pictures(pictures), least=32)
    fixed = run.pair(pool, 32, 1)
    run.pair = lambda *_: fixed
    for _ in range(config.steps):
        run.advance(pool)
    output = run.network(fixed.input)
    # Measured: a 20th of the background's error is left and a 10th of the noise's, with another seed a 12th and a 13th.
    assert (output.background - fixed.background).abs().mean() < (fixed.input - fixed.background).abs().mean() / 4
    assert (output.noise - fixed.noise).abs().mean() < fixed.noise.mean() / 4


def test_average_follows_its_formula(pictures, tmp_path):
    config = settings(pictures, tmp_path, ema=0.3)
    run = run_module.Run(config)
    pool = PicturePool(find_pictures(pictures), least=48)
    wanted = {k: v.double().clone() for k, v in run.network.state_dict().items()}
    decays = []
    for step in range(1, 8):
        run.advance(pool)
        decay = min(0.3, (1 + step) / (10 + step))
        decays.append(decay)
        for name, value in run.network.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * value.double()
    assert decays[0] < 0.2
    assert decays[-1] == 0.3
    for name, value in run.averaged().state_dict().items():
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-7, rtol=1e-5)


def test_rate_rises_linearly_then_falls_along_a_cosine(pictures, tmp_path):
    config = settings(pictures, tmp_path, steps=200, warmup=0.1, learning_rate=2e-3, final_rate=0.05)
    run = run_module.Run(config)
    rates = [run.schedule(step)[0] for step in range(200)]
    np.testing.assert_allclose(rates[:20], 2e-3 * np.arange(1, 21) / 20)
    assert max(rates) == pytest.approx(2e-3)
    falling = rates[20:]
    assert all(a > b for a, b in pairwise(falling))
    assert rates[110] == pytest.approx(2e-3 * (0.05 + 0.95 * 0.5))  # half way down the cosine
    assert 2e-3 * 0.05 < rates[-1] < 2e-3 * 0.0505
    flat = run_module.Run(settings(pictures, tmp_path, steps=10, warmup=0))
    assert flat.schedule(0)[0] == pytest.approx(1e-3)


def test_phases_switch_where_they_say(pictures, tmp_path):
    config = settings(pictures, tmp_path, steps=8, phases=[[0.25, 16, 4], [0.5, 24, 3], [1.0, 48, 1]])
    sizes = [run_module.Run(config).schedule(step)[1:] for step in range(8)]
    assert sizes == [(16, 4)] * 2 + [(24, 3)] * 2 + [(48, 1)] * 4


def test_weight_decay_spares_what_has_one_axis(pictures, tmp_path):
    run = run_module.Run(settings(pictures, tmp_path, weight_decay=0.02))
    decay = {id(p): group["weight_decay"] for group in run.optimiser.param_groups for p in group["params"]}
    names = dict(run.network.named_parameters())
    assert len(decay) == len(names)
    for name, parameter in names.items():
        assert decay[id(parameter)] == (0 if name.endswith("bias") else 0.02), name


def test_steps_draw_different_pairs_and_each_its_own_again(pictures, tmp_path):
    run = run_module.Run(settings(pictures, tmp_path))
    pool = PicturePool(find_pictures(pictures), least=32)
    pairs = []
    for step in (0, 1, 0):
        run.step = step
        pairs.append(run.pair(pool, 32, 2).input)
    assert torch.equal(pairs[0], pairs[2])
    assert not torch.equal(pairs[0], pairs[1])


# Guards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state_good(where, pictures, tmp_path, monkeypatch):
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
    run.load_state()
    assert run.step == 3
    for tensors in (run.network.state_dict(), run.average):
        assert all(t.isfinite().all() for t in tensors.values())
    assert next(iter_train(config, resume=True)).step == 4


def test_bad_data_is_refused_before_anything_is_written(pictures, tmp_path):
    run = tmp_path / "run"
    cases = [
        ({"data": str(tmp_path / "none")}, "does not exist"),
        ({"validation_pictures": 5}, "leave none to train"),
        ({"phases": [[1.0, 65, 1]]}, "is 72x64; the crops need at least 65x65"),
        ({"validation_crop": 65}, "is 72x64; the crops need at least 65x65"),
        ({"start": str(tmp_path / "none.safetensors")}, "cannot read model file"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            iter_train(settings(pictures, run, **change))
    assert not run.exists()


def test_a_head_of_vgg_is_not_trained_from_made_up_features(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"needs VGG-19's weights; wanted start, a model file with them"):
        settings(pictures, tmp_path, preset="paper")


def test_warm_start_begins_with_the_given_weights(pictures, tmp_path, tiny_checkpoint):
    config = settings(pictures, tmp_path, start=str(tiny_checkpoint), learning_rate=1e-12, warmup=0, weight_decay=0)
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
        iter_train(settings(pictures, tmp_path / "b", start=str(tiny_checkpoint), network={**NETWORK, "width": 12}))


# Events, log and card ----------------------------------------------------------------------------


def test_events_count_and_validate_as_asked(uninterrupted):
    folder, events = uninterrupted
    assert [event.step for event in events] == list(range(1, STEPS + 1))
    assert [event.step for event in events if event.validation] == [5, 10, 12]
    assert [event.model for event in events] == [None] * (STEPS - 1) + [folder / loop.MODEL]
    assert all(a.seconds < b.seconds for a, b in pairwise(events))
    lines = [json.loads(line) for line in (folder / loop.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert [line["validation"] for line in lines] == [event.validation for event in events if event.validation]
    weights = settings(Path("x"), Path("y")).loss_weights()
    for event in events:
        total = sum(getattr(weights, name) * term for name, term in event.terms.items())
        assert event.loss == pytest.approx(total, rel=1e-5)


def test_validation_scores_are_those_of_the_named_protocol(pictures, uninterrupted):
    """The oracle: scikit-image's PSNR of the luma of 8-bit images, on the model that was written."""
    from skimage.metrics import peak_signal_noise_ratio

    from napari_dmgn.metrics import luma
    from napari_dmgn.synthesis.rain import LightRain

    folder, events = uninterrupted
    scores = events[-1].validation
    assert set(scores) == {"light input", "light output", "heavy input", "heavy output"}
    _, held_out = split_pictures(find_pictures(pictures), 2)
    clean = PicturePool(held_out, least=32).centres(32)
    pair = LightRain()(clean, torch.Generator().manual_seed(validation.SEED))

    def score(images):
        byte = [(i.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for i in (*images, *clean)]
        pairs = zip(byte[:2], byte[2:], strict=True)
        return np.mean([peak_signal_noise_ratio(luma(b), luma(a), data_range=255) for a, b in pairs])

    assert scores["light input"] == pytest.approx(score(pair.input), abs=6e-4)
    model = checkpoint.load(folder / loop.MODEL)
    with torch.inference_mode():
        output = model(pair.input).background
    # bf16 where the machine has it: a few hundredths of a decibel
    assert scores["light output"] == pytest.approx(score(output), abs=0.1)


def test_card_takes_further_entries_and_the_file_half_the_bytes(pictures, tmp_path, uninterrupted):
    extra = {"licence": "CC0-1.0", "not_trained_for": ["snow"]}
    path = train(settings(pictures, tmp_path, steps=2, half=True, card=extra))
    header = checkpoint.read_header(path)
    assert {k: header.card[k] for k in extra} == extra
    assert {dtype for dtype, _ in header.tensors.values()} == {"F16"}
    whole = checkpoint.read_header(uninterrupted[0] / loop.MODEL)
    assert {dtype for dtype, _ in whole.tensors.values()} == {"F32"}


def test_resume_refuses_other_pictures(pictures, tmp_path):
    config = settings(pictures, tmp_path / "run")
    events = iter_train(config)
    next(events)
    events.close()
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    held_out = split_pictures(find_pictures(other), 2)[1]
    changed = next(p for p in find_pictures(other) if p not in held_out)
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    with pytest.raises(ValueError, match="other training pictures"):
        iter_train(replace(config, data=str(other)), resume=True)
    assert next(iter_train(replace(config, card={"licence": "CC0-1.0"}), resume=True)).step == 2


def test_a_state_from_before_digests_is_resumed(pictures, tmp_path):
    config = settings(pictures, tmp_path)
    run = run_module.Run(config)
    run.advance(PicturePool(find_pictures(pictures), least=48))
    run.save_state()
    path = tmp_path / run_module.STATE
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    del state["data"]
    checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(state)})
    assert next(iter_train(config, resume=True)).step == 2


def test_hardware_is_named_where_the_system_tells(monkeypatch):
    def cpuinfo(text):
        def read(self, **options):
            if text is None:
                raise FileNotFoundError(self)
            return text

        return read

    for text, name in (
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("BogoMIPS\t: 50\n", "CPU"),
        (None, "CPU"),
    ):
        monkeypatch.setattr(Path, "read_text", cpuinfo(text))
        assert card_module._hardware(torch.device("cpu")) == f"{name}, {os.cpu_count()} cores"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert card_module._hardware(torch.device("cuda:1")) == "GPU 1"


def test_card_tells_where_the_model_comes_from(pictures, uninterrupted):
    folder, events = uninterrupted
    header = checkpoint.read_header(folder / loop.MODEL)
    card = header.card
    assert header.task == card["task"] == "rain"
    assert (card["name"], card["version"], card["input_range"]) == ("rain", napari_dmgn.__version__, [0, 1])
    assert (card["training"]["steps"], card["training"]["validation"]) == (STEPS, 2)
    assert card["training"]["torch"] == torch.__version__
    assert card["training"]["hardware"].endswith(("bf16", "float32"))
    assert "rate 0.001" in card["training"]["recipe"]["optimiser"]
    assert "background_fft 0.1" in card["training"]["recipe"]["losses"]
    assert card["training"]["recipe"]["ema"] == "0.999"
    training_part, _ = split_pictures(find_pictures(pictures), 2)
    assert card["training"]["pictures"] == 3
    assert card["training"]["data_sha256"] == PicturePool(training_part, least=1).digest
    kept = card["training"]["settings"]
    # The settings make the same run again; where its files lay is nobody's business.
    again = TrainConfig(**kept, data=str(pictures), run=str(folder))
    assert again == settings(pictures, folder)
    assert str(pictures) not in json.dumps(card)
    assert str(folder) not in json.dumps(card)
    assert {k: card["scores"][k] for k in events[-1].validation} == events[-1].validation
    assert "rain-y" in card["scores"]["protocol"]
    assert time.strptime(card["created"][:19], "%Y-%m-%dT%H:%M:%S")


def test_model_file_holds_the_average_not_the_last_weights(uninterrupted):
    folder, _ = uninterrupted
    state, model = bits(folder / run_module.STATE), bits(folder / loop.MODEL)
    assert {k: state[f"average/{k}"] for k in model} == model
    assert any(state[f"network/{k}"] != model[k] for k in model)


# Settings ----------------------------------------------------------------------------------------


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
        ("task", ["haze", "snow", None]),
        ("preset", ["huge", "paper"]),
        ("network", [{"width": 0}, {"width": "32"}, {"branch_widths": 3}, "wide", 5]),
        ("degradation", [{"light": -1}, {"light": 0, "heavy": 0, "none": 0}, {"light": "much"}, "light"]),
        ("losses", [{"noise": -1}, {"noise": "x"}, {"noise": math.nan}, {"noise_map_scale": 0}, 3]),
        ("steps", [0, -1, 1.5, "many", True, None]),
        ("phases", [[], [[0.5, 32, 2]], [[1.0, 32, 2], [0.5, 32, 2]], [[1.0, 32]], [[1.0, 0, 2]], [[1.0, 32, 0]]]),
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
        ("card", [3, "text", ["licence"], {"task": "haze"}, {"scores": {}}]),
        ("card", [{"when": date(2026, 1, 1)}, {"x": math.nan}]),
    ],
)
def test_wrong_values_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=r"wanted|unknown|cannot") as caught:
            TrainConfig(**{"data": "x", name: value})
        assert "\n" not in str(caught.value)
        names = (name, "network setting", "mixture", "loss", "noise_map_scale")
        assert any(word in str(caught.value) for word in names)
