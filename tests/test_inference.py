"""A tiled image equals a whole one; the engine is a generator that leaves no trace."""

import errno
import gc
import io
import os
import pickle
import weakref
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_dmgn import devices
from napari_dmgn.inference import (
    Planes,
    Step,
    engine,
    gains,
    iter_infer,
    memory,
    noise,
    phases,
    plan,
    planes,
    plans,
    read_window,
    restore_window,
    strips,
    window_sums,
)
from napari_dmgn.inference.plans import bytes_per_pixel
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
    assert {s.total for s in steps} == {len(steps)} or result.report["fallbacks"]
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


def narrow(preset, **changes):
    """A preset's structure, strides and dilations with few channels."""
    widths = tuple(8 for _ in PRESETS[preset].branch_widths)
    small = {"width": 8, "branch_widths": widths, "bottleneck_cells": 2, "attention_reduction": 2}
    return seeded(replace(PRESETS[preset], **(small | changes)))


def seeded(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = DMGN(config).eval()
        for part in (network.background_branch, network.noise_branch, network.refiner):
            if part is not None:
                torch.nn.init.normal_(part.out.weight, std=0.1)
                if part.gain is not None:
                    torch.nn.init.normal_(part.gain.weight, std=0.5)
        for layer in (network.channel_attention.squeeze, network.channel_attention.excite):
            layer.weight.data.mul_(4)  # the image's averages count
    return wrap(network)


def in_strips(model, batch, rows, monkeypatch, **options):
    """The result of strips of so many rows, whatever the size of the image."""
    with monkeypatch.context() as patch:
        patch.setattr(plans, "_strip_rows", lambda *_: rows)
        return run(model, batch, **options)[0]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "official-haze"])  # as official-rain
def test_every_size_in_strips_equals_the_whole(preset, monkeypatch):
    """By strips of 16, 32 and 48 rows: every height and width of 1..70, each at least twice.

    With VGG's head, whose channels cannot be narrowed, every seventh of these sizes.
    """
    model = narrow(preset)
    # The reflection model divides its map by the map's contrast, and rounding with it.
    tolerance = 5e-5 if preset == "official-reflection" else 1e-5
    # Steps prime to 70 pair every height with widths far from it; thin and square images come too.
    sizes = [(h, 1 + (27 * h) % 70) for h in range(1, 71)] + [(1 + (33 * w) % 70, w) for w in range(1, 71)]
    sizes = sizes if preset in ("compact", "base") else sizes[::7]  # VGG's channels cannot be narrowed
    for number, (h, w) in enumerate([*sizes, (70, 70), (70, 1), (1, 70), (1, 1)]):
        batch = planes_of(h, w, seed=number)
        batch[..., : h // 2, :] *= 0.2  # halves that differ: a strip's own averages would show
        whole, _ = run(model, batch, tile=None)
        found = in_strips(model, batch, 16 * (1 + number % 3), monkeypatch)
        assert difference(found, whole) <= tolerance, (h, w)
        assert found.report["fallbacks"] == []


@pytest.mark.parametrize("preset", ["compact", "base", "paper"])
def test_every_size_in_windows_equals_the_whole(preset):
    """By tiles of 16, 32, 48 and 64 pixels: every height and every width of 1..70; with VGG's head every 14th."""
    model = narrow(preset, refine_dilations=(1, 2)) if preset != "paper" else narrow(preset)
    sizes = [(h, 1 + (27 * h) % 70) for h in range(1, 71)]
    for number, (h, w) in enumerate(sizes if preset != "paper" else sizes[::14]):
        batch = planes_of(h, w, seed=number)
        batch[..., : w // 2] *= 0.2
        whole, _ = run(model, batch, tile=None)
        for tile in (16, 32 + 16 * (number % 3)):
            assert difference(run(model, batch, tile=tile)[0], whole) <= 1e-5, (h, w, tile)


@pytest.mark.parametrize("variant", ABLATIONS)
def test_variants_in_strips_equal_the_whole(variant, monkeypatch):
    model = narrow("compact", **ABLATIONS[variant])
    batch = planes_of(161, 45, n=2)
    whole, _ = run(model, batch, tile=None, masks=True)
    for rows in (16, 48):
        found = in_strips(model, batch, rows, monkeypatch, masks=True)
        assert difference(found, whole) <= 1e-5
        assert found.masks.keys() == whole.masks.keys()
        for name, mask in whole.masks.items():
            np.testing.assert_allclose(found.masks[name], mask, atol=1e-5)


@pytest.mark.parametrize("preset", ["compact", "base"])
def test_a_real_preset_in_strips_equals_the_whole(preset, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = wrap(DMGN(PRESETS[preset]).eval())
    batch = planes_of(201, 90)
    assert difference(in_strips(model, batch, 64, monkeypatch), run(model, batch, tile=None)[0]) <= 1e-5


@pytest.mark.parametrize("masks", [False, True])
def test_strips_without_the_kept_noise_equal_those_with_it(masks, monkeypatch):
    model, batch = narrow("compact"), planes_of(161, 45)
    kept = in_strips(model, batch, 32, monkeypatch, masks=masks)
    monkeypatch.setattr(engine, "noise_store", lambda *_: None)
    assert difference(in_strips(model, batch, 32, monkeypatch, masks=masks), kept) <= 1e-5


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_noise_kept_in_a_file_is_the_same_bit_for_bit(precision, monkeypatch, tmp_path):
    model, batch = narrow("compact"), planes_of(161, 45, n=2)
    kept = in_strips(model, batch, 32, monkeypatch, precision=precision)
    opened, temporary = [], noise.tempfile.TemporaryFile
    monkeypatch.setattr(noise, "_MEMORY_CEILING", 0)
    monkeypatch.setattr(noise.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(noise.tempfile, "TemporaryFile", lambda dir: opened.append(temporary(dir=dir)) or opened[-1])
    filed = in_strips(model, batch, 32, monkeypatch, precision=precision)
    assert len(opened) == 1
    assert opened[0].closed
    for name in ("background", "noise", "noise_map", "coarse"):
        np.testing.assert_array_equal(getattr(filed, name), getattr(kept, name))


def test_noise_is_generated_again_where_the_disk_is_full(monkeypatch, caplog):
    model, batch = narrow("compact"), planes_of(161, 45)
    kept = in_strips(model, batch, 32, monkeypatch)

    class Full(io.BytesIO):
        def write(self, content):
            if self.tell() > 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(engine, "noise_store", lambda config, *_: noise.NoiseStore(config.trunk_stride, Full()))
    assert difference(in_strips(model, batch, 32, monkeypatch), kept) <= 1e-5
    assert caplog.text.count("No space left on device") == 1


def test_noise_is_not_kept_where_neither_memory_nor_disk_has_room(model, monkeypatch):
    made = plan(model, (64, 64), **EXACT)
    assert noise.noise_store(model.config, (1, 3, 64, 64), made) is not None
    monkeypatch.setattr(noise, "_MEMORY_CEILING", 0)
    monkeypatch.setattr(noise, "_DISK_SHARE", 0)
    assert noise.noise_store(model.config, (1, 3, 64, 64), made) is None


def test_strips_in_bf16_are_close_to_float32(monkeypatch):
    model, batch = narrow("compact"), planes_of(161, 45)
    full, rough = (in_strips(model, batch, 32, monkeypatch, precision=p) for p in ("float32", "bf16"))
    assert rough.report["precision"] == "bf16"
    whole, _ = run(model, batch, tile=None, precision="bf16")
    assert np.abs(rough.background - full.background).mean() < 0.02
    assert np.abs(rough.background - whole.background).mean() < 0.002


def test_the_two_phases_of_windows_alone_are_the_whole_run(attentive):
    """As several machines would: each window by itself, sums and gains sent as bytes."""
    batch = planes_of(70, 60)
    wanted, _ = run(attentive, batch, tile=32)
    made = pickle.loads(pickle.dumps(plan(attentive, (70, 60), tile=32, **EXACT)))
    parts = [read_window(batch, w) for w in made.parts]
    sums = [window_sums(attentive, part, w, made) for part, w in zip(parts, made.parts, strict=True)]
    known = pickle.loads(pickle.dumps(gains(attentive, pickle.loads(pickle.dumps(sums)))))
    found = np.zeros_like(wanted.background)
    for window, pixels in reversed(list(zip(made.parts, parts, strict=True))):
        part = restore_window(attentive, pixels, window, known, made)
        found[..., slice(*part.rows), slice(*part.columns)] = part.background
    np.testing.assert_array_equal(found, wanted.background)


ERRORS = {
    "numpy": lambda: MemoryError("Unable to allocate 1. GiB"),
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "allocator": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
    ),
}


@pytest.fixture
def scarce(monkeypatch):
    """Make the n-th reading of a piece run out of memory."""

    def fail_at(*places, error=ERRORS["torch"]):
        calls = count(1)
        read = phases.read_window

        def reading(pixels, window):
            held.append(weakref.ref(part := read(pixels, window)))
            if next(calls) in places:
                raise error()
            return part

        monkeypatch.setattr(phases, "read_window", reading)
        monkeypatch.setattr(strips, "read_window", reading)

    held = []
    fail_at.held = held
    return fail_at


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", [1, 5, -1])
@pytest.mark.parametrize("tile", ["auto", 32])
def test_out_of_memory_halves_the_tile_and_goes_on(scarce, monkeypatch, caplog, place, error, tile):
    model, batch = narrow("compact"), planes_of(161, 90)
    monkeypatch.setattr(plans, "_strip_rows", lambda *_: 32)
    wanted, steps = run(model, batch, tile=tile)
    scarce(place if place > 0 else steps, error=ERRORS[error])
    *events, found = iter_infer(model, batch, tile=tile, **EXACT)
    assert difference(found, wanted) <= 1e-5
    (text,) = found.report["fallbacks"]
    (record,) = caplog.records
    assert text.startswith("out of memory on cpu with ")
    assert "halved to " in text
    assert text in record.getMessage()
    assert found.report["tile"] == 16
    done = [e.done for e in events]
    assert done == list(range(1, len(events) + 1))
    assert events[-1].done == events[-1].total > steps - (place == -1)


PLACES = {
    "operator": (torch.nn.functional, "conv2d"),
    "result": (strips.Strips, "_part"),
    "handing over": (planes.Collector, "put"),
    "keeping noise": (noise.NoiseStore, "put"),
    "reading noise": (noise.NoiseStore, "get"),
}


@pytest.mark.parametrize("call", [1, 2, 4, 6])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("keep", [False, True])
def test_wherever_memory_runs_out_the_result_is_the_same(place, call, keep, monkeypatch):
    model, batch = narrow("compact"), planes_of(161, 45)
    wanted = in_strips(model, batch, 32, monkeypatch)
    if not keep:
        monkeypatch.setattr(engine, "noise_store", lambda *_: None)
    owner, name = PLACES[place]
    real, calls = getattr(owner, name), count(1)

    def scarce(*args, **kwargs):
        if next(calls) == call:
            raise MemoryError("Unable to allocate 1. GiB")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, scarce)
    found = in_strips(model, batch, 32, monkeypatch)
    assert difference(found, wanted) <= 1e-5
    assert len(found.report["fallbacks"]) == (next(calls) > call + 1)


def test_each_time_memory_runs_out_is_told(scarce, monkeypatch, caplog):
    model, batch = narrow("compact"), planes_of(161, 45)
    monkeypatch.setattr(plans, "_strip_rows", lambda *_: 64)
    wanted, _ = run(model, batch)
    scarce(2, 4)
    found, _ = run(model, batch)
    assert difference(found, wanted) <= 1e-5
    assert [text.split()[-2] for text in found.report["fallbacks"]] == ["32", "16"]
    assert len(caplog.records) == 2


def test_a_whole_image_that_does_not_fit_goes_on_in_strips(scarce):
    model, batch = narrow("compact"), planes_of(161, 45)
    wanted, _ = run(model, batch, tile=None)
    scarce(1)
    found, _ = run(model, batch, tile=None)
    assert difference(found, wanted) <= 1e-5
    assert found.report["tile"] == 96


def test_a_piece_that_cannot_be_smaller_goes_to_the_cpu_or_fails(scarce, monkeypatch, caplog):
    model, batch = narrow("compact"), planes_of(161, 45)
    monkeypatch.setattr(plans, "_strip_rows", lambda *_: 16)
    wanted, _ = run(model, batch)
    scarce(4)
    with pytest.raises(MemoryError, match="strips of 16 rows, which cannot be smaller: CUDA out of memory"):
        run(model, batch)
    # A device that is none: this machine may have no other, and the CPU under another name serves.
    monkeypatch.setattr(devices, "resolve_device", lambda device: device)
    monkeypatch.setattr(devices, "free_memory", lambda device: 1 << 33)
    scarce(4)
    *_, found = iter_infer(model, batch, device="cpu:0", precision="float32")
    assert difference(found, wanted) <= 1e-5
    assert found.report["device"] == "cpu"
    assert found.report["fallbacks"] == ["out of memory on cpu:0 with strips of 16 rows: went on on the CPU"]


def test_what_a_failed_piece_held_is_freed(scarce, monkeypatch):
    model, batch = narrow("compact"), planes_of(161, 45)
    monkeypatch.setattr(plans, "_strip_rows", lambda *_: 32)
    scarce(3)
    events = iter_infer(model, batch, **EXACT)
    for _ in range(3):
        next(events)  # the third piece fails and comes again, smaller
    assert scarce.held[2]() is None


def test_other_errors_are_not_taken_for_want_of_memory(scarce, monkeypatch):
    model, batch = narrow("compact"), planes_of(161, 45)
    monkeypatch.setattr(plans, "_strip_rows", lambda *_: 32)
    scarce(2, error=lambda: RuntimeError("expected scalar type Half"))
    with pytest.raises(RuntimeError, match="scalar type"):
        run(model, batch)


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
            assert steps == 2 * len(plan(attentive, (h, w), tile=tile, **EXACT).parts)
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


def test_windows_that_read_less_than_the_image_equal_the_whole():
    """The tests above have images within the receptive field: here every second window has its own border."""
    model = narrow("compact", branch_widths=(8,), refine_dilations=(1,), head_levels=1)
    radius, partial = model.config.receptive_radius, 0
    for number, long in enumerate(range(2 * radius + 37, 2 * radius + 107, 7)):
        shape = (long, 20 + number) if number % 2 else (20 + number, long)
        batch = planes_of(*shape, seed=number)
        batch[..., : shape[1] // 2] *= 0.2
        whole, _ = run(model, batch, tile=None)
        for tile in (16, 32, 48):
            assert difference(run(model, batch, tile=tile)[0], whole) <= 1e-5, (shape, tile)
            size = model.config.working_size(*shape)
            made = plan(model, shape, tile=tile, **EXACT)
            partial += sum((w.rows.read[1] - w.rows.read[0], w.columns.read[1] - w.columns.read[0]) != size
                           for w in made.parts)  # fmt: skip
            near = run(model, batch, tile=tile, halo=16)[0]
            assert difference(near, whole) > 1e-5
    assert partial > 100


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


@pytest.mark.parametrize("halo", [0, "exact"])
def test_tiles_of_a_position_dependent_network_are_exact_too(halo):
    model = official()
    for h, w in ((17, 33), (37, 51), (49, 16)):
        batch = planes_of(h, w)
        whole, _ = run(model, batch, tile=None, masks=True)
        tiled, _ = run(model, batch, tile=16, halo=halo, masks=True)
        assert difference(tiled, whole) <= 1e-5
        assert (tiled.report["tile"], tiled.report["halo"], tiled.report["fallbacks"]) == (16, 0, [])
        for name, mask in whole.masks.items():
            np.testing.assert_allclose(tiled.masks[name], mask, atol=1e-5)


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
    told = [run(attentive, batch, tile=16, halo=halo)[0].report for halo in (0, 16)]
    # Told within a factor of two: of three windows, and with gains that are the tiles' own.
    for report, error in zip(told, errors[:2], strict=True):
        assert error / 2 < report["halo_error"] < 2 * error
    assert "halo_error" not in run(attentive, batch, tile=16)[0].report
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
            monkeypatch.setattr(devices, "free_memory", lambda _, free=free: free)
            for shape in ((64, 64), (3000, 17), (10_000, 10_000)):
                made = plan(model, shape, **EXACT)
                pixel = bytes_per_pixel(config, "float32")
                sides = [w.rows.read[1] - w.rows.read[0] for w in made.parts]
                wide = [w.columns.read[1] - w.columns.read[0] for w in made.parts]
                largest = max(a * b for a, b in zip(sides, wide, strict=True)) * pixel
                floor = made.tile == 2 * config.stride
                assert floor or largest <= free / 2
                if shape[0] * shape[1] * pixel < 0.3 * min(free, 6 << 30):
                    assert made.tile is None


def test_automatic_strips_keep_to_the_memory_and_small_images_stay_whole(monkeypatch):
    for preset in ("compact", "base", "paper"):
        config = PRESETS[preset]
        with torch.device("meta"):
            model = wrap(DMGN(config))
        shapes = ((64, 64), (10_000, 10_000), (10_000, 300), (300, 10_000))
        for free, shape in product((1 << 30, 1 << 34, 1 << 40), shapes):
            monkeypatch.setattr(devices, "free_memory", lambda _, free=free: free)
            made = plan(model, shape, tile="strips", **EXACT)
            height, width = config.working_size(*shape)
            if made.strip is None:
                assert height * width <= 2 * plans._STRIP_PIXELS["cpu"]
                continue
            assert made.strip % config.stride == 0
            assert made.strip == config.stride or made.strip * width <= plans._STRIP_PIXELS["cpu"]
            held = (made.strip + config.receptive_radius) * width * bytes_per_pixel(config, "float32")
            assert made.strip == config.stride or held <= free / 2
            assert plan(model, shape, tile="strips", batch=4, **EXACT).strip <= made.strip


@pytest.mark.skipif(memory._glibc() is None, reason="no glibc")
def test_memory_stays_while_it_is_used_again_and_goes_back_afterwards():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with memory.reused(), memory.reused():
        maps = [torch.ones(1 << 20) for _ in range(50)]  # of 4 MiB each
        full = resident()
        del maps
        assert resident() > full - (100 << 20)
    assert resident() < full - (150 << 20)


@pytest.mark.skipif(memory._glibc() is None, reason="no glibc")
def test_a_stack_keeps_its_memory_from_batch_to_batch(monkeypatch, tiny_network):
    from napari_dmgn import restore
    from napari_dmgn.api import job

    trims, libc = [], memory._glibc()
    monkeypatch.setattr(memory, "_glibc", lambda: SimpleNamespace(mallopt=libc.mallopt, malloc_trim=trims.append))
    monkeypatch.setattr(job, "_BATCH_PIXELS", 1)
    stack = np.random.default_rng(1).random((3, 24, 24), np.float32)
    assert restore(stack, model=wrap(tiny_network), device="cpu").provenance["windows"] == 3
    assert trims == [0]


def test_what_a_frozen_collector_passes_over_is_freed_where_memory_runs_out():
    class Circle:
        pass

    old = Circle()
    old.itself = old
    seen = weakref.ref(old)
    gc.freeze()
    try:
        del old
        gc.collect()
        assert seen() is not None
        memory.release(MemoryError(), "cpu")
        assert seen() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("tile", [None, 16, "auto"])
def test_a_callers_autocast_changes_nothing(attentive, dtype, precision, tile):
    settings = {"device": "cpu", "precision": precision, "tile": tile}
    batch = planes_of(40, 33)
    expected = list(iter_infer(attentive, batch, **settings))[-1]
    with torch.autocast("cpu", dtype):
        found = list(iter_infer(attentive, batch, **settings))[-1]
    for name in ("background", "coarse", "noise", "noise_map"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
