"""Events, log and card tell what happened."""

import json
import math
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_dmgn
from napari_dmgn import checkpoint
from napari_dmgn.data import collect
from napari_dmgn.training import TrainConfig, log, loop, state, train, validation
from napari_dmgn.training import card as card_module

STEPS = 12


def gathered(config):
    """What the run itself trained and validated on."""
    return collect(
        config.source_specs(),
        crop=config.largest_crop,
        validation=config.validation_pictures,
        validation_crop=config.validation_crop,
    )


def test_events_count_and_validate_as_asked(uninterrupted, settings):
    folder, events = uninterrupted
    assert [event.step for event in events] == list(range(1, STEPS + 1))
    assert [event.step for event in events if event.validation] == [5, 10, 12]
    assert [event.model for event in events] == [None] * (STEPS - 1) + [folder / loop.MODEL]
    assert all(a.seconds < b.seconds for a, b in pairwise(events))
    lines = [json.loads(line) for line in (folder / log.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert [line["validation"] for line in lines] == [event.validation for event in events if event.validation]
    weights = settings(Path("x"), Path("y")).loss_weights()
    for event in events:
        total = sum(getattr(weights, name) * term for name, term in event.terms.items())
        assert event.loss == pytest.approx(total, rel=1e-5)


def test_validation_scores_are_those_of_the_named_protocol(pictures, uninterrupted, settings):
    """The oracle: scikit-image's PSNR of the luma of 8-bit images, on the model that was written."""
    from skimage.metrics import peak_signal_noise_ratio

    from napari_dmgn.metrics import luma
    from napari_dmgn.synthesis.rain import LightRain

    folder, events = uninterrupted
    scores = events[-1].validation
    assert set(scores) == {"light input", "light output", "heavy input", "heavy output"}
    clean = gathered(settings(pictures, folder)).held.clean.centres(32)[:, 0]
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


def test_card_takes_further_entries_and_the_file_half_the_bytes(pictures, tmp_path, uninterrupted, settings):
    extra = {"licence": "CC0-1.0", "not_trained_for": ["snow"]}
    path = train(settings(pictures, tmp_path, steps=2, half=True, card=extra))
    header = checkpoint.read_header(path)
    assert {k: header.card[k] for k in extra} == extra
    assert all((dtype == "F16") == (math.prod(shape) > 256) for dtype, shape in header.tensors.values())
    whole = checkpoint.read_header(uninterrupted[0] / loop.MODEL)
    assert {dtype for dtype, _ in whole.tensors.values()} == {"F32"}


def test_commit_is_that_of_our_own_working_copy(tmp_path):
    file = tmp_path / "src" / "napari_dmgn" / "training" / "card.py"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    assert card_module.code_commit(file) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    told = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert card_module.code_commit(file) == told.stdout.strip() != ""
    (tmp_path / "untracked").write_text("a run's folder")
    assert card_module.code_commit(file) == told.stdout.strip()
    file.write_text("two")
    assert card_module.code_commit(file) == told.stdout.strip() + "+"
    installed = tmp_path / "lib" / "site-packages" / "napari_dmgn" / "training" / "card.py"
    assert card_module.code_commit(installed) is None  # beside somebody's repository


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
        assert card_module.hardware(torch.device("cpu")) == f"{name}, {os.cpu_count()} cores"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert card_module.hardware(torch.device("cuda:1")) == "GPU 1"


def test_card_tells_where_the_model_comes_from(pictures, uninterrupted, settings):
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
    assert card["training"]["pictures"] == 3
    assert card["training"]["data_sha256"] == gathered(settings(pictures, folder)).digest
    kept = card["training"]["settings"]
    # The settings make the same run again; where its files lay is nobody's business.
    again = TrainConfig(**kept, data=str(pictures), run=str(folder))
    assert again == settings(pictures, folder)
    assert str(pictures) not in json.dumps(card)
    assert str(folder) not in json.dumps(card)
    assert {k: card["scores"][k] for k in events[-1].validation} == events[-1].validation
    assert "rain-y" in card["scores"]["protocol"]
    assert time.strptime(card["created"][:19], "%Y-%m-%dT%H:%M:%S")


def test_model_file_holds_the_average_not_the_last_weights(uninterrupted, bits):
    folder, _ = uninterrupted
    saved, model = bits(folder / state.STATE), bits(folder / loop.MODEL)
    assert {k: saved[f"average/{k}"] for k in model} == model
    assert any(saved[f"network/{k}"] != model[k] for k in model)
