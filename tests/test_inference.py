"""A tiled image equals a whole one; the engine is a generator that leaves no trace."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from napari_dmgn import inference
from napari_dmgn.inference import Planes, Step, iter_infer, plan
from napari_dmgn.model.config import ABLATIONS, PRESETS, NetworkConfig
from napari_dmgn.model.descriptor import Metadata, Model
from napari_dmgn.model.network import DMGN

EXACT = {"device": "cpu", "precision": "float32"}
SIZES = (1, 7, 16, 33, 70)


def planes_of(h, w, n=1, seed=0):
    return np.random.default_rng(seed).random((n, 3, h, w), np.float32)


def wrap(network):
    return Model(network, Metadata(name="tiny", task="rain", card={}, sha256=""))


@pytest.fixture(scope="module")
def model(tiny_network):
    return wrap(tiny_network)


@pytest.fixture(scope="module")
def attentive(tiny_network):
    """The tiny network with an attention that depends strongly on the image's averages."""
    import copy

    network = copy.deepcopy(tiny_network)
    with torch.no_grad():
        for layer in (network.channel_attention.squeeze, network.channel_attention.excite):
            layer.weight.mul_(4)
    return wrap(network)


def run(model, batch, **options):
    """The result, and how many steps it took."""
    *steps, result = iter_infer(model, batch, **{**EXACT, **options})
    assert isinstance(result, Planes)
    assert [s.done for s in steps] == list(range(1, len(steps) + 1))
    assert {s.total for s in steps} == {len(steps)}
    return result, len(steps)


def difference(a, b):
    names = ("background", "coarse", "noise", "noise_map")
    return max(np.abs(getattr(a, name) - getattr(b, name)).max() for name in names)


@torch.inference_mode()
def test_a_whole_image_is_what_the_network_returns(model):
    for h, w in product(SIZES, repeat=2):
        batch = planes_of(h, w, n=2)
        found, steps = run(model, batch, tile=None)
        wanted = model(torch.from_numpy(batch))
        assert steps == 2
        np.testing.assert_allclose(found.background, wanted.background.clamp(0, 1), atol=1e-6)
        np.testing.assert_allclose(found.coarse, wanted.coarse.clamp(0, 1), atol=1e-6)
        np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-6)
        np.testing.assert_allclose(found.noise_map, wanted.noise_map[:, 0], atol=1e-6)


@pytest.mark.parametrize("h", SIZES)
def test_tiled_equals_whole(h, attentive):
    for w in SIZES:
        batch = planes_of(h, w, seed=h + w)
        batch[..., : w // 2] *= 0.2  # halves that differ: a tile's own averages would show
        whole, _ = run(attentive, batch, tile=None, masks=True)
        for tile in (8, 16, 40):
            tiled, steps = run(attentive, batch, tile=tile, masks=True)
            assert difference(tiled, whole) <= 1e-5
            assert tiled.masks.keys() == whole.masks.keys()
            for name, mask in whole.masks.items():
                np.testing.assert_allclose(tiled.masks[name], mask, atol=1e-5)
            assert steps == plan(attentive, (h, w), tile=tile, **EXACT).windows
            assert steps == 2 * tiled.report["windows"]


def test_tiled_equals_whole_for_other_networks(tiny_network):
    changes = [
        {"trunk_stride": 1, "skip": "concat", "refine_kernel": 3, "attention_convolutions": 2},
        {"trunk_stride": 4, "head_levels": 3, "branch_widths": (8,)},
        *ABLATIONS.values(),
    ]
    for change in changes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = DMGN(NetworkConfig(**{**tiny_network.config.to_dict(), **change})).eval()
            for part in (network.background_branch, network.noise_branch, network.refiner):
                if part is not None:
                    torch.nn.init.normal_(part.out.weight, std=0.05)
        other = wrap(network)
        batch = planes_of(33, 50)
        assert difference(run(other, batch, tile=16)[0], run(other, batch, tile=None)[0]) <= 1e-5


def official(**changes):
    """The official reflection model's way of assembly, narrow and shallow."""
    small = {"width": 8, "branch_widths": (8, 8), "bottleneck_cells": 1, "refine_dilations": (1, 2)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        preset = PRESETS["official-reflection"]
        return wrap(DMGN(replace(preset, attention_reduction=2, **small, **changes)).eval())


@torch.inference_mode()
def test_a_position_dependent_network_takes_a_whole_image_at_its_own_size():
    model = official()
    for h, w in ((1, 1), (17, 21), (18, 35), (37, 51)):
        batch = planes_of(h, w, n=2)
        found, steps = run(model, batch, tile=None, masks=True)
        wanted = model(torch.from_numpy(batch), masks=True)
        assert steps == 2
        assert found.report["fallbacks"] == []
        np.testing.assert_allclose(found.background, wanted.background.clamp(0, 1), atol=1e-5)
        np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-5)
        np.testing.assert_allclose(found.noise_map, wanted.noise_map[:, 0], atol=1e-5)
        for name, mask in wanted.masks.items():
            height, width = found.masks[name].shape[1:]
            np.testing.assert_allclose(found.masks[name], mask[:, 0, :height, :width], atol=1e-5)


def test_a_normalised_map_works_in_bf16():
    batch = planes_of(37, 51)
    full, half = (run(official(), batch, tile=None, precision=p)[0] for p in ("float32", "bf16"))
    assert 0 < np.abs(half.background - full.background).mean() < 0.05


def test_tiles_of_a_position_dependent_network_cover_everything_and_say_that_they_are_approximate():
    model = official()
    for h, w in ((17, 33), (37, 51), (49, 16)):  # last windows of one pixel, of a few, and of padding
        batch = planes_of(h, w)
        whole, _ = run(model, batch, tile=None, masks=True)
        for halo in (0, 32):
            tiled, _ = run(model, batch, tile=16, halo=halo, masks=True)
            assert np.abs(tiled.background - whole.background).mean() < 0.02
            assert np.abs(tiled.noise_map - whole.noise_map).mean() < 0.1
            assert [text for text in tiled.report["fallbacks"] if "approximate" in text]
            assert all(tiled.masks[name].shape == mask.shape for name, mask in whole.masks.items())
            assert all(np.isfinite(mask).all() for mask in tiled.masks.values())


def test_the_maps_mean_and_maximum_are_those_of_the_whole_image():
    """Tiles of the hypercolumn head, of reflection padding and of the map's normalisation are exact."""
    model = official(align_corners=False, skip="add")
    height, width = 16, 2 * model.config.receptive_radius + 96
    batch = planes_of(height, width)
    batch[..., : width // 2] *= 0.2
    whole, _ = run(model, batch, tile=None)
    tiled, steps = run(model, batch, tile=width // 4)
    assert steps > 4
    assert tiled.report["fallbacks"] == []
    assert difference(tiled, whole) <= 1e-5
    assert difference(run(model, batch, tile=width // 4, halo=16)[0], whole) > 1e-4


def test_a_halo_too_small_is_what_the_exact_one_prevents(attentive):
    batch = planes_of(70, 70)
    whole, _ = run(attentive, batch, tile=None)
    errors = [difference(run(attentive, batch, tile=16, halo=halo)[0], whole) for halo in (0, 16, "exact")]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] > 1e-4
    exact = attentive.config.receptive_radius
    assert difference(run(attentive, batch, tile=16, halo=exact)[0], whole) <= 1e-5


def test_images_of_a_batch_do_not_see_each_other(attentive):
    batch = planes_of(33, 40, n=3)
    batch[1] *= 0.1
    together, _ = run(attentive, batch, tile=16, masks=True)
    for i in range(3):
        alone, _ = run(attentive, batch[i : i + 1], tile=16, masks=True)
        for name in ("background", "coarse", "noise", "noise_map"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], atol=1e-5)
        for name, mask in alone.masks.items():
            np.testing.assert_allclose(together.masks[name][i], mask[0], atol=1e-5)


def test_results_lie_in_their_ranges(model):
    batch = np.stack([np.zeros((3, 24, 24)), np.ones((3, 24, 24)), planes_of(24, 24)[0]]).astype(np.float32)
    result, _ = run(model, batch, masks=True)
    for values in (result.background, result.coarse, result.noise_map, *result.masks.values()):
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1
    assert result.noise.dtype == np.float32


def test_masks_are_kept_when_asked_for_and_change_nothing(model):
    batch = planes_of(33, 70)
    plain, _ = run(model, batch, tile=16)
    kept, _ = run(model, batch, tile=16, masks=True)
    assert plain.masks is None
    assert difference(plain, kept) == 0
    # Of the image, not of its padding: at the trunk's resolution, and at half of it in the bottleneck.
    cells = [model.config.trunk_stride * level for level in (1, 2)]
    assert {mask.shape for mask in kept.masks.values()} == {(1, -(-33 // c), -(-70 // c)) for c in cells}


@pytest.mark.parametrize("tile", [None, 16])
def test_input_is_left_alone_whatever_it_is(model, tile):
    batch = planes_of(40, 48)
    wanted, _ = run(model, batch, tile=tile)
    frozen = batch.copy()
    frozen.flags.writeable = False
    stretched = np.zeros((1, 3, 80, 96), np.float32)[:, :, ::2, ::2]
    stretched[:] = batch
    backwards = batch[..., ::-1].copy()[..., ::-1]
    for given in (frozen, stretched, backwards, batch.astype(">f4"), batch.astype(np.float64)):
        kept = given.copy()
        assert difference(run(model, given, tile=tile)[0], wanted) == 0
        assert np.array_equal(given, kept)


def test_memory_mapped_input_is_read_window_by_window(model, tmp_path):
    batch = planes_of(40, 48)
    np.save(tmp_path / "batch.npy", batch)
    mapped = np.load(tmp_path / "batch.npy", mmap_mode="r")
    assert difference(run(model, mapped, tile=16)[0], run(model, batch, tile=16)[0]) == 0


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_closing_early_leaves_no_mode_set(model, stop):
    events = iter_infer(model, planes_of(40, 40), tile=16, **EXACT)
    for _ in range(stop):
        assert isinstance(next(events), Step)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    events.close()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_two_runs_may_take_turns(model):
    a, b = planes_of(40, 40, seed=1), planes_of(33, 50, seed=2)
    wanted = [run(model, batch, tile=16)[0] for batch in (a, b)]
    running = [iter_infer(model, batch, tile=16, **EXACT) for batch in (a, b)]
    found = [None, None]
    while any(f is None for f in found):
        for i, events in enumerate(running):
            event = next(events, None)
            if isinstance(event, Planes):
                found[i] = event
    for result, want in zip(found, wanted, strict=True):
        assert difference(result, want) == 0


def test_report_says_what_was_done(model):
    result, _ = run(model, planes_of(40, 56), tile=10)
    halo = model.config.receptive_radius
    assert result.report == {
        "device": "cpu",
        "precision": "float32",
        "tile": 16,  # rounded up to the stride
        "halo": halo,
        "windows": 3 * 4,
        "fallbacks": [],
    }
    whole, _ = run(model, planes_of(40, 56), tile=64)
    assert (whole.report["tile"], whole.report["halo"], whole.report["windows"]) == (None, 0, 1)


def test_bf16_is_close_to_float32(model):
    batch = planes_of(33, 40)
    exact, _ = run(model, batch, tile=16)
    rough, _ = run(model, batch, tile=16, precision="bf16")
    assert rough.report["precision"] == "bf16"
    assert rough.background.dtype == np.float32
    assert 0 < difference(exact, rough) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, 'tile is 0; wanted "auto", None or an integer of at least 1'),
        ({"tile": -8}, "tile is -8"),
        ({"tile": 1.5}, "tile is 1.5"),
        ({"tile": "big"}, "tile is 'big'"),
        ({"tile": True}, "tile is True"),
        ({"halo": -1}, 'halo is -1; wanted "exact" or an integer of at least 0'),
        ({"halo": "auto"}, "halo is 'auto'"),
        ({"halo": None}, "halo is None"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_wrong_options_are_refused_when_called(model, options, message):
    with pytest.raises(ValueError, match=message):
        iter_infer(model, planes_of(8, 8), **{**EXACT, **options})


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (0, 3, 8, 8), (1, 3, 0, 8), (1, 3, 8, 0), (1, 8, 8, 3)])
def test_wrong_batches_are_refused_when_called(model, shape):
    with pytest.raises(ValueError, match=r"wanted \(N, 3, H, W\)|wanted at least 1x1"):
        iter_infer(model, np.zeros(shape, np.float32), **EXACT)


def test_automatic_tile_keeps_to_the_memory(tiny_network, monkeypatch):
    """The window with its halo takes no more than its share, down to a floor of two strides."""
    for config in (tiny_network.config, PRESETS["compact"]):
        with torch.device("meta"):
            model = wrap(DMGN(config))
        for free in (1 << 20, 1 << 28, 1 << 30, 1 << 34, 1 << 40):
            monkeypatch.setattr(inference.devices, "free_memory", lambda _, free=free: free)
            for shape in ((64, 64), (3000, 17), (10_000, 10_000)):
                made = plan(model, shape, **EXACT)
                pixel = inference._bytes_per_pixel(config, "float32")
                sides = [w.rows.read[1] - w.rows.read[0] for w in made.parts]
                wide = [w.columns.read[1] - w.columns.read[0] for w in made.parts]
                largest = max(a * b for a, b in zip(sides, wide, strict=True)) * pixel
                floor = made.tile == 2 * config.stride
                assert floor or largest <= free / 2
                if shape[0] * shape[1] * pixel < 0.3 * min(free, 6 << 30):
                    assert made.tile is None
