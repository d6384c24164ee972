"""Numbers that users see: likeness to the training data, conservation, estimates."""

import time

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image

from napari_dmgn import api, samples, zoo
from napari_dmgn.plugin import conservation, estimate, likeness
from napari_dmgn.plugin.source import capture


def notes_of(image, *, rgb=True):
    return " ".join(likeness.notes(likeness.measure(image, rgb=rgb)))


def test_what_the_models_are_for_is_not_remarked():
    makers = (samples.rainy_sample, samples.hazy_sample, samples.reflection_sample)
    for name in samples.sample_names():
        for make in makers:
            assert notes_of(make(name).input) == "", (name, make)
        assert notes_of(samples.rainy_sample(name, strength="heavy").input) == "", name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda photo: photo // 20, "very dark"),
        (lambda photo: 255 - (255 - photo) // 30, "very bright"),
        (lambda photo: 100 + photo // 10, "little of the intensity range"),
        (lambda photo: np.where(photo > 128, 255, 0), "black or white"),
        (
            lambda photo: np.clip(photo + np.random.default_rng(0).normal(0, 30, photo.shape), 0, 255),
            "noisy (standard deviation 1",
        ),
        (lambda photo: photo[:20, :30], "only 20 pixels wide or high"),
    ],
)
def test_what_is_unlike_photographs_is_said(change, words):
    photo = samples.clean_sample("chelsea").astype(int)
    assert words in notes_of(change(photo).astype(np.uint8))
    sentence = likeness.sentence(likeness.notes(likeness.measure(change(photo).astype(np.uint8), rgb=True)))
    assert sentence.startswith("Unlike the pictures")


def signs(layer, card):
    return likeness.microscopy(
        layer.data.shape,
        layer.data.dtype,
        rgb=layer.rgb,
        units=layer.units,
        not_trained_for=likeness.excluded(card),
    )


def test_microscopy_is_said_of_models_that_exclude_it():
    cells = samples.striped_cells().input
    assert likeness.notes(likeness.measure(cells, rgb=False)) == []  # by its pixels it is well exposed
    layer = Image(cells, scale=(2, 0.5, 0.5), units=("um",) * 3)
    card = zoo.find_model("rain").card
    (text,) = signs(layer, card)
    assert text == (
        "it looks like microscopy (one channel, more than 8 bits, a stack, pixels in micrometers), "
        "and the model is not trained for microscopy images (fine-tune first)"
    )
    assert signs(Image(cells), card)  # files often have no units
    assert signs(Image(np.zeros((9, 9, 3), np.uint8), rgb=True, units=("nm", "nm")), card)
    for other in ({}, {"not_trained_for": "snow"}, {"not_trained_for": ["snow", 3]}, {"not_trained_for": 7}):
        assert signs(layer, other) == []
    assert signs(layer, {"not_trained_for": "Microscopy"})


def test_gray_photographs_are_no_microscopy():
    card = {"not_trained_for": ["microscopy images"]}
    gray = samples.clean_sample("chelsea").mean(axis=-1) / 3
    small = gray.astype(np.uint8)
    for photo in (small, gray / 255, (gray * 257).astype(np.uint16), np.stack([small] * 5)):
        assert signs(Image(photo), card) == []
    assert signs(Image(small, scale=(0.5, 0.5), units=("mm", "mm")), card) == []
    assert signs(Image(np.zeros((4, 9, 9, 3), np.float32), rgb=True), card) == []


@pytest.mark.parametrize(("shape", "dtype"), [((2048, 2048, 3), np.uint8), ((2048, 2048), np.float64)])
def test_a_look_at_four_megapixels_is_quick(shape, dtype):
    picture = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    taken = []
    for _ in range(5):
        started = time.thread_time()  # whatever else the machine does meanwhile
        likeness.measure(picture, rgb=len(shape) == 3)
        taken.append(time.thread_time() - started)
    assert min(taken) < 0.02


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_measured(sigma):
    flat = 0.5 + np.random.default_rng(0).normal(0, sigma, (256, 256))
    found = likeness.measure(flat, rgb=False, limits=(0, 1)).noise
    assert found == pytest.approx(sigma, rel=0.05)


def test_sum_of_the_parts_leaves_no_rest():
    rng = np.random.default_rng(0)
    background, noise = rng.integers(0, 100, (2, 8, 9, 3)), rng.integers(0, 100, (2, 8, 9, 3)).astype(np.float32)
    image = (background + noise).astype(np.uint8)
    left = conservation.residual(image, background.astype(np.uint8), noise, rgb=True)
    assert not left.any()
    frames = zip(image[:, None], background[:, None], noise[:, None], strict=True)
    balances = [conservation.balance(*frame, rgb=True) for frame in frames]
    found = conservation.conservation(balances, 255)
    assert found["mean_input"] == pytest.approx(image.mean())
    assert found["mean_input"] == pytest.approx(found["mean_background"] + found["mean_noise"])
    assert found["largest_residual"] == found["mean_absolute_residual"] == 0


@pytest.mark.parametrize("rgb", [False, True])
def test_blocks_of_rows_are_the_whole(rgb, monkeypatch):
    shape = (2, 3, 10, 7, 4) if rgb else (2, 3, 10, 7)
    rng = np.random.default_rng(1)
    image, background = rng.integers(0, 2**32 - 1, (2, *shape), np.uint32)
    noise = rng.normal(0, 9, (*shape[:-1], 3) if rgb else shape).astype(np.float32)
    monkeypatch.setattr(conservation, "_BLOCK", 4 * 7)
    left = conservation.residual(image, background, noise, rgb=rgb)
    colours = slice(None, 3) if rgb else slice(None)
    expected = image[..., colours].astype(float) - background[..., colours] - noise
    expected = (expected.mean(axis=-1) if rgb else expected).astype(np.float32)
    np.testing.assert_array_equal(left, expected)
    found = conservation.balance(image, background, noise, rgb=rgb)
    assert found == conservation.balance(image, background, noise, rgb=rgb, left=left)
    assert found["values"] == expected.size
    assert found["input"] == pytest.approx(image[..., colours].mean() * expected.size)
    assert found["noise"] == pytest.approx(noise.mean(dtype=float) * expected.size)
    assert found["absolute"] == pytest.approx(np.abs(expected).sum(dtype=float))
    assert found["largest"] == np.abs(expected).max()


def test_rest_is_found_where_values_would_wrap():
    image, background = np.zeros((4, 5), np.uint8), np.full((4, 5), 10, np.uint8)
    left = conservation.residual(image, background, np.zeros((4, 5), np.float32), rgb=False)
    np.testing.assert_array_equal(left, -10)
    found = conservation.conservation([conservation.balance(image, background, np.zeros((4, 5)), rgb=False)], 100)
    assert found["residual_share"] == pytest.approx(0.1)
    assert "background 10" in conservation.sentence(found)
    assert "10.0% of the range" in conservation.sentence(found)


def test_nan_count_as_nothing_in_the_balance():
    image = np.array([[np.nan, 1.0]])
    assert not conservation.residual(image, image, np.zeros((1, 2), np.float32), rgb=False).any()
    found = conservation.conservation([conservation.balance(image, image, np.zeros((1, 2)), rgb=False)], 1)
    assert found["mean_input"] == 0.5
    assert found["largest_residual"] == 0


def test_pace_is_measured_kept_and_used(tiny_checkpoint):
    source = capture(Image(np.zeros((4, 1000, 1000), np.uint8), contrast_limits=(0, 1)))
    outputs = ("background", "noise", "noise_map")
    unknown = estimate.estimate(source, outputs, np.dtype(np.uint8), estimate.pace(tiny_checkpoint, "auto", "auto"))
    assert unknown.seconds is None
    assert "not known yet" in unknown.sentence()
    assert unknown.memory >= 4 * 10**6 * (1 + 4 + 4)
    pace = estimate.measure(tiny_checkpoint, "cpu", "float32")
    assert estimate.pace(tiny_checkpoint, "cpu", "float32") == pace
    assert estimate.pace(tiny_checkpoint, "auto", "auto") is None
    known = estimate.estimate(source, outputs, np.dtype(np.uint8), pace)
    assert known.seconds == pytest.approx(4 * pace.seconds)
    assert known.memory > unknown.memory
    estimate.speed_file().write_text("torn {")
    assert estimate.pace(tiny_checkpoint, "cpu", "float32") is None


def test_estimate_of_a_working_size(tiny_checkpoint):
    source = capture(Image(np.zeros((2000, 3000), np.uint8), contrast_limits=(0, 1)))
    asked = (tiny_checkpoint, "cpu", "float32")
    assert estimate.pace(*asked, 4) is None
    report = {"device": "cpu", "precision": "float32", "windows": 1, "fallbacks": []}
    estimate.remember(*asked, {**report, "seconds": 8.0}, 10**6)
    full = estimate.pace(*asked)
    estimates = [
        estimate.estimate(source, (), np.dtype(np.uint8), estimate.pace(*asked, factor), factor)
        for factor in (1, 2, 4, 8)
    ]
    seconds = [found.seconds for found in estimates]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == pytest.approx(48)
    assert all(48 / k**2 < s < 48 / k**2 + 6 for k, s in zip((2, 4, 8), seconds[1:], strict=True))
    # What was measured at a working size counts there, and there only; what is small for the network says nothing.
    estimate.remember(*asked, {**report, "seconds": 9.0, "downscale": 4}, 10**6)
    assert estimate.pace(*asked, 4).seconds < 1
    estimate.remember(*asked, {**report, "seconds": 9.0, "downscale": 4}, 6 * 10**6)
    assert estimate.pace(*asked, 4).seconds == pytest.approx(1.5)
    assert estimate.pace(*asked) == full


def test_estimate_of_a_mirrored_view(tiny_checkpoint):
    source = capture(Image(np.zeros((1000, 1000), np.uint8), contrast_limits=(0, 1)))
    asked = (tiny_checkpoint, "cpu", "float32")
    assert estimate.pace(*asked, ensemble=True) is None
    report = {"device": "cpu", "precision": "float32", "windows": 1, "fallbacks": [], "ensemble": False}
    estimate.remember(*asked, {**report, "seconds": 2.0}, 10**6)
    assert estimate.pace(*asked, ensemble=True).seconds == pytest.approx(4)
    # At a working size the network's part is done twice, and carried back once.
    assert estimate.pace(*asked, 2).seconds == pytest.approx(0.5 + 0.3)
    assert estimate.pace(*asked, 2, ensemble=True).seconds == pytest.approx(2 * 0.5 + 0.3)
    one, two = (estimate.estimate(source, (), np.dtype(np.uint8), None, ensemble=both).memory for both in (False, True))
    assert two - one == 40 * 10**6
    # What was measured of two views counts for them only.
    estimate.remember(*asked, {**report, "seconds": 5.0, "ensemble": True}, 10**6)
    assert estimate.pace(*asked, ensemble=True).seconds == pytest.approx(5)
    assert estimate.pace(*asked).seconds == pytest.approx(2)


def test_less_memory_at_a_working_size():
    source = capture(Image(np.zeros((2000, 3000), np.uint8), contrast_limits=(0, 1)))
    known = estimate.Pace(seconds=1, device="cpu", precision="float32", bytes_per_pixel=280, strip_pixels=10**7)
    memory = [estimate.estimate(source, (), np.dtype(np.uint8), known, factor).memory for factor in (1, 2, 3, 8)]
    assert memory == sorted(memory, reverse=True)
    assert memory[0] - memory[1] > 6 * 10**6 * 280 / 2


@pytest.mark.parametrize("shape", [(96, 128), (2, 130, 79), (20, 300), (130, 100, 3)])
@pytest.mark.parametrize("downscale", ["auto", 1, 3])
def test_estimates_reckon_with_the_factor_that_a_run_takes(small_sighted, shape, downscale):
    image = np.zeros(shape, np.uint8)
    rgb = shape[-1] == 3
    source = capture(Image(image, rgb=rgb, contrast_limits=(0, 1)))
    card = zoo.find_model(small_sighted).card
    run = api.restore(image, "haze", model=small_sighted, rgb=rgb, device="cpu", downscale=downscale)
    assert estimate.working_factor(downscale, card, source) == run.provenance["downscale"]


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_in_words(seconds, words):
    assert estimate.duration(seconds) == words
