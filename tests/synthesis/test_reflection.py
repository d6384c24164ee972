"""Reflections: one operator, and what each recipe's parameters do."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dmgn.synthesis import fields
from napari_dmgn.synthesis.degradation import Sources
from napari_dmgn.synthesis.fields import gaussian_blur
from napari_dmgn.synthesis.reflection import (
    GammaReflection,
    GhostReflection,
    LinearReflection,
    ScreenReflection,
    SharpReflection,
    compose_reflection,
    ghost,
)


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(value, n=1, size=(16, 16)):
    return torch.full((n, 3, *size), value)


def test_blur_is_scipys_and_cut_where_asked():
    images = torch.rand((3, 2, 40, 50), generator=state(1))
    sigma = torch.tensor([0.0, 1.5, 4.0])
    ours = gaussian_blur(images, sigma)
    assert torch.equal(ours[0], images[0])
    for i in (1, 2):
        radius = math.ceil(3 * sigma[i])
        for channel in range(2):
            theirs = gaussian_filter(images[i, channel].numpy(), sigma[i].item(), mode="nearest", radius=radius)
            np.testing.assert_allclose(ours[i, channel], theirs, atol=1e-5)
    point = torch.zeros((1, 1, 21, 21))
    point[0, 0, 10, 10] = 1
    spot = gaussian_blur(point, torch.tensor([5.0]), torch.tensor([3.0]))[0, 0]
    assert (spot > 0).sum() == 49
    assert spot.sum().item() == pytest.approx(1)


def test_blur_of_large_pictures_is_the_same(monkeypatch):
    images = torch.rand((2, 3, 30, 20), generator=state(1))
    sigma = torch.tensor([0.7, 3.0])
    at_once = gaussian_blur(images, sigma)
    monkeypatch.setattr(fields, "_AT_ONCE", 0)
    torch.testing.assert_close(gaussian_blur(images, sigma), at_once)


def test_light_adds_as_light_and_values_as_values():
    ones = torch.ones((3, 3))
    gamma, screen = torch.tensor([1.0, 2.2, 1.0]), torch.tensor([0.0, 0.0, 1.0])
    pair = compose_reflection(flat(0.5, 3), flat(0.4, 3), scale=ones * 0.9, gamma=gamma, screen=screen)
    wanted = [0.45 + 0.4, (0.45**2.2 + 0.4**2.2) ** (1 / 2.2), 0.45 + 0.4 - 0.45 * 0.4]
    np.testing.assert_allclose(pair.input[:, 0, 0, 0], wanted, rtol=1e-5)
    torch.testing.assert_close(pair.noise, flat(0.4, 3))


def test_a_dark_reflected_picture_is_brightened_to_half_of_the_background():
    """Instead of being rejected. The vignette's centre shows the whole."""

    def brightest(value):
        sources = Sources(layer=flat(value, 40))
        return LinearReflection()(flat(0.7, 40), state(2), sources).noise.amax((1, 2, 3)).max()

    half = (0.7**2.2 / 2) ** (1 / 2.2)
    assert brightest(half - 0.05) == pytest.approx(half, abs=0.01)
    assert brightest(half) == pytest.approx(half, abs=0.01)
    assert brightest(0.1) == pytest.approx((4 * 0.1**2.2) ** (1 / 2.2), abs=0.01)  # four times, no more


def test_what_exceeds_white_is_taken_off_the_reflection():
    pair = GammaReflection()(flat(0.8), state(), Sources(layer=flat(0.6)))
    # The sum exceeds white by 0.4 everywhere: 1.3 times that goes.
    torch.testing.assert_close(pair.noise, flat(0.6 - 1.3 * 0.4))
    faint = GammaReflection()(flat(0.3), state(), Sources(layer=flat(0.6)))
    torch.testing.assert_close(faint.noise, flat(0.6))


def test_ghost_is_the_sum_of_two_shifted_images():
    picture = torch.rand((2, 3, 20, 24), generator=state(3))
    shift, second = torch.tensor([[3.0, -5.0], [0.0, 0.0]]), torch.tensor([0.25, 0.4])
    doubled = ghost(picture, shift, second)
    moved = picture[0].roll((3, -5), (1, 2))
    inner = (slice(None), slice(3, None), slice(None, -5))
    torch.testing.assert_close(doubled[0][inner], (0.75 * picture[0] + 0.25 * moved)[inner])
    torch.testing.assert_close(doubled[1], picture[1])


def test_ghosts_autocorrelation_peaks_at_the_shift():
    layer = torch.rand((1, 3, 128, 128), generator=state(4))
    for seed in range(4):
        pair = GhostReflection()(torch.zeros_like(layer), state(seed), Sources(layer=layer))
        if pair.parameters["sigma"] > 1:
            continue  # too smooth for a peak of its own
        light = pair.noise[0, 1] ** 2.2
        spectrum = torch.fft.rfft2(light - light.mean()).abs() ** 2
        correlation = torch.fft.irfft2(spectrum, s=light.shape)
        correlation /= correlation[0, 0].clone()
        down, right = (int(v) for v in pair.parameters["shift"][0])
        assert 1 <= math.hypot(down, right) <= 9
        assert correlation[down, right] > 0.2


def test_ranges_are_those_of_the_recipes():
    n = 400
    sources = Sources(layer=torch.rand((n, 3, 6, 6), generator=state(5)))
    clean = flat(0.3, n, (6, 6))
    drawn = {kind: kind()(clean, state(6), sources).parameters for kind in (LinearReflection, GammaReflection)}
    for kind, low, high in ((LinearReflection, 1, 5), (GammaReflection, 2, 5)):
        sigma = drawn[kind]["sigma"]
        assert low <= sigma.min() < low + 0.1
        assert high - 0.1 < sigma.max() <= high
    through = drawn[LinearReflection]["scale"] ** 2.2
    assert 0.8 <= through.min() < 0.81
    assert 0.99 < through.max() <= 1
    scale = ScreenReflection()(clean, state(7), sources).parameters["scale"]
    assert scale.mean().item() == pytest.approx(1.1, abs=0.01)
    assert scale.min() >= 0.85
    assert scale.max() <= 1.35
    sharp = SharpReflection()(clean, state(8), sources)
    assert sharp.parameters["factor"].max() <= 0.5


def test_sharp_reflection_keeps_the_pictures_detail():
    layer = torch.rand((20, 3, 32, 32), generator=state(9))
    pair = SharpReflection()(torch.zeros_like(layer), state(9), Sources(layer=layer))
    whole = (pair.noise.amin((1, 2, 3)) > 0) & (pair.parameters["factor"] > 0)
    factor = pair.parameters["factor"][whole] ** (1 / 2.2)
    assert whole.sum() > 3
    for image, clean, f in zip(pair.noise[whole], layer[whole], factor, strict=True):
        assert torch.corrcoef(torch.stack([image.flatten(), clean.flatten()]))[0, 1] > 0.6
        assert image.max() <= f + 1e-5
