"""The camera: dims, adds noise, compresses; a share of the images, and only their input."""

import pytest
import torch

from napari_dmgn.synthesis.degradation import Clean
from napari_dmgn.synthesis.haze import Haze
from napari_dmgn.synthesis.photo import PhotoEffects
from napari_dmgn.synthesis.reflection import GhostReflection


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(n=100, value=0.5, size=(16, 16)):
    return torch.full((n, 3, *size), value)


def test_a_share_of_the_images_goes_through():
    clean = torch.rand((200, 3, 16, 16), generator=state(9))
    pair = PhotoEffects(degrade=Clean(), share=0.3)(clean, state())
    taken = pair.parameters["quality"] > 0
    assert taken.sum() == pytest.approx(60, abs=20)
    assert torch.equal(pair.input[~taken], clean[~taken])
    assert ((pair.input != clean).flatten(1).any(1) == taken).all()
    assert (pair.parameters["sensor_noise"][~taken] == 0).all()
    assert not pair.noise.any()
    assert torch.equal(pair.background, clean)


def test_noise_is_as_strong_as_drawn_and_stronger_in_light():
    def spread(value):
        """Of the pixels, over the drawn deviation; without the compression's part."""
        camera = PhotoEffects(degrade=Clean(), noise=(0.03, 0.06), quality=(100, 100))
        pair = camera(flat(value=value, size=(32, 32)), state(1))
        luma = (pair.input - value).mean(1)  # chroma is averaged over 2x2 pixels
        return (luma.std((1, 2)) * 3**0.5 / pair.parameters["sensor_noise"]).mean().item()

    assert 0.7 < spread(0.2) < spread(0.8) < 1.1


def test_some_are_darkened_by_a_power():
    pair = PhotoEffects(degrade=Clean(), dim=0.3, noise=(1e-4, 2e-4), quality=(95, 95))(flat(300), state(2))
    gamma = pair.parameters["gamma"]
    dim = gamma > 1
    assert dim.sum() == pytest.approx(90, abs=25)
    assert (gamma[dim] >= 1.5).all()
    assert (gamma[dim] <= 3).all()
    level = pair.input.mean((1, 2, 3))
    torch.testing.assert_close(level, 0.5**gamma, atol=0.01, rtol=0)


def test_strength_scales_the_degradation_and_the_noise():
    dark = torch.zeros((20, 3, 16, 16))
    full = PhotoEffects(degrade=Haze(), noise=(0.05, 0.05), quality=(100, 100))
    half = PhotoEffects(degrade=Haze(), strength=0.5, noise=(0.05, 0.05), quality=(100, 100))
    a, b = full(dark, state(3)), half(dark, state(3))
    torch.testing.assert_close(b.noise, Haze(strength=0.5)(dark, state(3)).noise)
    assert (b.noise <= a.noise + 1e-6).all()
    torch.testing.assert_close(b.parameters["sensor_noise"], a.parameters["sensor_noise"] / 2)


def test_it_wants_what_the_degradation_wants():
    for degrade in (Clean(), Haze(), GhostReflection()):
        camera = PhotoEffects(degrade=degrade)
        assert (camera.wants_layer, camera.wants_depth) == (degrade.wants_layer, degrade.wants_depth)
