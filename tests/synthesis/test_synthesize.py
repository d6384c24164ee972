"""Pairs made from arrays of every kind keep the laws of a degradation."""

import json

import numpy as np
import pytest
import torch

from napari_dmgn.synthesis import KINDS, synthesize
from napari_dmgn.synthesis.mixtures import TASK_PARTS, validation_parts
from napari_dmgn.synthesis.photographs import PHOTOGRAPHS, photograph

DTYPES = ("u1", "<u2", ">u2", "u4", "u8", "f2", "f4", ">f4", "f8")


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
    for strength in ("light", "heavy"):
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
    for strength, names in (("light", {"mean", "angle", "length", "width", "density"}), ("mixed", {"mean", "part"})):
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
        (clean("u1"), {"task": "snow"}, "no synthesis for task 'snow'; wanted one of rain, haze, reflection, stripes"),
        (clean("u1"), {"task": ["rain"]}, r"no synthesis for task \['rain'\]"),
        (clean("u1"), {"strength": ["light"]}, r"unknown strength \['light'\]"),
        (clean("u1").tolist(), {}, r"clean image is a list; wanted a NumPy array \(H, W, 3\) or \(H, W\)"),
        (None, {}, "clean image is a NoneType; wanted a NumPy array"),
        (torch.zeros(4, 4, 3), {}, "clean image is a Tensor; wanted a NumPy array"),
        (clean("u1"), {"task": "veil", "layer": torch.zeros(4, 4, 3)}, "layer is a Tensor; wanted a NumPy array"),
        (clean("u1"), {"strength": "mild"}, "unknown strength 'mild'; wanted one of light, heavy, veiled, photo, none"),
        (clean("u1"), {"task": "haze", "strength": "light"}, "unknown strength 'light'; wanted one of thin, medium"),
        (clean("u1"), {"layer": clean("u1")}, "a layer was given, which rain has no use for"),
        (clean("u1"), {"task": "veil", "layer": clean("u1", (4, 4, 4))}, r"layer has shape \(4, 4, 4\)"),
        (clean("u1"), {"task": "reflection", "layer": clean("f4") * 255}, r"layer spans .* wanted \[0, 1\]"),
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


def test_the_kinds_are_those_that_have_parts():
    assert list(TASK_PARTS) == list(KINDS)


@pytest.mark.parametrize("task", KINDS)
def test_every_part_changes_arrays_of_every_shape(task):
    for shape in ((24, 30, 3), (24, 30), (1, 1, 3)):
        image = clean("<u2", shape)
        kept = image.copy()
        image.flags.writeable = False
        for part in validation_parts(task):
            pair = synthesize(image, task, strength=part, seed=4)
            assert pair.parameters["part"] == pair.parameters["strength"] == part
            assert json.loads(json.dumps(pair.parameters)) == pair.parameters
            for layer in (pair.input, pair.noise):
                assert (layer.dtype, layer.shape) == (image.dtype, shape)
            assert np.array_equal(pair.background, kept)
            if shape != (1, 1, 3):
                assert not np.array_equal(pair.input, image)
                assert pair.noise.any()
        untouched = synthesize(image, task, strength="none")
        assert np.array_equal(untouched.input, image)
        assert not untouched.noise.any()


@pytest.mark.parametrize("task", KINDS)
def test_mixed_draws_every_part_and_is_that_part(task):
    image = clean("f4", (6, 8, 3))
    pairs = [synthesize(image, task, seed=seed) for seed in range(60)]
    assert {p.parameters["part"] for p in pairs} == set(validation_parts(task))
    assert all(p.parameters["strength"] == "mixed" for p in pairs)
    assert np.array_equal(pairs[7].input, synthesize(image, task, seed=7).input)


def test_a_reflection_is_a_photograph_of_the_seed_but_never_the_image_itself():
    seen = set()
    for seed in range(4):
        pair = synthesize(np.zeros((64, 64, 3), np.uint8), "reflection", seed=seed, strength="sharp")
        given = [
            synthesize(pair.background, "reflection", seed=seed, strength="sharp", layer=photograph(n)[:, ::-1])
            for n in PHOTOGRAPHS
        ]
        same = [np.array_equal(pair.input, g.input) for g in given]
        assert sum(same) == 1
        assert pair.parameters["layer"] == PHOTOGRAPHS[same.index(True)]
        seen.add(same.index(True))
    assert seen == {0, 1, 2, 3}
    for seed, name in enumerate(PHOTOGRAPHS):
        itself = photograph(name)
        pair = synthesize(itself, "reflection", seed=seed, strength="sharp")
        other = synthesize(itself, "reflection", seed=seed, strength="sharp", layer=itself[:, ::-1])
        assert not np.array_equal(pair.input, other.input)


@pytest.mark.parametrize("shape", [(10, 14, 3), (300, 40, 3), (31, 200), (64, 48, 3)])
def test_a_layer_of_any_size_covers_the_image(shape):
    """Bright to the border wherever the reflection is."""
    dark = np.zeros((64, 48, 3), np.float32)
    pair = synthesize(dark, "reflection", strength="gamma", layer=np.full(shape, 0.5))
    np.testing.assert_allclose(pair.noise, 0.5, atol=1e-5)


def test_a_layer_is_neither_stretched_nor_shifted():
    """A wide layer is cut at both sides: its middle stays in the middle."""
    layer = np.zeros((32, 96, 3), np.float32)
    layer[14:18, 46:50] = 1
    noise = synthesize(np.zeros((64, 64, 3), np.float32), "reflection", strength="sharp", layer=layer).noise[..., 0]
    rows, columns = np.nonzero(noise > 0.5 * noise.max())
    assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 31.5), abs=0.6)
    assert np.ptp(rows) == np.ptp(columns) == pytest.approx(7, abs=1)


def test_a_gray_image_gets_a_gray_layer():
    pair = synthesize(np.zeros((32, 32)), "reflection", strength="gamma", layer=photograph("chelsea"))
    assert pair.noise.shape == (32, 32)
    assert pair.noise.std() > 0.01


def test_the_program_drops_alpha_and_goes_on_after_a_bad_file(tmp_path, capsys):
    from napari_dmgn.cli import main
    from napari_dmgn.files import read_image, write_image

    folder, out = tmp_path / "clean", tmp_path / "out"
    folder.mkdir()
    colours = clean("u1", (24, 30, 3))
    write_image(folder / "a.png", np.dstack([colours, np.full((24, 30), 99, np.uint8)]))
    write_image(folder / "b.tif", np.dstack([colours, np.full((24, 30), 99, np.uint8)]), rgb=True)
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    write_image(folder / "d.tif", clean("u2", (5, 24, 30)))
    write_image(folder / "e.tif", np.full((24, 30), 7.5, np.float32))
    write_image(folder / "f.png", colours)
    assert main(["synthesize", str(folder), "-o", str(out), "--json"]) == 1
    printed = capsys.readouterr()
    reports = json.loads(printed.out)
    assert [("error" in report) for report in reports] == [False, False, True, True, True, False]
    lines = printed.err.splitlines()
    assert len(lines) == 3
    for line, said in zip(
        lines,
        ("c.png': a broken PNG", "d.tif is a stack of shape (5, 24, 30); wanted one", "e.tif: clean image spans"),
        strict=True,
    ):
        assert line.startswith("napari-dmgn: error: ")
        assert said in line
    for name in ("a_background.png", "b_background.tif", "f_background.png"):
        np.testing.assert_array_equal(read_image(out / name).array, colours)
    # A file's pair does not depend on those that failed before it.
    (report,) = (r for r in reports if r["input"].endswith("f.png"))
    pair = synthesize(colours, seed=report["seed"])
    np.testing.assert_array_equal(read_image(out / "f_input.png").array, pair.input)
    layer = ["--task", "veil", "--layer", str(folder / "d.tif")]
    assert main(["synthesize", str(folder / "f.png"), "-o", str(tmp_path / "more"), *layer]) == 1
    assert "d.tif is a stack" in capsys.readouterr().err


def test_seeds_are_whole_numbers_of_any_kind():
    image = clean("u1")
    wanted = synthesize(image, seed=3)
    for seed in (np.int64(3), np.uint8(3)):
        pair = synthesize(image, seed=seed)
        assert np.array_equal(pair.input, wanted.input)
        assert pair.parameters == json.loads(json.dumps(pair.parameters)) == wanted.parameters
    for seed in (None, 1.5, "a", True, 2**64, -(2**63) - 1, np.bool_(True), [3]):
        with pytest.raises(ValueError, match=r"seed is .*; wanted an integer from -2\*\*63 to 2\*\*64 - 1"):
            synthesize(image, seed=seed)
    for seed in (2**64 - 1, -(2**63)):
        assert synthesize(image, seed=seed).parameters["seed"] == seed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 30)])
def test_none_leaves_every_digit(dtype, shape):
    image = np.random.default_rng(1).random(shape)
    if np.dtype(dtype).kind == "u":
        image *= np.iinfo(dtype).max
    image = image.astype(dtype)
    pair = synthesize(image, strength="none")
    for layer in (pair.input, pair.background):
        assert layer.dtype == image.dtype
        assert np.array_equal(layer, image)
        assert not np.shares_memory(layer, image)
    assert not pair.noise.any()


@pytest.fixture
def other_defaults():
    """Set torch's global defaults, and put the usual ones back."""

    def use(dtype, device):
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)

    yield use
    use(torch.float32, None)


@pytest.mark.parametrize("task", KINDS)
def test_torchs_defaults_change_no_pair(task, other_defaults):
    image = clean("f4", (40, 50, 3))
    parts = [*validation_parts(task), "none", "mixed"]
    wanted = [synthesize(image, task, strength=part, seed=3) for part in parts]
    for dtype, device in ((torch.float64, None), (torch.float32, "meta"), (torch.bfloat16, "meta")):
        other_defaults(dtype, device)
        for part, pair in zip(parts, wanted, strict=True):
            found = synthesize(image, task, strength=part, seed=3)
            assert np.array_equal(found.input, pair.input), (part, dtype, device)
            assert np.array_equal(found.noise, pair.noise)
            assert found.parameters == pair.parameters
