"""A large image restored from a smaller copy keeps its own edges, and meets the network's answer at the copy's size."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import napari_dmgn as dmgn
from napari_dmgn import checkpoint
from napari_dmgn.cli import main
from napari_dmgn.evaluation import clean_set, iter_evaluate, method_of_model
from napari_dmgn.inference import Planes, Step, iter_infer_reduced, reduced
from napari_dmgn.model.cost import cost
from napari_dmgn.model.descriptor import Metadata, Model
from napari_dmgn.tiling import downscale_factor

EXACT = {"device": "cpu", "precision": "float32"}
RESULTS = ("background", "coarse", "noise", "noise_map")


@pytest.fixture(scope="module")
def model(tiny_network):
    return Model(tiny_network, Metadata(name="tiny", task="haze", card={"working_side": 40}, sha256=""))


@pytest.fixture
def batch():
    picture = data.astronaut()[60:247, 150:353] / np.float32(255)
    return np.stack([picture, picture[::-1]]).transpose(0, 3, 1, 2).copy()


def run(model, batch, downscale, **options):
    *steps, result = iter_infer_reduced(model, batch, downscale=downscale, **EXACT, **options)
    assert isinstance(result, Planes)
    assert all(isinstance(step, Step) for step in steps)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    return result


def answering(monkeypatch, answer, coarse=None):
    """Let the network answer with functions of the smaller copy; the second is of the coarse image, if it differs."""

    def infer(model, batch, **engine):
        yield Step(done=1, total=1)
        results = {"background": answer(batch), "coarse": (coarse or answer)(batch), "noise": batch - 0.3}
        results["noise_map"] = batch[:, 1]
        yield Planes(**{k: v.astype(np.float32) for k, v in results.items()}, masks=None, report={"seen": batch.shape})

    monkeypatch.setattr(reduced, "iter_infer", infer)


def means(images, factor):
    """Block means of sides that the factor need not divide, by definition."""
    h, w = images.shape[-2:]
    rows, columns = range(0, h, factor), range(0, w, factor)
    blocks = [[images[..., r : r + factor, c : c + factor].mean((-2, -1)) for c in columns] for r in rows]
    return np.moveaxis(np.array(blocks), (0, 1), (-2, -1))


def test_the_network_sees_means_of_blocks(monkeypatch, model, batch):
    seen = []
    answering(monkeypatch, lambda copy: seen.append(copy) or copy)
    run(model, batch, 4)
    np.testing.assert_allclose(seen[0], means(batch, 4), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_affine_answers_are_those_of_every_pixel(monkeypatch, model, batch, factor):
    answering(monkeypatch, lambda copy: 0.6 * copy + 0.2, lambda copy: 0.8 * copy)
    found = run(model, batch, factor)
    for image, wanted in ((found.background, 0.6 * batch + 0.2), (found.coarse, 0.8 * batch)):
        # Where a picture is all but even, the scale is drawn towards 1: there is little to scale.
        assert np.abs(image - wanted).max() < 0.05
        assert np.abs(image - wanted).mean() < 0.003


def test_the_scale_is_that_of_a_neighbourhood(model):
    """By the formula of the guided filter, at one pixel."""
    rng = np.random.default_rng(3)
    guide, target = rng.random((2, 1, 1, 40, 40))

    def at(y, x):
        g, t = (image[..., y - 4 : y + 5, x - 4 : x + 5] for image in (guide, target))
        covariance = (g * t).mean() - g.mean() * t.mean()
        return (covariance + 3e-5) / (g.var() + 3e-5)

    wanted = np.mean([at(y, x) for y in range(16, 25) for x in range(16, 25)])
    scale, shift = reduced._affine(torch.from_numpy(guide), torch.from_numpy(target))
    assert float(scale[0, 0, 20, 20]) == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_allclose(scale * torch.from_numpy(guide) + shift, target)


@pytest.mark.parametrize("factor", [2, 7, 300, 10**12])
def test_an_untouched_image_stays_as_it_is(monkeypatch, model, batch, factor):
    answering(monkeypatch, lambda copy: copy)
    found = run(model, batch, factor)
    np.testing.assert_allclose(found.background, batch, atol=2e-6)
    blocks = -(-187 // factor), -(-203 // factor)
    assert found.report["seen"] == (2, 3, *blocks)


def test_noise_and_its_map_are_enlarged_smoothly(monkeypatch, model):
    ramp = (
        np.broadcast_to(np.linspace(0, 1, 90, dtype=np.float32), (1, 3, 60, 90))
        * np.float32([1, 0.5, 0.2])[:, None, None]
    )
    answering(monkeypatch, lambda copy: copy)
    found = run(model, ramp, 3)
    inside = np.s_[..., 3:-3]
    np.testing.assert_allclose(found.noise[inside], (ramp - 0.3)[inside], atol=1e-6)
    np.testing.assert_allclose(found.noise_map[inside], ramp[:, 1][inside], atol=1e-6)


def test_results_stay_in_the_range(monkeypatch, model, batch):
    answering(monkeypatch, lambda copy: np.clip(3 * copy - 1, 0, 1))
    found = run(model, batch, 3).background
    assert (found.min(), found.max()) == (0, 1)


def test_a_run_that_is_stopped_closes_the_networks(monkeypatch, model, batch):
    closed = []

    def infer(model, batch, **engine):
        try:
            yield Step(done=1, total=2)
            yield Step(done=2, total=2)
        finally:
            closed.append(True)

    monkeypatch.setattr(reduced, "iter_infer", infer)
    steps = iter_infer_reduced(model, batch, downscale=2, **EXACT)
    next(steps)
    steps.close()
    assert closed == [True]


def test_at_the_size_of_the_copy_the_result_is_the_networks(monkeypatch, model, batch):
    def thicker_to_the_right(copy):
        clear = np.linspace(1, 0.4, copy.shape[-1])
        return copy * clear + 0.5 * (1 - clear)

    answering(monkeypatch, thicker_to_the_right)
    copy = means(batch, 3)
    wanted, inside = thicker_to_the_right(copy), np.s_[..., 1:-1, 1:-1]
    large = run(model, batch, 3)
    for name in RESULTS[:2]:
        off = np.abs(means(getattr(large, name), 3) - wanted)[inside]
        assert off.max() < 0.02
        assert off.mean() < 0.01 * np.abs(copy - wanted)[inside].mean()


def test_edges_are_sharper_than_enlarged_ones(monkeypatch, model):
    step = np.zeros((1, 3, 64, 64), np.float32) + 0.3
    step[..., 30:] = 0.7  # not at the border of a block
    answering(monkeypatch, lambda copy: (copy - 0.3) * 2)
    found = run(model, step, 4).background
    slopes = np.diff(found[0, 0, 32])
    assert slopes.argmax() == 29
    assert slopes.max() > 0.7


@pytest.mark.parametrize("factor", [2, 3])
def test_strips_make_no_difference(monkeypatch, model, batch, factor):
    wanted = run(model, batch, factor, masks=True)
    monkeypatch.setattr(reduced, "_STRIP_PIXELS", 2 * 203 * factor * 2)
    kept = []
    found = run(model, batch, factor, masks=True)
    for name in RESULTS:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-5)

    class Sink:
        def put(self, part):
            kept.append(part)

    empty = run(model, batch, factor, masks=True, sink=Sink())
    assert empty.background.size == 0
    assert [part.rows for part in kept][:2] == [(0, 2 * factor), (2 * factor, 4 * factor)]
    assert kept[-1].rows[1] == batch.shape[2]
    np.testing.assert_array_equal(np.concatenate([part.noise for part in kept], axis=2), found.noise)
    assert set(kept[0].masks) == set(wanted.masks)
    assert not kept[1].masks
    for name, mask in kept[0].masks.items():
        np.testing.assert_array_equal(mask.values, wanted.masks[name])


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (5, 3)])
def test_images_smaller_than_a_block(monkeypatch, model, size):
    tiny = np.random.default_rng(0).random((1, 3, *size), np.float32)
    found = run(model, tiny, 8)
    assert np.isfinite(found.background).all()
    answering(monkeypatch, lambda copy: copy)
    np.testing.assert_allclose(run(model, tiny, 8).background, tiny, atol=2e-6)


def test_the_factor_that_a_card_asks_for():
    card, shapes = {"working_side": 480}, ((100, 9000), (959, 959), (960, 2000), (3000, 4000))
    assert [downscale_factor("auto", card, shape) for shape in shapes] == [1, 1, 2, 6]
    assert [downscale_factor(7, card, shape) for shape in ((3000, 4000), (4, 5))] == [7, 5]
    for nothing in ({}, {"working_side": None}, {"working_side": True}, {"working_side": 0}, {"working_side": "480"}):
        assert downscale_factor("auto", nothing, (3000, 4000)) == 1


def test_restore_follows_the_card_unless_told(model):
    image = data.astronaut()[:90, :130]
    by_card = dmgn.restore(image, "haze", model=model, **EXACT)
    named = dmgn.restore(image, "haze", model=model, downscale=2, **EXACT)
    full = dmgn.restore(image, "haze", model=model, downscale=1, **EXACT)
    assert [r.provenance["downscale"] for r in (by_card, named, full)] == [2, 2, 1]
    np.testing.assert_array_equal(by_card.background, named.background)
    assert (by_card.background != full.background).any()
    assert by_card.background.shape == image.shape
    assert by_card.noise_map.shape == image.shape[:2]
    events = list(dmgn.iter_restore(image, "haze", model=model, downscale=2, **EXACT))
    assert [event.done for event in events[:-1]] == list(range(1, len(events)))
    assert events[-1].total == len(events) - 1


def test_pixels_that_are_no_numbers_stay(model):
    image = np.random.default_rng(0).random((40, 44), np.float32)
    image[10:13, 20] = np.nan
    restored = dmgn.restore(image, "haze", model=model, downscale=3, **EXACT)
    np.testing.assert_array_equal(np.isnan(restored.background), np.isnan(image))
    assert np.isfinite(restored.noise).all()


@pytest.mark.parametrize("wrong", [0, -2, 1.5, "half", None, True])
def test_factors_that_are_none(wrong):
    with pytest.raises(ValueError, match="downscale is 'auto' or a whole number >= 1; got"):
        dmgn.restore(np.zeros((8, 8), np.uint8), downscale=wrong)


def test_the_command_line(tmp_path, tiny_checkpoint, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(data.astronaut()[:64, :80]).save(picture)
    words = ["restore", str(picture), "--model", str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--json"]
    assert main([*words, "--downscale", "2"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["provenance"]["downscale"] == 2
    assert main([*words[:-2], str(tmp_path / "out.zarr"), "--downscale", "2"]) == 2
    assert "--downscale is for results in files" in capsys.readouterr().err
    assert main([*words, "--downscale", "0"]) == 2


def test_evaluations_take_it(tmp_path, model):
    Image.fromarray(data.astronaut()[:64, :80]).save(tmp_path / "clean.png")
    with pytest.raises(ValueError, match="downscale is 'auto' or a whole number"):
        iter_evaluate(clean_set(tmp_path, task="haze"), model, downscale=0)  # at once, not at the first picture
    for asked, seen in (("auto", 50), (np.int64(4), 25), (1, 100)):
        method = method_of_model(model, downscale=asked, **EXACT)
        assert method.facts["downscale"] == asked
        json.dumps(method.facts)
        assert method.gmac(100, 100) == pytest.approx(cost(model.config, seen, seen).macs / 1e9)
    picture = data.astronaut()[:90, :130]
    found = method_of_model(model, downscale=3, **EXACT).run(picture)
    wanted = dmgn.restore(picture, "haze", model=model, downscale=3, intensity_range="dtype", **EXACT).background
    np.testing.assert_array_equal(found, wanted)


def test_lazy_arrays_are_restored_at_full_size(model):
    da = pytest.importorskip("dask.array")
    image = data.astronaut()[:90, :130]
    lazy = dmgn.restore_lazy(da.from_array(image), "haze", model=model, tile=None, **EXACT)
    assert lazy.provenance["downscale"] == 1
    full = dmgn.restore(image, "haze", model=model, downscale=1, tile=None, **EXACT)
    np.testing.assert_array_equal(lazy.background.compute(), full.background)


def test_cards_keep_it(tmp_path, tiny_network):
    path = tmp_path / "haze.safetensors"
    checkpoint.save(path, tiny_network, task="haze", card={"name": "haze", "working_side": 32})
    restored = dmgn.restore(data.astronaut()[:70, :70], "haze", model=path, **EXACT)
    assert restored.provenance["downscale"] == 2
