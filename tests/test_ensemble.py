"""Two views of an image are restored and joined: their mean is of the image's own pixels, at any size."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

import napari_dmgn as dmgn
from napari_dmgn import checkpoint
from napari_dmgn.cli import main
from napari_dmgn.evaluation import clean_set, iter_evaluate, method_of_model
from napari_dmgn.inference import Planes, Step, ensemble, iter_infer, iter_infer_ensemble
from napari_dmgn.model.cost import cost
from napari_dmgn.model.descriptor import Metadata, Model
from napari_dmgn.tiling import ensemble_factor
from napari_dmgn.training import TrainConfig

EXACT = {"device": "cpu", "precision": "float32"}
RESULTS = ("background", "coarse", "noise", "noise_map")


@pytest.fixture(scope="module")
def model(tiny_network):
    return Model(
        tiny_network, Metadata(name="tiny", task="haze", card={"ensemble": 1.5, "working_side": 40}, sha256="")
    )


@pytest.fixture
def batch():
    picture = data.astronaut()[60:127, 150:241] / np.float32(255)
    return np.stack([picture, picture[::-1]]).transpose(0, 3, 1, 2).copy()


def run(model, batch, enlarged, **options):
    *steps, result = iter_infer_ensemble(model, batch, enlarged=enlarged, **EXACT, **options)
    assert isinstance(result, Planes)
    assert all(isinstance(step, Step) for step in steps)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    return result


def once(model, batch, **options):
    *_, planes = iter_infer(model, batch, **EXACT, **options)
    return planes


def answering(monkeypatch, answer):
    """Let the network answer with a function of what it sees, as background and coarse."""
    seen = []

    def infer(model, batch, **engine):
        seen.append(batch)
        yield Step(done=1, total=2)
        yield Step(done=2, total=2)
        image = answer(batch).astype(np.float32)
        report = {"windows": 1, "fallbacks": [f"{batch.shape[-1]}"], "halo_error": 1 / batch.shape[-1]}
        yield Planes(
            background=image, coarse=image / 2, noise=batch - image, noise_map=image[:, 0], masks=None, report=report
        )

    monkeypatch.setattr(ensemble, "iter_infer", infer)
    return seen


def test_of_a_mirrored_copy_it_is_the_mean(model, batch):
    plain, mirrored = once(model, batch), once(model, batch[..., ::-1].copy())
    found = run(model, batch, 1.0)
    for name in RESULTS:
        first, second = getattr(plain, name), getattr(mirrored, name)[..., ::-1]
        np.testing.assert_allclose(getattr(found, name), (first + second) / 2, atol=1e-5)
        assert np.abs(first - second).max() > 1e-3


def test_of_an_enlarged_copy_it_is_the_mean_of_the_changes(model, batch):
    larger = round(67 * 1.5), round(91 * 1.5)
    image = torch.from_numpy(batch)
    copy = F.interpolate(image, larger, mode="bicubic", align_corners=False).clamp(0, 1).flip(-1)
    plain, other = once(model, batch), once(model, copy.numpy())
    found = run(model, batch, 1.5)
    change = F.interpolate(torch.from_numpy(other.background) - copy, (67, 91), mode="bilinear", antialias=True).flip(
        -1
    )
    wanted = np.clip((plain.background + batch + change.numpy()) / 2, 0, 1)
    np.testing.assert_allclose(found.background, wanted, atol=1e-5)
    assert np.abs(wanted - plain.background).max() > 1e-3


@pytest.mark.parametrize("enlarged", [1.0, 1.25, 2.0])
def test_an_image_that_is_left_alone_stays_bit_for_bit(monkeypatch, model, batch, enlarged):
    seen = answering(monkeypatch, lambda image: image)
    found = run(model, batch, enlarged)
    np.testing.assert_array_equal(found.background, batch)
    assert not found.noise.any()
    assert [image.shape[-2:] for image in seen] == [(67, 91), (round(67 * enlarged), round(91 * enlarged))]
    assert all(image.min() >= 0 and image.max() <= 1 for image in seen)


def test_views_are_carried_back_to_their_places(monkeypatch, model):
    """What is darker at the upper right is so in the mean of both, at the same height."""
    image = np.full((1, 3, 40, 60), 0.5, np.float32)
    image[..., :10, 40:] = 0.9
    answering(monkeypatch, lambda seen: np.where(seen > 0.7, 0.5, seen))
    found = run(model, image, 1.5)
    assert np.abs(found.background[..., 2:8, 43:] - 0.5).max() < 1e-3
    assert np.abs(found.background[..., 12:, :] - 0.5).max() < 1e-3
    np.testing.assert_allclose(found.noise[..., 2:8, 43:], 0.4, atol=1e-3)
    assert np.abs(found.noise[..., :, :38]).max() < 1e-3


def test_the_report_is_of_both_views(monkeypatch, model, batch):
    answering(monkeypatch, lambda image: image)
    report = run(model, batch, 2.0).report
    assert report == {"windows": 2, "fallbacks": ["91", "182"], "halo_error": 1 / 91}


def test_memory_that_ran_out_is_told_as_such(monkeypatch, model, batch):
    answering(monkeypatch, lambda image: image)

    def failing(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(ensemble, "_changes", failing)
    with pytest.raises(
        MemoryError, match=r"out of memory with two views of 91x67 pixels; one takes less: \[enforce fail"
    ):
        run(model, batch, 1.5)


def test_a_sink_gets_every_pixel_once_in_strips(monkeypatch, model, batch):
    monkeypatch.setattr(ensemble, "_PUT_PIXELS", 2 * 91 * 20)
    parts = []

    class Taker:
        def put(self, part):
            parts.append(part)

    whole = run(model, batch, 1.5, masks=True)
    run(model, batch, 1.5, masks=True, sink=Taker())
    assert [part.rows for part in parts] == [(0, 20), (20, 40), (40, 60), (60, 67)]
    assert {part.columns for part in parts} == {(0, 91)}
    for name in RESULTS:
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts], axis=-2), getattr(whole, name))
    assert [bool(part.masks) for part in parts] == [True, False, False, False]
    for name, mask in parts[0].masks.items():
        np.testing.assert_array_equal(mask.values, whole.masks[name])


def test_masks_are_those_of_the_image_as_it_is(model, batch):
    found, plain = run(model, batch, 1.5, masks=True), once(model, batch, masks=True)
    assert found.masks.keys() == plain.masks.keys()
    for name, mask in plain.masks.items():
        np.testing.assert_array_equal(found.masks[name], mask)
    assert run(model, batch, 1.5).masks is None


def test_a_run_that_is_stopped_closes_the_networks(monkeypatch, model, batch):
    closed = []

    def infer(model, batch, **engine):
        try:
            yield Step(done=1, total=2)
        finally:
            closed.append(True)

    monkeypatch.setattr(ensemble, "iter_infer", infer)
    steps = iter_infer_ensemble(model, batch, enlarged=1.5, **EXACT)
    next(steps)
    steps.close()
    assert closed == [True]


def test_the_factor_that_a_card_asks_for():
    seen = (2048, 2048)
    assert [ensemble_factor(asked, {"ensemble": 2}, seen) for asked in ("auto", True, False)] == [2.0, 2.0, None]
    # Of more pixels there are two views only where they are asked for.
    assert [ensemble_factor(asked, {"ensemble": 2}, (2048, 2049)) for asked in ("auto", True)] == [None, 2.0]
    for nothing in ({}, {"ensemble": None}, {"ensemble": True}, {"ensemble": 0.5}, {"ensemble": 5}, {"ensemble": "2"}):
        assert [ensemble_factor(asked, nothing, seen) for asked in ("auto", True, False)] == [None, 1.0, None]


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("tile", ["auto", None, 16])
def test_restore_follows_the_card_unless_told(model, downscale, tile):
    image = data.astronaut()[:70, :61]
    settings = {"model": model, "downscale": downscale, "tile": tile, **EXACT}
    by_card = dmgn.restore(image, "haze", **settings)
    named = dmgn.restore(image, "haze", ensemble=True, **settings)
    single = dmgn.restore(image, "haze", ensemble=np.bool_(False), **settings)
    assert [r.provenance["ensemble"] for r in (by_card, named, single)] == [1.5, 1.5, False]
    assert {r.provenance["downscale"] for r in (by_card, named, single)} == {downscale}
    json.dumps(by_card.provenance)
    np.testing.assert_array_equal(by_card.background, named.background)
    assert (by_card.background != single.background).any()
    assert by_card.provenance["windows"] > single.provenance["windows"]
    events = list(dmgn.iter_restore(image, "haze", **settings))
    assert [event.done for event in events[:-1]] == list(range(1, len(events)))
    assert events[-1].total == len(events) - 1
    if tile == 16:  # exact windows are those of the whole
        whole = dmgn.restore(image, "haze", **settings | {"tile": None})
        np.testing.assert_allclose(by_card.noise, whole.noise, atol=2e-2)


def test_stacks_and_pixels_that_are_no_numbers(model):
    stack = np.random.default_rng(0).random((3, 40, 44), np.float32)
    stack[1, 10:13, 20] = np.nan
    restored = dmgn.restore(stack, "haze", model=model, **EXACT)
    np.testing.assert_array_equal(np.isnan(restored.background), np.isnan(stack))
    assert np.isfinite(restored.noise).all()
    for frame in (1, 2):
        alone = dmgn.restore(stack[frame], "haze", model=model, **EXACT)
        np.testing.assert_allclose(restored.background[frame], alone.background, atol=1e-5)


@pytest.mark.parametrize("wrong", [1, 1.5, "on", None])
def test_what_it_is_not(wrong):
    with pytest.raises(ValueError, match="ensemble is 'auto', True or False; got"):
        dmgn.restore(np.zeros((8, 8), np.uint8), ensemble=wrong)


@pytest.mark.parametrize("wrong", [0.5, 5, "2", True])
def test_a_card_with_another_factor_is_refused_before_the_training(wrong):
    with pytest.raises(ValueError, match="ensemble of the card is"):
        TrainConfig(data="x", card={"ensemble": wrong})
    assert TrainConfig(data="x", card={"ensemble": 1.5}).card["ensemble"] == 1.5


def test_the_command_line(tmp_path, tiny_checkpoint, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(data.astronaut()[:64, :80]).save(picture)
    words = ["restore", str(picture), "--model", str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--json"]
    for word, wanted in (("on", 1.0), ("off", False), ("auto", False)):
        assert main([*words, "--overwrite", "--ensemble", word]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        assert report["provenance"]["ensemble"] == wanted
    assert main([*words[:-2], str(tmp_path / "out.zarr"), "--ensemble", "on"]) == 2
    assert "--ensemble is for results in files" in capsys.readouterr().err
    assert main([*words, "--ensemble", "twice"]) == 2
    assert "'twice' is neither auto, on nor off" in capsys.readouterr().err
    measured = ["benchmark", "--model", str(tiny_checkpoint), "--size", "32x32", "--repeat", "1"]
    assert main(measured) == 0
    assert "copy" not in capsys.readouterr().out
    assert main([*measured, "--ensemble", "on"]) == 0
    assert "and a mirrored copy\n" in capsys.readouterr().out


def test_evaluations_take_it(tmp_path, model, tiny_checkpoint, capsys):
    Image.fromarray(data.astronaut()[:64, :80]).save(tmp_path / "clean.png")
    with pytest.raises(ValueError, match="ensemble is 'auto', True or False"):
        iter_evaluate(clean_set(tmp_path, task="haze"), model, ensemble="on")  # at once, not at the first picture
    for asked, sides in (("auto", (100, 150)), (False, (100,))):
        method = method_of_model(model, downscale=1, ensemble=asked, **EXACT)
        assert method.facts["ensemble"] == asked
        wanted = sum(cost(model.config, side, side).macs for side in sides) / 1e9
        assert method.gmac(100, 100) == pytest.approx(wanted)
    words = ["evaluate", str(tmp_path), "--clean", "--task", "haze", "--model", str(tiny_checkpoint), "--json"]
    assert main([*words, "-o", str(tmp_path / "report"), "--ensemble", "on"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["methods"].values()
    assert facts["ensemble"] is True
    picture = data.astronaut()[:90, :130]
    found = method_of_model(model, **EXACT).run(picture)
    wanted = dmgn.restore(picture, "haze", model=model, intensity_range="dtype", ensemble=True, **EXACT).background
    np.testing.assert_array_equal(found, wanted)


def test_lazy_arrays_are_restored_once(model):
    da = pytest.importorskip("dask.array")
    image = data.astronaut()[:90, :130]
    lazy = dmgn.restore_lazy(da.from_array(image), "haze", model=model, tile=None, **EXACT)
    assert lazy.provenance["ensemble"] is False
    full = dmgn.restore(image, "haze", model=model, downscale=1, ensemble=False, tile=None, **EXACT)
    np.testing.assert_array_equal(lazy.background.compute(), full.background)


def test_cards_keep_it(tmp_path, tiny_network):
    path = tmp_path / "haze.safetensors"
    checkpoint.save(path, tiny_network, task="haze", card={"name": "haze", "ensemble": 1.25})
    restored = dmgn.restore(data.astronaut()[:70, :70], "haze", model=path, **EXACT)
    assert restored.provenance["ensemble"] == 1.25
