"""The samples are photographs that need no network, and their rain is made by the seed."""

import socket

import numpy as np
import pytest

from napari_dmgn.samples import clean_sample, rainy_sample, sample_names


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


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown sample 'cat'; the samples are astronaut, chelsea"):
        clean_sample("cat")
    with pytest.raises(ValueError, match="unknown sample 'cat'"):
        rainy_sample("cat")
    with pytest.raises(ValueError, match="unknown strength 'mixed'; wanted light or heavy"):
        rainy_sample("coffee", "mixed")
