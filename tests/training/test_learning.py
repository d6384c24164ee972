"""What a step does: schedule, average, decay, pairs; and that it learns."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_dmgn.training import iter_train, train
from napari_dmgn.training import run as run_module
from napari_dmgn.training.schedule import Schedule


def test_one_fixed_pair_is_overfitted(pictures, tmp_path, settings, batches):
    config = settings(
        pictures,
        tmp_path,
        steps=200,
        learning_rate=5e-3,
        degradation={"light": 1, "heavy": 0, "none": 0},
        network={
            "width": 16,
            "head_levels": 2,
            "branch_widths": [16, 16],
            "bottleneck_cells": 1,
            "refine_dilations": [1, 2],
            "trunk_stride": 2,
        },
        precision="float32",
    )
    run = run_module.Run(config)
    source = batches(pictures, config)
    fixed = run.pair(source, 32, 1)
    run.pair = lambda *_: fixed
    for _ in range(config.steps):
        run.advance(source)
    output = run.network(fixed.input)
    # Measured: a 20th of the background's error is left and a 10th of the noise's, with another seed a 12th and a 13th.
    assert (output.background - fixed.background).abs().mean() < (fixed.input - fixed.background).abs().mean() / 4
    assert (output.noise - fixed.noise).abs().mean() < fixed.noise.mean() / 4


def test_average_follows_its_formula(pictures, tmp_path, settings, batches):
    config = settings(pictures, tmp_path, ema=0.3)
    run = run_module.Run(config)
    source = batches(pictures, config)
    wanted = {k: v.double().clone() for k, v in run.network.state_dict().items()}
    decays = []
    for step in range(1, 8):
        run.advance(source)
        decay = min(0.3, (1 + step) / (10 + step))
        decays.append(decay)
        for name, value in run.network.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * value.double()
    assert decays[0] < 0.2
    assert decays[-1] == 0.3
    for name, value in run.averaged().state_dict().items():
        torch.testing.assert_close(value.double(), wanted[name], atol=1e-7, rtol=1e-5)


def test_rate_rises_linearly_then_falls_along_a_cosine(pictures, tmp_path, settings):
    config = settings(pictures, tmp_path, steps=200, warmup=0.1, learning_rate=2e-3, final_rate=0.05)
    schedule = Schedule(config, 200)
    rates = [config.learning_rate * schedule.share_of_rate(step) for step in range(200)]
    np.testing.assert_allclose(rates[:20], 2e-3 * np.arange(1, 21) / 20)
    assert max(rates) == pytest.approx(2e-3)
    falling = rates[20:]
    assert all(a > b for a, b in pairwise(falling))
    assert rates[110] == pytest.approx(2e-3 * (0.05 + 0.95 * 0.5))  # half way down the cosine
    assert 2e-3 * 0.05 < rates[-1] < 2e-3 * 0.0505
    flat = Schedule(settings(pictures, tmp_path, steps=10, warmup=0), 10)
    assert flat.share_of_rate(0) == 1


def test_phases_switch_where_they_say(pictures, tmp_path, settings):
    config = settings(pictures, tmp_path, steps=8, phases=[[0.25, 16, 4], [0.5, 24, 3], [1.0, 48, 1]])
    sizes = [Schedule(config, 8).phase(step) for step in range(8)]
    assert sizes == [(16, 4)] * 2 + [(24, 3)] * 2 + [(48, 1)] * 4


def test_weight_decay_spares_what_has_one_axis(pictures, tmp_path, settings):
    run = run_module.Run(settings(pictures, tmp_path, weight_decay=0.02))
    decay = {id(p): group["weight_decay"] for group in run.optimiser.param_groups for p in group["params"]}
    names = dict(run.network.named_parameters())
    assert len(decay) == len(names)
    for name, parameter in names.items():
        assert decay[id(parameter)] == (0 if name.endswith("bias") else 0.02), name


def test_steps_draw_different_pairs_and_each_its_own_again(pictures, tmp_path, settings, batches):
    config = settings(pictures, tmp_path)
    run = run_module.Run(config)
    source = batches(pictures, config)
    pairs = []
    for step in (0, 1, 0):
        run.step = step
        pairs.append(run.pair(source, 32, 2).input)
    assert torch.equal(pairs[0], pairs[2])
    assert not torch.equal(pairs[0], pairs[1])


def test_pairs_drawn_ahead_are_those_of_whole_blocks_of_steps(pictures, tmp_path, settings, batches):
    config = settings(pictures, tmp_path, draw_ahead=3)
    run = run_module.Run(config)
    source = batches(pictures, config)

    def at(step, crop=32):
        run.step = step
        return run.pair(source, crop, 2)

    first = [at(step) for step in range(4)]
    assert [p.input.shape for p in first] == [(2, 3, 32, 32)] * 4
    distinct = {p.input.numpy().tobytes() for p in first}
    assert len(distinct) == 4
    fresh = run_module.Run(config)
    fresh.step = 1  # a run that is resumed within a block
    again = fresh.pair(source, 32, 2)
    for name in ("input", "background", "noise"):
        assert torch.equal(getattr(again, name), getattr(first[1], name))
    block = run_module.Run(replace(config, draw_ahead=1)).pair(source, 32, 6)  # the same seed, three steps' worth
    joined = torch.stack([p.input for p in first[:3]], dim=1).flatten(0, 1)
    assert torch.equal(joined, block.input)
    assert at(2, crop=48).input.shape[-1] == 48  # a phase may end within a block


def test_each_step_tells_its_share_of_what_was_drawn_ahead(pictures, tmp_path, settings, batches):
    config = settings(pictures, tmp_path, draw_ahead=4)
    run = run_module.Run(config)
    source = batches(pictures, config)
    counts = []
    crops = source.crops
    source.crops = lambda count, *args, **options: counts.append(count) or crops(count, *args, **options)
    told = [run.advance(source).timing for _ in range(5)]
    assert counts == [8, 8]
    assert told[0].data == told[3].data > 0
    assert told[0].synthesis == told[3].synthesis > 0
    assert told[4].synthesis != told[3].synthesis
    assert run.probe(source, 32, 2) > 0
    assert counts == [8, 8, 8]  # also to see whether there is memory for them


def test_a_run_that_draws_ahead_resumes_where_it_was(pictures, tmp_path, settings):
    whole = train(settings(pictures, tmp_path / "a", draw_ahead=3, steps=8))
    config = settings(pictures, tmp_path / "b", draw_ahead=3, steps=8)
    events = iter_train(config)
    for event in events:
        if event.step == 4:
            events.close()
    resumed = train(config, resume=True)
    ours, theirs = load_file(whole), load_file(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
