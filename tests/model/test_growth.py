"""A network that continues a smaller one begins as nearly the same function."""

from dataclasses import replace

import pytest
import torch

from napari_dmgn.model.config import ABLATIONS
from napari_dmgn.model.growth import can_grow, grow
from napari_dmgn.model.network import DMGN

IMAGES = ("background", "coarse", "noise", "noise_map")
MORE = {"bottleneck_cells": 3, "refine_dilations": (1, 2, 4, 1)}


@pytest.fixture(scope="module")
def small(tiny_network):
    """Settings of the smaller network."""
    return tiny_network.config


def build(config, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DMGN(config).eval()
        for part in (network.background_branch, network.noise_branch, network.refiner):
            torch.nn.init.normal_(part.out.weight, std=0.05)
            if part.gain is not None:
                torch.nn.init.normal_(part.gain.weight, std=0.5)
    return network


def difference(a, b):
    image = torch.rand((2, 3, 48, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = a(image), b(image)
    return max((getattr(ours, name) - getattr(theirs, name)).abs().max() for name in IMAGES)


def test_gains_alone_change_nothing(small):
    first, large = build(small), build(replace(small, background_gain=True), seed=2)
    assert difference(first, large) > 0.05
    grow(first, large)
    assert difference(first, large) < 1e-6


@pytest.mark.parametrize("gain", [False, True])
def test_further_cells_begin_as_nearly_nothing_and_learn(gain, small):
    first, large = build(replace(small, background_gain=gain)), build(replace(small, **MORE, background_gain=True), 2)
    before = difference(first, large)
    grow(first, large)
    assert difference(first, large) < 0.005 * before
    large(torch.rand(1, 3, 32, 32)).background.mean().backward()
    for cell in (large.background_branch.cells[2], large.noise_branch.cells[1], large.refiner.cells[3]):
        assert cell.conv1.weight.grad.any()
        assert cell.conv2.weight.grad.any()
    assert all(torch.equal(w, dict(large.named_parameters())[name]) for name, w in first.named_parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 16},
        {"refine_dilations": (2, 1, 1)},
        {"refine_dilations": (1,)},
        {"bottleneck_cells": 2, "cells": "plain"},
        {"noise_map": False},
    ],
)
def test_other_networks_are_no_continuation(changes, small):
    large = build(replace(small, **changes), seed=2)
    assert not can_grow(small, large.config)
    kept = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    with pytest.raises(ValueError, match="cannot continue one of another kind; wanted the same settings"):
        grow(build(small), large)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in large.state_dict().items())


def test_no_network_loses_anything(small):
    assert not can_grow(replace(small, **MORE), small)
    assert not can_grow(replace(small, background_gain=True), small)
    assert can_grow(small, small)


def test_plain_cells_replace_what_comes_in_and_are_not_added(small):
    plain = replace(small, **ABLATIONS["Base"])
    assert can_grow(plain, plain)
    assert not can_grow(plain, replace(plain, **MORE))
    masking = replace(small, **ABLATIONS["R-RDMC"])
    assert can_grow(masking, replace(masking, **MORE))
