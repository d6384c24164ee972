"""Laws of the rain, and what was measured on real light rain."""

import math

import numpy as np
import pytest
import torch

from napari_dmgn.synthesis import streaks as streaks_module
from napari_dmgn.synthesis.degradation import Clean
from napari_dmgn.synthesis.mixtures import mixture
from napari_dmgn.synthesis.rain import (
    HeavyRain,
    LightRain,
    SeenRain,
    VeiledRain,
    compose_rain,
    compose_seen_rain,
)
from napari_dmgn.synthesis.streaks import RainLayers, streak_layer

RAIN = mixture("rain", {"light": 0.5, "heavy": 0.42, "none": 0.08})
DEGRADATIONS = [LightRain(), HeavyRain(), Clean(), RAIN]


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=4, size=(64, 80), seed=9):
    return torch.rand((n, 3, *size), generator=state(seed))


def layers(**values):
    """One streak layer for each image, from lists of numbers."""
    usual = {"mean": 0.05, "angle": 0.0, "length": 20.0, "width": 2.0, "density": 0.005}
    n = max((len(v) for v in values.values()), default=1)
    columns = {k: values.get(k, [v] * n) for k, v in usual.items()}
    return RainLayers(**{k: torch.tensor(v, dtype=torch.float32)[:, None] for k, v in columns.items()})


@pytest.mark.parametrize("degrade", DEGRADATIONS)
@pytest.mark.parametrize("size", [(64, 80), (1, 1), (2, 3), (7, 5), (300, 17)])
def test_layers_reproduce_the_image_within_its_range(degrade, size):
    """I = clip(B + R)."""
    clean = pictures(6, size)
    kept = clean.clone()
    for seed in range(3):
        pair = degrade(clean, state(seed))
        assert torch.equal(pair.background, kept)
        assert torch.equal(clean, kept)
        torch.testing.assert_close(pair.input, (pair.background + pair.noise).clamp(0, 1))
        for layer in (pair.input, pair.noise):
            assert layer.shape == clean.shape
            assert layer.dtype == torch.float32
            assert 0 <= layer.min() <= layer.max() <= 1
        assert all(len(v) == 6 for v in pair.parameters.values())


@pytest.mark.parametrize("degrade", [LightRain(strength=0.0), HeavyRain(strength=0.0), Clean()])
def test_strength_zero_is_the_identity(degrade):
    clean = pictures()
    pair = degrade(clean, state())
    assert torch.equal(pair.input, clean)
    assert not pair.noise.any()


@pytest.mark.parametrize("kind", [LightRain, HeavyRain])
def test_strength_is_a_factor_of_the_streaks(kind):
    dark = torch.zeros((4, 3, 64, 64))
    full, half = (kind(strength=s)(dark, state()).noise for s in (1.0, 0.5))
    unclipped = full < 1
    torch.testing.assert_close(half[unclipped], full[unclipped] / 2)


@pytest.mark.parametrize("degrade", [LightRain(), HeavyRain(), mixture("rain", {"light": 0.5, "heavy": 0.42})])
def test_same_state_same_pair(degrade):
    clean = pictures()
    first, again, other = (degrade(clean, state(s)) for s in (3, 3, 4))
    assert torch.equal(first.input, again.input)
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.input, other.input)
    before = torch.random.get_rng_state()
    degrade(clean, state())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_composition_blends_between_addition_and_screen():
    clean, streaks = pictures(3), torch.rand((3, 1, 64, 80), generator=state(2)) * 0.5
    pair = compose_rain(clean, streaks, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(pair.input[0], (clean[0] + streaks[0]).clamp(0, 1))
    torch.testing.assert_close(pair.input[2], clean[2] + streaks[2] - clean[2] * streaks[2])
    torch.testing.assert_close(pair.noise[1], streaks[1] * (1 - 0.5 * clean[1]))


def test_composition_treats_each_image_alone():
    clean, streaks, screen = pictures(3), torch.rand((3, 1, 64, 80), generator=state(2)), torch.tensor([0.0, 0.3, 1.0])
    together = compose_rain(clean, streaks, screen)
    for i in range(3):
        alone = compose_rain(clean[i : i + 1], streaks[i : i + 1], screen[i : i + 1])
        assert torch.equal(together.input[i], alone.input[0])
        assert torch.equal(together.noise[i], alone.noise[0])


def test_the_picture_under_the_rain_has_no_part_in_the_others():
    """What is drawn does not depend on the pictures, nor one result on another picture."""
    clean = pictures(4)
    changed = clean.clone()
    changed[1] = 1 - changed[1]
    for degrade in (LightRain(), HeavyRain(), RAIN):
        a, b = degrade(clean, state(5)), degrade(changed, state(5))
        for i in (0, 2, 3):
            assert torch.equal(a.input[i], b.input[i])


def test_a_layer_switched_off_adds_nothing_and_leaks_nowhere():
    size = (48, 64)
    both = RainLayers(
        mean=torch.tensor([[0.05, 0.0], [0.0, 0.0], [0.0, 0.1]]),
        angle=torch.tensor([[0.3, -0.2]] * 3),
        length=torch.tensor([[20.0, 30.0]] * 3),
        width=torch.tensor([[2.0, 4.0]] * 3),
        density=torch.tensor([[0.005, 0.02]] * 3),
    )
    streaks = streak_layer(both, size, state(1))
    assert streaks.shape == (3, 1, *size)
    assert streaks[0].max() > 0.05
    assert not streaks[1].any()
    assert streaks[2].max() > 0.05
    # Brighter or narrower streaks of one image change no other's.
    for change in ({"mean": 2}, {"width": 0.5}, {"length": 3}, {"angle": -1}):
        values = {k: v.clone() for k, v in vars(both).items()}
        for name, factor in change.items():
            values[name][2] *= factor
        other = streak_layer(RainLayers(**values), size, state(1))
        assert torch.equal(other[:2], streaks[:2])
        assert not torch.equal(other[2], streaks[2])


def test_mean_is_what_was_asked_for():
    means = [0.0, 0.01, 0.05, 0.2]
    for length, width, density in ((20.0, 2.0, 0.004), (60.0, 9.0, 0.001), (12.0, 1.5, 0.01)):
        n = len(means)
        asked = layers(mean=means, length=[length] * n, width=[width] * n, density=[density] * n)
        drawn = [streak_layer(asked, (256, 256), state(s)).mean(dim=(1, 2, 3)) for s in range(24)]
        np.testing.assert_allclose(torch.stack(drawn).mean(0), means, rtol=0.12)


def angle_of(image):
    """Direction of the streaks from the vertical, by the structure tensor.

    Positive where a streak's lower end lies to the right of its upper end (x grows with y).
    """
    gy, gx = np.gradient(image)
    across = 0.5 * math.atan2(2 * (gx * gy).mean(), (gx * gx).mean() - (gy * gy).mean())
    return -across  # the direction of least change is perpendicular to that of the most


def test_structure_tensor_reads_a_drawn_line():
    """The oracle's own sign: a line that runs down and to the right by a quarter."""
    y, x = np.mgrid[:64, :64]
    line = np.exp(-0.5 * ((x - 16 - (y - 0) / 4) / 2) ** 2)
    assert angle_of(line) == pytest.approx(math.atan(0.25), abs=0.03)


def test_streaks_fall_along_their_angle_and_positive_leans_down_to_the_right():
    angles = [-0.9, -0.5, -0.2, 0.0, 0.2, 0.5, 0.9]
    asked = layers(angle=angles, length=[40.0] * 7, width=[3.0] * 7)
    streaks = streak_layer(asked, (256, 256), state(3))[:, 0].numpy()
    found = [angle_of(image) for image in streaks]
    np.testing.assert_allclose(found, angles, atol=0.06)


def half_extent(image, direction):
    """Lag along (dy, dx) at which the autocorrelation falls to a half."""
    spectrum = np.abs(np.fft.fft2(image - image.mean())) ** 2
    correlation = np.fft.ifft2(spectrum).real
    line = [correlation[direction[0] * i, direction[1] * i] for i in range(60)]
    below = np.array(line) < 0.5 * line[0]
    return int(below.argmax())


def test_streaks_are_as_long_and_wide_as_asked():
    """The autocorrelation of a line of length l halves at l / 2; of a gaussian of FWHM w at w / sqrt(2)."""
    for length, width in ((20.0, 2.0), (40.0, 3.0), (60.0, 6.0)):
        streaks = streak_layer(layers(length=[length], width=[width]), (256, 256), state(4))[0, 0].numpy()
        assert half_extent(streaks, (1, 0)) == pytest.approx(length / 2, rel=0.2, abs=1)
        assert half_extent(streaks, (0, 1)) == pytest.approx(width / math.sqrt(2), rel=0.3, abs=1)


def test_light_rain_is_white_of_one_direction_and_never_negative():
    pair = LightRain()(pictures(8) * 0.3, state(6))
    for channel in (1, 2):
        assert torch.equal(pair.noise[:, 0], pair.noise[:, channel])
    assert all(pair.parameters[name].shape == (8, 1) for name in ("mean", "angle", "length", "width", "density"))


def test_light_rain_has_the_measured_statistics():
    """Medians lie between the 5th and 95th percentile of 100 standard light-rain images, and nearly all images
    within their range widened by half.
    """
    dark = torch.zeros((8, 3, 256, 320))
    noise = torch.cat([LightRain()(dark, state(s)).noise[:, 0] for s in range(6)]).flatten(1)
    measured = {
        "mean": (noise.mean(1), 0.007, 0.038),
        "99th percentile": (noise.quantile(0.99, dim=1), 0.11, 0.46),
        "share above .05": ((noise > 0.05).float().mean(1), 0.05, 0.24),
    }
    for name, (values, low, high) in measured.items():
        assert low < values.median() < high, name
        inside = ((values > low / 1.5) & (values < high * 1.5)).float().mean()
        assert inside > 0.85, (name, values)


def test_light_rain_angles_fill_the_measured_span():
    angles = torch.cat([LightRain()(torch.zeros((64, 3, 4, 4)), state(s)).parameters["angle"] for s in range(8)])
    low, median, high = np.degrees(np.quantile(angles, [0.05, 0.5, 0.95]))
    assert (low, median, high) == pytest.approx((-26, 0, 27), abs=5)


def test_heavy_rain_sums_two_to_five_layers_to_a_mean_up_to_a_fifth():
    pair = HeavyRain()(torch.zeros((400, 3, 1, 1)), state(7))
    mean, angle = pair.parameters["mean"], pair.parameters["angle"]
    count = (mean > 0).sum(1)
    assert set(count.tolist()) == {2, 3, 4, 5}
    total = mean.sum(1)
    assert 0.04 <= total.min() < 0.06
    assert 0.18 < total.max() <= 0.2 + 1e-6
    assert angle.abs().max() <= math.radians(61)
    for name, low, high in (("length", 20, 60), ("width", 1.2, 9)):
        values = pair.parameters[name]
        assert low <= values.min() < low * 1.05
        assert high * 0.95 < values.max() <= high
    assert (angle[:, 0] != angle[:, 1]).all()


def test_parts_of_a_mixture_come_as_often_as_they_weigh():
    clean = torch.full((3000, 3, 1, 1), 0.5)
    part = mixture("rain", {"light": 1, "heavy": 2, "none": 1})(clean, state(8)).parameters["part"].long()
    np.testing.assert_allclose(torch.bincount(part, minlength=5) / 3000, [0.25, 0.5, 0, 0, 0.25], atol=0.03)
    untouched = mixture("rain", {"none": 1})(clean, state(8))
    assert torch.equal(untouched.input, clean)


def test_pairs_are_those_of_the_first_model():
    """Light and heavy rain of a seed stay what the shipped model was validated on.

    Numbers of the version that trained it: `degrade(torch.full((2, 3, 48, 64), 0.25), generator)` with
    a generator of seed 0.
    """
    light = [0.000539, 0.081209, 0.003421, 6.1e-05, 0.017853, 0.0, 0.005415, 0.011043]
    light += [0.071367, 6e-06, 0.220965, 0.038401, 0.059948, 0.014287, 0.001262, 0.139494]
    heavy = [0.136173, 0.036862, 0.131572, 0.147894, 0.097787, 0.075499, 0.024864, 0.037205]
    heavy += [0.017494, 0.195508, 0.000581, 0.064831, 0.053547, 0.033241, 0.013816, 0.026042]
    heavy_means = [0.020942, 0.033214, 0.0, 0.0, 0.0, 0.019097, 0.012962, 0.014106, 0.005894, 0.009066]
    stored = {
        LightRain: ([0.02485, 0.035729], [0.285097, 0.309256], light),
        HeavyRain: (heavy_means, [0.328119, 0.289707], heavy),
    }
    for kind, (mean, image, pixels) in stored.items():
        pair = kind()(torch.full((2, 3, 48, 64), 0.25), state())
        found = (pair.parameters["mean"], pair.input.mean((1, 2, 3)), pair.noise[:, 1, ::24, ::16])
        for value, wanted in zip(found, (mean, image, pixels), strict=True):
            np.testing.assert_allclose(value.flatten(), wanted, atol=2e-6)


@pytest.mark.parametrize("size", [(96, 130), (151, 200)])
def test_large_pictures_get_the_same_rain_window_by_window(monkeypatch, size):
    asked = RainLayers(
        mean=torch.tensor([[0.05, 0.0, 0.02], [0.1, 0.03, 0.0]]),
        angle=torch.tensor([[0.3, -0.2, 0.0], [1.0, 0.4, 0.0]]),
        length=torch.tensor([[20.0, 30.0, 12.0], [60.0, 25.0, 20.0]]),
        width=torch.tensor([[2.0, 4.0, 1.2], [9.0, 1.5, 2.0]]),
        density=torch.tensor([[0.005, 0.02, 0.01], [0.003, 0.01, 0.01]]),
    )
    generator = state(3)
    at_once, after = streak_layer(asked, size, generator), torch.rand(4, generator=generator)
    monkeypatch.setattr(streaks_module, "_AT_ONCE", 0)
    for transform in (200, 333):
        monkeypatch.setattr(streaks_module, "_TRANSFORM", transform)
        generator = state(3)
        torch.testing.assert_close(streak_layer(asked, size, generator), at_once, atol=3e-6, rtol=0)
        assert torch.equal(torch.rand(4, generator=generator), after)


def test_seen_rain_is_dark_before_a_bright_sky():
    clean = torch.stack([torch.full((3, 8, 8), v) for v in (0.0, 0.7, 1.0)])
    cover = torch.full((3, 1, 8, 8), 0.5)
    pair = compose_seen_rain(clean, cover, torch.tensor([[0.6, 0.65, 0.7]] * 3))
    torch.testing.assert_close(pair.input[:, 0, 0, 0], torch.tensor([0.3, 0.65, 0.8]))
    torch.testing.assert_close(pair.noise[1, :, 0, 0], torch.tensor([0.3, 0.325, 0.35]))


def test_veiled_rain_has_the_airlight_of_its_recipe_and_streaks_in_front():
    pair = VeiledRain()(torch.zeros((64, 3, 32, 32)), state(1))
    airlight, transmission = pair.parameters["airlight"], pair.parameters["transmission"]
    assert 0.3 <= airlight.min() < 0.35
    assert 0.85 < airlight.max() <= 0.9
    mean = transmission.mean((1, 2, 3))
    assert 0.35 < mean.min() < 0.5
    assert 0.85 < mean.max() < 0.97
    veil = (1 - transmission) * airlight[:, None, None, None]
    assert (pair.noise >= veil - 1e-6).all()
    assert (pair.noise - veil).mean() > 0.01


def test_seen_rain_is_gray_or_slightly_blue():
    colour = SeenRain()(torch.zeros((200, 3, 4, 4)), state()).parameters["colour"]
    assert (colour[:, 2] >= colour[:, 1]).all()
    assert (colour[:, 1] >= colour[:, 0]).all()
    assert (colour[:, 0] >= 0.87 * colour[:, 2]).all()
    assert 0.5 < colour.min() < colour.max() <= 1
