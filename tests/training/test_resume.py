"""A run that was stopped, killed or interrupted goes on exactly where it was."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from napari_dmgn import checkpoint
from napari_dmgn.data import collect, find_pictures
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.network import DMGN
from napari_dmgn.training import TrainConfig, iter_train, loop, state, train
from napari_dmgn.training import run as run_module

STEPS = 12


@pytest.mark.parametrize("stops", [(1,), (6,), (11,), (4, 9)])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    stops, pictures, uninterrupted, tmp_path, settings, same_run
):
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
    same_run(tmp_path, uninterrupted[0])


def test_varied_pictures_are_the_same_after_resuming(pictures, tmp_path, settings):
    def make(name, **changes):
        values = {"task": "reflection", "degradation": {}, "steps": 5, "draw_ahead": 3, **changes}
        return settings(pictures, tmp_path / name, **values)

    varied = {"colour_jitter": 0.5, "shallow_focus": 0.5, "uneven_light": 0.5, "colour_grading": 0.5}
    whole = [event.loss for event in iter_train(make("whole", **varied))]
    assert whole != [event.loss for event in iter_train(make("plain"))]
    losses = []
    for event in (events := iter_train(make("stopped", **varied))):
        losses.append(event.loss)
        if event.step == 2:
            events.close()
    assert losses + [event.loss for event in iter_train(make("stopped", **varied), resume=True)] == whole


def test_killed_trainer_resumes_to_the_same_weights(pictures, uninterrupted, tmp_path, settings, same_run):
    config = settings(pictures, tmp_path / "run", save_minutes=0)
    # The child saves after every step and dawdles, so that the signal surely finds it at work.
    script = (
        "import json, sys, time, torch\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"  # sums in another number of parts round otherwise
        "from napari_dmgn.training import TrainConfig, iter_train\n"
        "for event in iter_train(TrainConfig(**json.loads(sys.argv[1]))):\n"
        "    print(event.step, flush=True)\n"
        "    time.sleep(0.15)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(config.to_dict()), str(torch.get_num_threads())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 4:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / loop.MODEL).exists()
    rest = list(iter_train(replace(config, save_minutes=3), resume=True))
    assert 1 < rest[0].step < STEPS  # it did go on, not start anew
    same_run(tmp_path / "run", uninterrupted[0])


def test_resuming_without_a_state_starts_anew_and_after_the_end_does_nothing(
    pictures, uninterrupted, tmp_path, settings, same_run
):
    config = settings(pictures, tmp_path)
    assert train(config, resume=True) == tmp_path / loop.MODEL
    same_run(tmp_path, uninterrupted[0])
    before = (tmp_path / loop.MODEL).stat().st_mtime_ns
    assert list(iter_train(config, resume=True)) == []
    assert train(config, resume=True) == tmp_path / loop.MODEL
    assert (tmp_path / loop.MODEL).stat().st_mtime_ns == before


def test_killed_between_model_and_last_state_still_ends_with_a_model(
    pictures, uninterrupted, tmp_path, monkeypatch, settings, same_run
):
    config = settings(pictures, tmp_path)
    events = iter_train(config)
    for event in events:
        if event.step == 8:
            events.close()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            list(iter_train(config, resume=True))
    train(config, resume=True)
    same_run(tmp_path, uninterrupted[0])


def test_an_interrupt_within_a_step_saves_no_half_updated_state(
    pictures, uninterrupted, tmp_path, monkeypatch, settings, same_run
):
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
    same_run(tmp_path, uninterrupted[0])


def test_an_interrupt_between_two_steps_loses_nothing(pictures, tmp_path, monkeypatch, settings):
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


def test_an_earlier_run_is_neither_lost_nor_mixed_up(pictures, uninterrupted, tmp_path, settings, same_run):
    config = settings(pictures, tmp_path, seed=9)
    next(events := iter_train(config))
    events.close()
    kept = (tmp_path / state.STATE).read_bytes()
    with pytest.raises(ValueError, match="holds an earlier run; resume it, or allow to overwrite it"):
        iter_train(config)
    for change in ({"seed": 5}, {"steps": 24}, {"learning_rate": 2e-3}, {"losses": {"noise": 0}}):
        ((name, seen),) = change.items()
        told = f"other settings than before: {name} is {seen!r}, wanted {config.to_dict()[name]!r}"
        with pytest.raises(ValueError, match=re.escape(told)):
            iter_train(replace(config, **change), resume=True)
    with pytest.raises(ValueError, match=r"network is \{'width': 16\}, wanted \{'width': 8\}"):
        iter_train(replace(config, network={**config.network, "width": 16}), resume=True)
    assert (tmp_path / state.STATE).read_bytes() == kept
    # Overwritten and killed before its first save: the earlier state must not come back.
    again = settings(pictures, tmp_path)
    iter_train(again, overwrite=True)
    train(again, resume=True)
    same_run(tmp_path, uninterrupted[0])


def test_where_and_how_often_to_save_may_change_on_resume(pictures, uninterrupted, tmp_path, settings, same_run):
    config = settings(pictures, tmp_path / "a")
    next(events := iter_train(config))
    events.close()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = replace(config, run=str(tmp_path / "b"), save_minutes=0, validate_every=100, name="other")
    train(moved, resume=True)
    same_run(tmp_path / "b", uninterrupted[0])


def test_another_number_of_threads_is_told_on_resume(pictures, tmp_path, settings, monkeypatch, caplog):
    config = settings(pictures, tmp_path)
    threads = torch.get_num_threads()
    for event in (events := iter_train(config)):
        if event.step == 2:
            events.close()
    iter_train(config, resume=True)
    assert "threads" not in caplog.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 3)
    iter_train(config, resume=True)
    told = f"resumed with {threads + 3} threads, before with {threads}: the same run to rounding, not bit for bit"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_training_leaves_the_global_random_state_and_denormals_alone(pictures, tmp_path, settings):
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


def test_resume_refuses_other_pictures(pictures, tmp_path, settings):
    config = settings(pictures, tmp_path / "run")
    events = iter_train(config)
    next(events)
    events.close()
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    held_out = collect(config.source_specs(), crop=48, validation=2, validation_crop=32).held.clean.pictures
    changed = next(p for p in find_pictures(other) if p.name not in [held.name for held in held_out])
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(changed)
    with pytest.raises(ValueError, match="other training pictures"):
        iter_train(replace(config, data=str(other)), resume=True)
    assert next(iter_train(replace(config, card={"licence": "CC0-1.0"}), resume=True)).step == 2


def test_a_state_from_before_digests_is_resumed(pictures, tmp_path, settings, batches):
    config = settings(pictures, tmp_path)
    run = run_module.Run(config)
    run.advance(batches(pictures, config))
    state.save_state(run)
    path = tmp_path / state.STATE
    with safe_open(path, framework="pt") as file:
        saved = json.loads(file.metadata()["state"])
    for name in ("data", "network", "steps", "groups", "best", "loss", "stale", "stopped", "threads"):
        del saved[name]
    for name in ("groups", "patience", "recipe", "sources"):
        del saved["config"][name]
    checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(saved)})
    assert next(iter_train(config, resume=True)).step == 2


def test_a_state_from_before_gains_is_resumed_without(pictures, tmp_path, settings, batches):
    """The preset has come to have gains; the run goes on with the network that it began with."""
    old = settings(pictures, tmp_path)
    run = run_module.Run(replace(old, network={**old.network, "background_gain": False}))
    run.advance(batches(pictures, old))
    state.save_state(run)
    path = tmp_path / state.STATE
    with safe_open(path, framework="pt") as file:
        saved = json.loads(file.metadata()["state"])
    del saved["data"], saved["network"], saved["config"]["network"]["background_gain"]
    checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(saved)})
    config = TrainConfig(**state.read_config(tmp_path))
    assert not config.network_config().background_gain
    assert next(iter_train(config, resume=True)).step == 2
    with pytest.raises(ValueError, match=r"cannot resume .*: other settings than before: network is"):
        iter_train(old, resume=True)


@pytest.mark.parametrize("told", [True, False])
def test_a_run_keeps_its_network_when_its_preset_gets_more_cells(told, pictures, tmp_path, settings, monkeypatch):
    """Of a state that says its network, and of an earlier one that does not."""
    network = dict(settings(pictures, tmp_path).network)
    few = {name: network.pop(name) for name in ("bottleneck_cells", "refine_dilations")}
    config = settings(pictures, tmp_path, network=network)
    preset = PRESETS["compact"]
    monkeypatch.setitem(PRESETS, "compact", replace(preset, **few))
    next(events := iter_train(config))
    events.close()
    if not told:
        path = tmp_path / state.STATE
        with safe_open(path, framework="pt") as file:
            saved = json.loads(file.metadata()["state"])
        del saved["network"]
        checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(saved)})
    assert TrainConfig(**state.read_config(tmp_path)).network == network
    began = config.network_config()
    monkeypatch.setitem(PRESETS, "compact", replace(preset, bottleneck_cells=2, refine_dilations=(1, 2, 1)))
    resumed = TrainConfig(**state.read_config(tmp_path))
    assert resumed.network_config() == began
    with pytest.raises(ValueError, match=r"network is \{'bottleneck_cells': 2, .*wanted \{'bottleneck_cells': 1, "):
        iter_train(config, resume=True)
    assert next(iter_train(resumed, resume=True)).step == 2


@pytest.mark.parametrize("preset", ["start", "compact"])
def test_a_run_keeps_its_network_when_the_model_it_started_from_gets_more_cells(preset, pictures, tmp_path, settings):
    start = tmp_path / "start.safetensors"
    own = settings(pictures, tmp_path).network_config()
    checkpoint.save(start, DMGN(own), task="rain", card={"name": "start"})
    network = {} if preset == "start" else own.to_dict()
    config = settings(pictures, tmp_path / "run", start=str(start), preset=preset, network=network)
    next(events := iter_train(config))
    events.close()
    deeper = DMGN(replace(own, bottleneck_cells=2))
    checkpoint.save(start, deeper, task="rain", card={"name": "start"})
    resumed = TrainConfig.from_dict(state.read_config(tmp_path / "run"))
    assert resumed.network_config() == own
    *_, last = iter_train(resumed, resume=True)
    assert checkpoint.read_header(last.model).config == own
    assert last.comparison is not None  # with the model as it is now


@pytest.mark.parametrize("preset", ["start", "compact"])
def test_a_run_ends_with_its_model_although_the_one_it_started_from_is_gone(
    preset, pictures, tmp_path, settings, caplog
):
    start = tmp_path / "start.safetensors"
    own = settings(pictures, tmp_path).network_config()
    checkpoint.save(start, DMGN(own), task="rain", card={"name": "start"})
    network = {} if preset == "start" else own.to_dict()
    config = settings(pictures, tmp_path / "run", start=str(start), preset=preset, network=network, steps=3)
    next(events := iter_train(config))
    events.close()
    start.unlink()
    resumed = TrainConfig.from_dict(state.read_config(tmp_path / "run"))
    *_, last = iter_train(resumed, resume=True)
    assert checkpoint.read_header(last.model).config == own
    assert last.comparison is None
    assert "not compared with the model that the run started from: cannot read model file" in caplog.text


def test_an_earlier_state_of_a_run_from_a_model_that_got_more_cells_is_resumed(pictures, tmp_path, settings):
    start = tmp_path / "start.safetensors"
    own = settings(pictures, tmp_path).network_config()
    checkpoint.save(start, DMGN(own), task="rain", card={"name": "start"})
    next(events := iter_train(settings(pictures, tmp_path / "run", start=str(start), preset="start", network={})))
    events.close()
    path = tmp_path / "run" / state.STATE
    with safe_open(path, framework="pt") as file:
        saved = json.loads(file.metadata()["state"])
    del saved["network"]
    checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(saved)})
    deeper = replace(own, bottleneck_cells=2, refine_dilations=(*own.refine_dilations, 1))
    checkpoint.save(start, DMGN(deeper), task="rain", card={"name": "start"})
    resumed = TrainConfig.from_dict(state.read_config(tmp_path / "run"))
    assert resumed.network_config() == own
    assert next(iter_train(resumed, resume=True)).step == 2


def test_settings_of_networks_that_came_after_a_state_are_as_they_were_before(
    pictures, tmp_path, settings, monkeypatch
):
    config = settings(pictures, tmp_path)
    next(events := iter_train(config))
    events.close()
    path = tmp_path / state.STATE
    with safe_open(path, framework="pt") as file:
        saved = json.loads(file.metadata()["state"])
    assert saved["network"].pop("mask_decay") == 0.5
    checkpoint.write_tensors(path, load_file(path), {"state": json.dumps(saved)})
    monkeypatch.setitem(PRESETS, "compact", replace(PRESETS["compact"], mask_decay=0.9))
    resumed = TrainConfig.from_dict(state.read_config(tmp_path))
    assert resumed.network_config().mask_decay == 0.5
    with pytest.raises(ValueError, match=r"network is \{'mask_decay': 0.9\}, wanted \{'mask_decay': 0.5\}"):
        iter_train(config, resume=True)
