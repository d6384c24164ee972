"""Pairs made from arrays of every kind keep the laws of a degradation."""

import json

import numpy as np
import pytest

from napari_dmgn.synthesis import synthesize

DTYPES = ("u1", "<u2", ">u2", "u4", "f2", "f4", ">f4", "f8")


def clean(dtype, shape=(40, 50, 3), seed=0):
    unit = 0.6 * np.random.default_rng(seed).random(shape)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return unit.astype(dtype)
    return np.rint(unit * np.iinfo(dtype).max).astype(dtype)


def top(image):
    return 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50), (1, 1, 3), (3, 3)])
def test_layers_add_up_to_the_input_in_every_dtype(dtype, shape):
    image = clean(dtype, shape)
    kept = image.copy()
    image.flags.writeable = False
    for strength in ("light", "heavy", "mixed"):
        pair = synthesize(image, strength=strength, seed=3)
        for layer in (pair.input, pair.background, pair.noise):
            assert layer.dtype == image.dtype
            assert layer.shape == shape
            assert layer.min() >= 0
            assert layer.max() <= top(image)
        assert np.array_equal(pair.background, kept)
        total = np.clip(pair.background.astype(float) + pair.noise.astype(float), 0, top(image))
        one = 1 if image.dtype.kind == "u" else 0
        rounding = one + top(image) * (2e-3 if dtype == "f2" else 1e-6)
        np.testing.assert_allclose(pair.input.astype(float), total, atol=rounding)
    assert np.array_equal(image, kept)


def test_rain_is_there_and_heavy_is_more():
    image = clean("u1", (96, 96, 3))
    means = {s: [synthesize(image, strength=s, seed=i).noise.mean() for i in range(6)] for s in ("light", "heavy")}
    assert min(means["light"]) > 0
    assert np.mean(means["heavy"]) > 2 * np.mean(means["light"])


def test_same_seed_same_pair_and_another_another():
    image = clean("u2")
    for strength in ("light", "heavy", "mixed"):
        first, again, other = (synthesize(image, strength=strength, seed=s) for s in (5, 5, 6))
        assert np.array_equal(first.input, again.input)
        assert np.array_equal(first.noise, again.noise)
        assert first.parameters == again.parameters
        assert not np.array_equal(first.input, other.input)


def test_dtype_changes_the_rounding_only():
    image = clean("u1")
    eight, real = synthesize(image, seed=2), synthesize(image / np.float32(255), seed=2)
    np.testing.assert_allclose(eight.input / 255, real.input, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(eight.noise / 255, real.noise, atol=0.5 / 255 + 1e-6)


def test_gray_is_the_mean_of_equal_channels():
    gray = clean("f4", (32, 40))
    colour = np.repeat(gray[..., None], 3, axis=2)
    for name in ("input", "noise"):
        a, b = (getattr(synthesize(i, strength="light", seed=1), name) for i in (gray, colour))
        np.testing.assert_allclose(a, b.mean(axis=2), atol=1e-6)


def test_parameters_tell_what_was_drawn():
    for strength, names in (("light", {"mean", "angle", "length", "width", "density"}), ("mixed", {"part"})):
        parameters = synthesize(clean("u1"), strength=strength, seed=7).parameters
        assert json.loads(json.dumps(parameters)) == parameters
        assert (parameters["task"], parameters["strength"], parameters["seed"]) == ("rain", strength, 7)
        assert names <= set(parameters)


def test_mixed_always_rains():
    image = clean("u1", (64, 64, 3))
    assert all(synthesize(image, seed=seed).noise.any() for seed in range(30))


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (clean("u1"), {"task": "haze"}, "no synthesis for task 'haze' yet; wanted 'rain'"),
        (clean("u1"), {"task": "snow"}, "no synthesis for task 'snow'"),
        (clean("u1"), {"strength": "mild"}, "unknown strength 'mild'; wanted one of light, heavy, mixed"),
        (clean("u1", (4, 4, 4)), {}, r"shape \(4, 4, 4\); wanted \(H, W, 3\) or \(H, W\)"),
        (clean("u1", (4,)), {}, r"shape \(4,\)"),
        (clean("u1", (2, 4, 4, 3)), {}, "wanted"),
        (np.zeros((0, 4, 3), np.uint8), {}, r"shape \(0, 4, 3\)"),
        (clean("u1").astype(np.int16), {}, "is int16; wanted unsigned integers or floats"),
        (clean("u1") > 50, {}, "is bool"),
        (clean("f4").astype(complex), {}, "is complex128"),
        (clean("f4") * 255, {}, r"spans .* to .*; wanted \[0, 1\]"),
        (clean("f4") - 0.5, {}, "spans"),
        (np.full((4, 4), np.nan), {}, "spans nan to nan"),
    ],
)
def test_what_cannot_be_rained_on_is_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        synthesize(image, **options)
