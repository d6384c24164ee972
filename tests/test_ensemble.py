"""An image is restored as it is and mirrored: the result is the mean, of the image's own pixels, at any size."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

import napari_dmgn as dmgn
from napari_dmgn.cli import main
from napari_dmgn.evaluation import clean_set, iter_evaluate, method_of_model
from napari_dmgn.inference import Planes, Step, ensemble, iter_infer, iter_infer_ensemble, plans
from napari_dmgn.model.cost import cost
from napari_dmgn.model.descriptor import Metadata, Model

EXACT = {"device": "cpu", "precision": "float32"}
RESULTS = ("background", "coarse", "noise", "noise_map")


@pytest.fixture(scope="module")
def model(tiny_network):
    return Model(tiny_network, Metadata(name="tiny", task="haze", card={"working_side": 40}, sha256=""))


@pytest.fixture
def batch():
    picture = data.astronaut()[60:127, 150:241] / np.float32(255)
    return np.stack([picture, picture[::-1]]).transpose(0, 3, 1, 2).copy()


def run(model, batch, **options):
    *steps, result = iter_infer_ensemble(model, batch, **EXACT, **options)
    assert isinstance(result, Planes)
    assert all(isinstance(step, Step) for step in steps)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    return result


def once(model, batch, **options):
    *_, planes = iter_infer(model, batch, **EXACT, **options)
    return planes


class Taker:
    """A sink that keeps the parts as they come, and fails where it is told to."""

    def __init__(self, failing=()):
        self.parts, self.failing = [], list(failing)

    def put(self, part):
        if self.failing and self.failing.pop(0):
            raise MemoryError("no more")
        self.parts.append(part)


@pytest.mark.parametrize("tile", ["auto", None, 16])
def test_it_is_the_mean_of_both_views(model, batch, tile):
    plain, mirrored = once(model, batch), once(model, batch[..., ::-1].copy())
    found = run(model, batch, tile=tile)
    for name in RESULTS:
        first, second = getattr(plain, name), getattr(mirrored, name)[..., ::-1]
        np.testing.assert_allclose(getattr(found, name), (first + second) / 2, atol=1e-5)
        assert np.abs(first - second).max() > 1e-3
    assert found.report["windows"] == 2 * once(model, batch, tile=tile).report["windows"]


def test_a_mirrored_image_gives_the_mirrored_result(model, batch):
    found, other = run(model, batch), run(model, batch[..., ::-1].copy())
    for name in RESULTS:
        np.testing.assert_allclose(getattr(found, name), getattr(other, name)[..., ::-1], atol=1e-5)


def test_an_image_that_is_left_alone_stays_bit_for_bit(monkeypatch, model, batch):
    seen = []

    def infer(model, batch, *, sink=None, **engine):
        image = np.array(batch[:, :, :, :])
        seen.append(image)
        yield Step(done=1, total=2)
        yield Step(done=2, total=2)
        report = {"windows": 1, "fallbacks": ["less", f"{len(seen)}"], "halo_error": 1 / len(seen)}
        results = {"background": image, "coarse": image, "noise": 0 * image, "noise_map": image[:, 0]}
        if sink is not None:
            from napari_dmgn.inference import Part

            sink.put(Part(rows=(0, 67), columns=(0, 91), **results))
        yield Planes(**results, masks=None, report=report)

    monkeypatch.setattr(ensemble, "iter_infer", infer)
    found = run(model, batch)
    np.testing.assert_array_equal(found.background, batch)
    np.testing.assert_array_equal(found.noise_map, batch[:, 0])
    assert not found.noise.any()
    np.testing.assert_array_equal(seen[1], batch[..., ::-1])
    assert found.report == {"windows": 2, "fallbacks": ["less", "1", "2"], "halo_error": 1}


def test_any_part_can_be_read_of_what_is_mirrored(batch):
    mirrored = ensemble._Mirrored(batch)
    assert mirrored.shape == batch.shape
    for place in (np.s_[:, :, 3:40, 5:17], np.s_[0:1, :, :, 80:], np.s_[:, :, 2:3, :7], np.s_[:, :, :, 60:500]):
        np.testing.assert_array_equal(mirrored[place], batch[..., ::-1][place])


def test_a_sink_gets_every_pixel_once_and_the_masks(model, batch):
    sink = Taker()
    whole = run(model, batch, masks=True)
    run(model, batch, masks=True, tile=32, sink=sink)
    covered = np.zeros(batch.shape[-2:], int)
    for part in sink.parts:
        place = (..., slice(*part.rows), slice(*part.columns))
        covered[place] += 1
        for name in RESULTS:
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[place], atol=1e-5)
    assert (covered == 1).all()
    assert len(sink.parts) > 2
    assert [bool(part.masks) for part in sink.parts] == [True] + [False] * (len(sink.parts) - 1)
    plain = once(model, batch, masks=True)
    assert plain.masks.keys() == whole.masks.keys() == sink.parts[0].masks.keys()
    for name, mask in plain.masks.items():
        np.testing.assert_array_equal(whole.masks[name], mask)
        np.testing.assert_allclose(sink.parts[0].masks[name].values, mask, atol=1e-5)
    assert run(model, batch).masks is None


def test_strips_are_the_whole(monkeypatch, model, batch):
    whole = run(model, batch, masks=True)
    monkeypatch.setitem(plans._STRIP_PIXELS, "cpu", 16 * 2 * 96)
    sink = Taker()
    *steps, planes = iter_infer_ensemble(model, batch, masks=True, sink=sink, **EXACT)
    assert planes.report["windows"] > 2
    assert steps[-1].done == steps[-1].total == len(steps)
    assert sorted(row for part in sink.parts for row in range(*part.rows)) == list(range(67))
    for part in sink.parts:
        place = (..., slice(*part.rows), slice(*part.columns))
        for name in RESULTS:
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[place], atol=1e-5)
    for name, mask in whole.masks.items():
        np.testing.assert_allclose(sink.parts[0].masks[name].values, mask, atol=1e-5)


@pytest.mark.parametrize("failing", [[True], [False, True]])
def test_a_part_that_failed_comes_again_with_its_masks(model, batch, failing):
    """Where memory runs out while results are put."""
    sink = Taker(failing=failing)
    *steps, planes = iter_infer_ensemble(model, batch, masks=True, tile=32, sink=sink, **EXACT)
    assert planes.report["fallbacks"]
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1].total == len(steps)
    whole = run(model, batch, masks=True)
    assert sum(bool(part.masks) for part in sink.parts) == 1
    covered = np.zeros(batch.shape[-2:], int)
    for part in sink.parts:
        place = (..., slice(*part.rows), slice(*part.columns))
        covered[place] += 1
        np.testing.assert_allclose(part.background, whole.background[place], atol=1e-5)
    assert (covered == 1).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (0, 3, 8, 8)])
def test_other_shapes_are_refused_as_for_one_view(model, shape):
    with pytest.raises(ValueError, match=r"batch has shape .*; wanted \(N, 3, H, W\), not empty"):
        next(iter_infer_ensemble(model, np.zeros(shape, np.float32), **EXACT))


def test_a_run_that_is_stopped_closes_the_networks(monkeypatch, model, batch):
    closed = []

    def infer(model, batch, **engine):
        try:
            yield Step(done=1, total=2)
        finally:
            closed.append(True)

    monkeypatch.setattr(ensemble, "iter_infer", infer)
    steps = iter_infer_ensemble(model, batch, **EXACT)
    next(steps)
    steps.close()
    assert closed == [True]


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("tile", ["auto", 16])
def test_restore_takes_it(model, downscale, tile):
    image = data.astronaut()[:70, :60]
    settings = {"model": model, "downscale": downscale, "tile": tile, **EXACT}
    both = dmgn.restore(image, "haze", ensemble=np.bool_(True), **settings)
    single = dmgn.restore(image, "haze", **settings)
    assert (both.provenance["ensemble"], single.provenance["ensemble"]) == (True, False)
    json.dumps(both.provenance)
    other = dmgn.restore(image[:, ::-1], "haze", **settings)
    # Noise is enlarged linearly: of an even width the mean of both is that of a working size, too.
    mean = (single.noise + other.noise[:, ::-1]) / 2
    np.testing.assert_allclose(both.noise, mean, atol=2e-2)  # of 255
    assert (both.background != single.background).any()
    assert both.provenance["windows"] == 2 * single.provenance["windows"]
    events = list(dmgn.iter_restore(image, "haze", ensemble=True, **settings))
    assert [event.done for event in events[:-1]] == list(range(1, len(events)))
    assert events[-1].total == len(events) - 1


def test_stacks_and_pixels_that_are_no_numbers(model):
    stack = np.random.default_rng(0).random((3, 40, 44), np.float32)
    stack[1, 10:13, 20] = np.nan
    restored = dmgn.restore(stack, "haze", model=model, ensemble=True, **EXACT)
    np.testing.assert_array_equal(np.isnan(restored.background), np.isnan(stack))
    assert np.isfinite(restored.noise).all()
    for frame in (1, 2):
        alone = dmgn.restore(stack[frame], "haze", model=model, ensemble=True, **EXACT)
        np.testing.assert_allclose(restored.background[frame], alone.background, atol=1e-5)


@pytest.mark.parametrize("wrong", [1, 1.5, "auto", None])
def test_what_it_is_not(wrong):
    with pytest.raises(ValueError, match="ensemble is True or False; got"):
        dmgn.restore(np.zeros((8, 8), np.uint8), ensemble=wrong)


def test_the_command_line(tmp_path, tiny_checkpoint, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(data.astronaut()[:64, :80]).save(picture)
    words = ["restore", str(picture), "--model", str(tiny_checkpoint), "-o", str(tmp_path / "out"), "--json"]
    for more in ([], ["--ensemble"]):
        assert main([*words, "--overwrite", *more]) == 0
        (report,) = json.loads(capsys.readouterr().out)
        assert report["provenance"]["ensemble"] is bool(more)
    assert main([*words[:-2], str(tmp_path / "out.zarr"), "--ensemble"]) == 2
    assert "--ensemble is for results in files" in capsys.readouterr().err
    measured = ["benchmark", "--model", str(tiny_checkpoint), "--size", "32x32", "--repeat", "1"]
    assert main(measured) == 0
    assert "mirrored" not in capsys.readouterr().out
    assert main([*measured, "--ensemble"]) == 0
    assert ", and mirrored\n" in capsys.readouterr().out


def test_evaluations_take_it(tmp_path, model, tiny_checkpoint, capsys):
    Image.fromarray(data.astronaut()[:64, :80]).save(tmp_path / "clean.png")
    with pytest.raises(ValueError, match="ensemble is True or False"):
        iter_evaluate(clean_set(tmp_path, task="haze"), model, ensemble="on")  # at once, not at the first picture
    for asked in (False, True):
        method = method_of_model(model, downscale=1, ensemble=asked, **EXACT)
        assert method.facts["ensemble"] is asked
        assert method.gmac(100, 100) == pytest.approx((1 + asked) * cost(model.config, 100, 100).macs / 1e9)
    words = ["evaluate", str(tmp_path), "--clean", "--task", "haze", "--model", str(tiny_checkpoint), "--json"]
    assert main([*words, "-o", str(tmp_path / "report"), "--ensemble"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)["methods"].values()
    assert facts["ensemble"] is True
    picture = data.astronaut()[:90, :130]
    found = method_of_model(model, ensemble=True, **EXACT).run(picture)
    wanted = dmgn.restore(picture, "haze", model=model, intensity_range="dtype", ensemble=True, **EXACT).background
    np.testing.assert_array_equal(found, wanted)
