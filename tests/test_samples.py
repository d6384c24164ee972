"""The samples are photographs and made cells that need no network; their noise is made by the seed."""

import socket

import numpy as np
import pytest

from napari_dmgn.samples import (
    HAZE,
    REFLECTION,
    clean_sample,
    hazy_sample,
    rainy_sample,
    reflection_sample,
    sample_names,
    striped_cells,
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*_arguments):
        raise AssertionError("a sample went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("SKIMAGE_DATADIR", str(tmp_path))


@pytest.mark.parametrize("name", sample_names())
def test_a_sample_is_a_colour_photograph_of_its_own_memory(name):
    clean = clean_sample(name)
    assert clean.dtype == np.uint8
    assert clean.ndim == 3
    assert clean.shape[2] == 3
    assert 200 < min(clean.shape[:2]) <= max(clean.shape[:2]) <= 640
    assert np.ptp(clean.astype(int), axis=2).max() > 50  # in colour
    clean[:] = 0
    assert clean_sample(name).any()


@pytest.mark.parametrize("strength", ["light", "heavy"])
def test_rain_is_the_seeds_and_only_adds_light(strength):
    first, again = (rainy_sample("chelsea", strength, 3) for _ in range(2))
    for part in ("clean", "input", "noise"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert getattr(first, part).dtype == np.uint8
        assert getattr(first, part).shape == first.clean.shape
    np.testing.assert_array_equal(first.clean, clean_sample("chelsea"))
    assert (first.input != rainy_sample("chelsea", strength, 4).input).any()
    assert (first.input >= first.clean).all()
    sums = np.minimum(first.clean.astype(int) + first.noise, 255)
    assert np.abs(sums - first.input).max() <= 1  # each is rounded


def test_heavy_rain_hides_more_than_light_rain():
    light, heavy = (
        np.mean([rainy_sample("coffee", strength, seed).noise.mean() for seed in range(4)])
        for strength in ("light", "heavy")
    )
    assert heavy > 2 * light > 0


@pytest.mark.parametrize("strength", HAZE)
def test_haze_is_the_seeds_and_takes_contrast(strength):
    first, again = (hazy_sample("chelsea", strength, 3) for _ in range(2))
    for part in ("clean", "input", "noise"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert getattr(first, part).shape == first.clean.shape
    assert (first.input != hazy_sample("chelsea", strength, 4).input).any()
    assert np.ptp(first.input.astype(int)) < np.ptp(first.clean.astype(int))
    assert (first.input.astype(int) >= first.noise.astype(int) - 1).all()


def test_denser_haze_hides_more():
    thin, medium, dense = (
        np.mean([hazy_sample("coffee", strength, seed).noise.mean() for seed in range(3)]) for strength in HAZE[:3]
    )
    assert thin < 0.7 * medium < 0.7 * dense


@pytest.mark.parametrize("strength", REFLECTION)
def test_a_reflection_shows_the_next_photograph(strength):
    first, again = (reflection_sample("chelsea", strength, 2) for _ in range(2))
    for part in ("clean", "input", "noise"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert getattr(first, part).shape == first.clean.shape
    np.testing.assert_array_equal(first.clean, clean_sample("chelsea"))
    assert (first.input != first.clean).any()
    # Mirrored coffee, scaled to 451 wide as the cat's picture is.
    coffee = clean_sample("coffee")[:, ::-1].mean(axis=2)
    rows = np.linspace(0, coffee.shape[0] - 1, 301).round().astype(int)
    columns = np.linspace(0, coffee.shape[1] - 1, 451).round().astype(int)
    expected = coffee[rows][:, columns][10:-10:8, 10:-10:8]
    found = first.noise.mean(axis=2)[:300][10:-10:8, 10:-10:8]
    assert np.corrcoef(expected[: len(found)].ravel(), found.ravel())[0, 1] > 0.4


def test_cells_have_the_same_shadows_in_every_plane():
    first, again = (striped_cells(1, (5, 96, 120)) for _ in range(2))
    for part in ("clean", "input", "noise"):
        stack = getattr(first, part)
        assert stack.dtype == np.uint16
        assert stack.shape == (5, 96, 120)
        np.testing.assert_array_equal(stack, getattr(again, part))
    assert np.abs(first.clean.astype(int) - first.noise - first.input).max() <= 1
    assert first.clean.std() > 0.03 * 65535
    share = first.noise / np.maximum(first.clean, 1)
    bright = (first.clean > 1000).all(axis=0)
    assert np.ptp(share[:, bright], axis=0).max() < 0.002
    assert share.max() > 0.1
    assert (striped_cells(2, (5, 96, 120)).clean != first.clean).any()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown sample 'cat'; the samples are astronaut, chelsea"):
        clean_sample("cat")
    with pytest.raises(ValueError, match="unknown sample 'cat'"):
        rainy_sample("cat")
    with pytest.raises(ValueError, match="unknown strength 'mixed'; wanted light or heavy"):
        rainy_sample("coffee", "mixed")
    with pytest.raises(ValueError, match="unknown strength 'light'; wanted thin, medium, dense or coloured"):
        hazy_sample("coffee", "light")
    with pytest.raises(ValueError, match="unknown strength 'soft'; wanted linear, gamma, screen, ghost or sharp"):
        reflection_sample("coffee", "soft")
    with pytest.raises(ValueError, match="unknown sample 'cat'"):
        reflection_sample("cat")
    with pytest.raises(ValueError, match="unknown sample 'cat'"):
        hazy_sample("cat")
    for shape in ((0, 8, 8), (8, 8)):
        with pytest.raises(ValueError, match="wanted \\(Z, Y, X\\), each at least 1"):
            striped_cells(0, shape)
