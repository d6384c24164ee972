"""Variation of clean pictures: what changes, in how many, and what stays."""

import pytest
import torch

from napari_dmgn.synthesis.fields import luminance
from napari_dmgn.synthesis.variation import Variation


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def rough(n=6, size=(64, 48), seed=9):
    return torch.rand((n, 3, *size), generator=state(seed))


def test_without_shares_nothing_changes():
    images = rough()
    assert not Variation()
    assert torch.equal(Variation().scenes(images, state()), images)
    assert torch.equal(Variation().layers(images, state()), images)


@pytest.mark.parametrize(
    "settings", [{"colour_jitter": 1.0}, {"shallow_focus": 1.0}, {"uneven_light": 1.0}, {"colour_grading": 1.0}]
)
def test_pictures_stay_in_range_and_are_the_same_again(settings):
    variation = Variation(**settings)
    images = torch.cat([rough(), torch.zeros(1, 3, 64, 48), torch.ones(1, 3, 64, 48)])
    varied = variation.scenes(images, state(3))
    assert variation
    assert varied.shape == images.shape
    assert varied.min() >= 0
    assert varied.max() <= 1
    assert torch.equal(varied, variation.scenes(images, state(3)))
    assert not torch.equal(varied, variation.scenes(images, state(4)))


@pytest.mark.parametrize("name", ["colour_jitter", "shallow_focus", "uneven_light", "colour_grading"])
def test_shares_are_those_of_the_pictures(name):
    images = rough(400, (16, 16))
    varied = Variation(**{name: 0.3}).scenes(images, state())
    changed = (varied - images).abs().amax((1, 2, 3)) > 1e-6
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.07)


def test_colours_change_but_not_what_is_where():
    images = rough(40, (16, 16))
    varied = Variation(colour_jitter=1.0).layers(images, state())
    moved = (varied - images).abs().mean((1, 2, 3))
    assert 0.02 < moved.mean() < 0.2
    for before, after in zip(luminance(images), luminance(varied), strict=True):
        assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.9
    assert (varied - images).mean((2, 3)).std(1).mean() > 0.01  # a tint, not only an exposure


def test_grading_takes_black_white_gray_and_colours_elsewhere():
    ends = (
        torch.tensor([[0.0] * 3, [1.0] * 3, [0.5] * 3, [0.7, 0.4, 0.3]]).T.reshape(1, 3, 1, 4).expand(300, -1, -1, -1)
    )
    varied = Variation(colour_grading=1.0).layers(ends, state())[:, :, 0]
    black, white, gray, brown = varied.unbind(2)
    lifted = black.amax(1) > 1e-3
    assert lifted.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert black.max() < 0.3
    assert (white.amin(1) < 0.98).float().mean() > 0.8
    for colour in (black[lifted], white, gray[~lifted]):
        assert (colour.amax(1) - colour.amin(1)).median() > 0.01
    # Curves move the middle more than the ends: to both sides.
    relative = gray[~lifted].mean(1) / white[~lifted].mean(1)
    assert relative.amin() < 0.4
    assert relative.amax() > 0.6
    spread = brown.amax(1) - brown.amin(1)
    assert (spread < 0.25).float().mean() > 0.1
    assert (spread > 0.55).float().mean() > 0.1


def test_grading_keeps_what_is_where():
    images = rough(40, (16, 16))
    varied = Variation(colour_grading=1.0).layers(images, state())
    for before, after in zip(luminance(images), luminance(varied), strict=True):
        assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.85


@pytest.mark.parametrize("name", ["colour_jitter", "colour_grading"])
def test_pictures_without_colours_get_none(name):
    gray = rough(40, (16, 16))[:, :1].expand(-1, 3, -1, -1)
    varied = Variation(**{name: 1.0}).scenes(gray, state())
    assert torch.equal(varied, varied[:, :1].expand_as(varied))
    assert (varied - gray).abs().mean() > 0.01


def test_a_part_stays_sharp_before_a_blurred_rest_of_itself_or_of_another_picture():
    dark, bright = rough(200, (48, 48)) * 0.4, 0.6 + 0.4 * rough(200, (48, 48), 5)
    images = torch.stack([dark, bright], 1).flatten(0, 1)
    varied = Variation(shallow_focus=1.0).scenes(images, state())
    kept = ((varied - images).abs().amax(1) < 1e-6).float().mean((1, 2))
    assert 0.2 < kept.mean() < 0.8
    assert (kept > 0.02).float().mean() > 0.8
    # In dark pictures: what is brighter than they are comes from bright ones. Half of the rests are those of another
    # picture, half of those of a bright one.
    foreign = (varied[0::2] > 0.45).any(1).float().mean((1, 2)) > 0.02
    assert foreign.float().mean().item() == pytest.approx(0.25, abs=0.1)
    # What is not kept has lost its detail.
    detail = varied[1::2].diff(dim=-1).abs().amax(1)
    still = (varied[1::2] - images[1::2]).abs().amax(1)[:, :, :-1] < 1e-6
    assert detail[~still].mean() < 0.5 * detail[still].mean()


@pytest.mark.parametrize("first", ["shallow_focus", "uneven_light"])
def test_pictures_without_colours_stay_gray_through_several_changes(first):
    gray = rough(40, (65, 49))[:, :1].expand(-1, 3, -1, -1)  # of a size at which powers round differently
    varied = Variation(**{first: 1.0}, colour_grading=1.0).scenes(gray, state())
    torch.testing.assert_close(varied, varied[:, :1].expand_as(varied), atol=1e-4, rtol=0)


def test_light_multiplies_a_scene_by_a_few_factors():
    images = 0.2 + 0.3 * rough(60, (48, 48))  # nothing reaches white
    varied = Variation(uneven_light=1.0).scenes(images, state())
    light = varied.double().pow(2.2) / images.double().pow(2.2)
    assert varied.max() < 1
    assert 0.2 * 0.87 * 0.99 < light.min() < 0.25
    assert 1.45 < light.max() < 1.6 * 1.01
    # What is dark and what is bright get the same factor: neighbours' hardly differ, those of shade and sun do.
    assert light.diff(dim=-1).abs().median() < 0.001
    low, high = light.amin(dim=(2, 3), keepdim=True), light.amax(dim=(2, 3), keepdim=True)
    assert (high / low).median() > 1.5
    # One factor in the shade, one in the sun, and little between them in the harder half of the pictures.
    between = ((light - low) / (high - low) - 0.5).abs() < 0.4
    assert between.float().mean((1, 2, 3)).median() < 0.3
    sun = high.amax(1)
    assert (sun > 1.1).float().mean() > 0.2
    assert (sun < 1).float().mean() > 0.1


def test_shade_has_a_tint_of_its_own():
    images = rough(40, (16, 16)) * 0.5 + 0.1
    shade = (Variation(uneven_light=1.0).scenes(images, state()) / images).amin((2, 3))
    assert shade.std(1).mean() > 0.01


@pytest.mark.parametrize("later", [{"uneven_light": 0.4}, {"colour_grading": 0.4}])
def test_jitter_and_focus_are_drawn_alike_whatever_comes_after_them(later):
    images = rough(60, (24, 24))
    settings = {"colour_jitter": 0.5, "shallow_focus": 0.5}
    plain = Variation(**settings).scenes(images, state())
    changed = Variation(**settings, **later).scenes(images, state())
    same = (plain == changed).all(3).all(2).all(1)
    assert same.float().mean().item() == pytest.approx(0.6, abs=0.2)
