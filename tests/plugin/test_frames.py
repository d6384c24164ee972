"""Stacks: frame by frame, stopped and resumed, lazy, and into a store."""

import dataclasses
import gc

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtCore", exc_type=ImportError)

from napari.layers import Image

from napari_dmgn import api
from napari_dmgn.plugin.saving import axis_letters
from napari_dmgn.plugin.source import capture
from napari_dmgn.plugin.worker import Cancelled, Failed, Request, Restored, run


@pytest.fixture(scope="module")
def stack():
    return np.random.default_rng(0).integers(100, 4000, (3, 400, 360), np.uint16)


@pytest.fixture
def request_of(tiny_checkpoint):
    def make(data, *, crop=None, **settings):
        rgb = data.shape[-1] == 3
        layer = Image(data, name="x", rgb=rgb, contrast_limits=(0, 4000), scale=(2,) * (data.ndim - rgb))
        fixed = {"model": tiny_checkpoint, "device": "cpu", "precision": "float32"}
        return Request(source=capture(layer, crop=crop), **fixed | settings)

    return make


def outcome_of(events):
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def by_output(outcome):
    return {layer.settings["metadata"]["napari_dmgn"]["output"]: np.asarray(layer.data) for layer in outcome.layers}


def test_frame_by_frame_is_what_a_script_gets(request_of, stack, tiny_checkpoint):
    seen, outcome = outcome_of(run(request_of(stack, masks=True, outputs=("background", "noise", "residual")), bool))
    expected = api.restore(stack, model=tiny_checkpoint, rgb=False, device="cpu", precision="float32", masks=True)
    found = by_output(outcome)
    # Frames that pass together are summed in another order on some processors: one of 65536 levels, at most.
    np.testing.assert_allclose(found["background"].astype(int), expected.background, rtol=0, atol=1)
    np.testing.assert_allclose(found["noise"], expected.noise, atol=1e-2)
    np.testing.assert_allclose(found["residual"], stack.astype(float) - found["background"] - found["noise"], atol=0.6)
    masks = outcome.layers[-1].settings["metadata"]["napari_dmgn_masks"]
    assert masks.keys() == expected.masks.keys()
    assert all(masks[name].shape == mask.shape for name, mask in expected.masks.items())
    assert outcome.provenance["intensity_range"] == expected.provenance["intensity_range"]
    steps = [event for event in seen if event.total]
    assert [event.done for event in steps] == list(range(1, steps[-1].total + 1))
    assert {event.frame for event in steps} == {0, 1, 2}


def test_error_of_a_short_halo_is_the_largest_of_all_frames(request_of, stack, tiny_checkpoint):
    frames = stack.copy()
    frames[2] = 100  # the tiny network errs most where all is alike
    settings = {"tile": 128, "halo": 4, "intensity_range": (0.0, 4000.0)}
    _, outcome = outcome_of(run(request_of(frames, **settings), bool))
    fixed = {"model": tiny_checkpoint, "rgb": False, "device": "cpu", "precision": "float32"}
    errors = [api.restore(frame, **fixed, **settings).provenance["halo_error"] for frame in frames]
    assert outcome.provenance["halo_error"] == pytest.approx(max(errors))
    assert max(errors) > 1.2 * errors[0]


def test_frames_at_a_working_size_are_those_of_a_script_in_a_store_too(request_of, stack, tiny_checkpoint, tmp_path):
    pytest.importorskip("zarr")
    settings = {"downscale": 3, "intensity_range": (0.0, 4000.0)}
    fixed = {"model": tiny_checkpoint, "rgb": False, "device": "cpu", "precision": "float32"}
    expected, full = (
        np.stack([api.restore(frame, **fixed, **settings | more).background for frame in stack])
        for more in ({}, {"downscale": 1})
    )
    assert np.abs(expected.astype(int) - full).max() > 10
    for store in (None, tmp_path / "out.zarr"):
        _, outcome = outcome_of(run(request_of(stack, store=store, **settings), bool))
        np.testing.assert_allclose(by_output(outcome)["background"].astype(int), expected, rtol=0, atol=1)
        assert outcome.provenance["downscale"] == 3


@pytest.mark.parametrize(("factor", "first"), [(8, 1), (4, 0)])
def test_store_is_resumed_at_its_own_working_size_only(request_of, stack, tmp_path, factor, first):
    pytest.importorskip("zarr")
    request = request_of(stack, store=tmp_path / "out.zarr", downscale=8, intensity_range=(0.0, 4000.0))
    done = []
    events = run(request, lambda: bool(done))
    for event in events:
        if event.frame == 1:
            done.append(event)
            break
    assert outcome_of(events)[1].provenance["frames_done"] == 1
    again = dataclasses.replace(request, downscale=factor)
    seen, outcome = outcome_of(run(again, bool))
    assert min(event.frame for event in seen) == first
    _, kept = outcome_of(run(dataclasses.replace(again, store=None), bool))
    np.testing.assert_array_equal(by_output(outcome)["background"], by_output(kept)["background"])


def test_stopped_and_resumed_is_the_same_as_uninterrupted(request_of, stack):
    request = request_of(stack)
    _, whole = outcome_of(run(request, bool))
    frames_seen = []
    events = run(request, lambda: len(frames_seen) > 0)
    for event in events:
        if event.frame == 2 and event.total:
            frames_seen.append(event.frame)
            break
    _, part = outcome_of(events)
    assert isinstance(part, Restored)
    assert part.provenance["frames_done"] == 2
    found = by_output(part)["background"]
    np.testing.assert_array_equal(found[:2], by_output(whole)["background"][:2])
    assert not found[2].any()
    _, rest = outcome_of(run(part.unfinished.request, bool, part.unfinished.volume))
    assert rest.unfinished is None
    for output, array in by_output(whole).items():
        np.testing.assert_array_equal(by_output(rest)[output], array)
    assert rest.provenance["conservation"] == whole.provenance["conservation"]
    assert rest.provenance["clipped_pixels"] == whole.provenance["clipped_pixels"]


def test_stopped_before_a_frame_is_done_adds_nothing(request_of, stack):
    started = []
    events = run(request_of(stack), lambda: bool(started))
    next(events)
    started.append(True)
    assert outcome_of(events)[1] == Cancelled()


def test_region_sees_the_range_of_the_whole_layer(request_of, stack):
    bright = stack.copy()
    bright[0, 0, 0] = 60_000
    _, outcome = outcome_of(run(request_of(bright, crop=((1, 2), (40, 72), (0, 48))), bool))
    assert outcome.provenance["intensity_range"] == [0, 60_000]
    assert by_output(outcome)["background"].shape == (1, 32, 48)


def test_lazy_frames_are_read_one_at_a_time(request_of, stack):
    da = pytest.importorskip("dask.array")
    read = []

    def block(values, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return values

    lazy = da.from_array(stack, chunks=(1, -1, -1)).map_blocks(block, dtype=stack.dtype, meta=np.empty((0,), np.uint16))
    request = request_of(lazy, intensity_range=(0, 4000))
    read.clear()
    events = run(request, bool)
    held = [(event.frame, max(read)) for event in events]
    assert all(frame == last for frame, last in held)  # nothing is read ahead of its turn
    assert read == [0, 1, 2]


@pytest.mark.parametrize("colours", [False, True])
def test_store_holds_what_memory_would(request_of, stack, tmp_path, colours):
    zarr = pytest.importorskip("zarr")
    data = np.stack([stack] * 3, axis=-1)[:2, :300, :300] if colours else stack
    _, kept = outcome_of(run(request_of(data), bool))
    path = tmp_path / "out.zarr"
    request = request_of(data, store=path)
    stop = []
    events = run(request, lambda: bool(stop))
    for event in events:
        if event.frame == 1 and event.total:
            stop.append(event)
            break
    _, part = outcome_of(events)
    assert part.provenance["frames_done"] == 1
    assert not path.exists()
    # A later session goes on with the same settings.
    seen, outcome = outcome_of(run(request, bool))
    assert min(event.frame for event in seen if event.total) == 1
    for output, array in by_output(kept).items():
        if output != "noise" or not colours:  # the layer of colour noise is rounded, the file is not
            np.testing.assert_array_equal(by_output(outcome)[output], array)
    image = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]
    assert image["datasets"][0]["coordinateTransformations"][0]["scale"][-2:] == [2, 2]
    assert not list(tmp_path.glob(".*"))
    _, again = outcome_of(run(request, bool))
    assert isinstance(again, Failed)
    assert "exists" in again.message


@pytest.mark.parametrize("end", ["cancel", "error", "unreadable", "quit", "no store"])
def test_nothing_done_leaves_no_folder(request_of, stack, tmp_path, monkeypatch, end):
    pytest.importorskip("zarr")
    from napari_dmgn import files

    def fail(*_, **__):
        raise OSError("the disk is full")

    request = request_of(stack, store=tmp_path / "out.zarr")
    if end == "error":
        monkeypatch.setattr(api, "iter_restore", fail)
    elif end == "no store":
        monkeypatch.setattr(files, "create_store", fail)
    elif end == "unreadable":
        from napari_dmgn import zoo

        monkeypatch.setattr(zoo, "shared_model", fail)
    stop = []
    events = run(request, lambda: bool(stop))
    if end == "quit":
        next(events)
        assert list(tmp_path.iterdir())
        events.close()
    elif end == "cancel":
        next(events)
        stop.append(True)
        assert outcome_of(events)[1] == Cancelled()
    else:
        assert outcome_of(events)[1].message == "the disk is full"
    assert list(tmp_path.iterdir()) == []


def test_store_of_other_pixels_is_not_resumed(request_of, stack, tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "out.zarr"
    done = []
    events = run(request_of(stack, store=path, intensity_range=(0, 4000)), lambda: bool(done))
    for event in events:
        if event.frame == 1:
            done.append(event)
            break
    assert outcome_of(events)[1].provenance["frames_done"] == 1
    other = stack.copy()
    other[0, 7, 7] += 1
    request = request_of(other, store=path, intensity_range=(0, 4000))
    seen, outcome = outcome_of(run(request, bool))
    assert min(event.frame for event in seen) == 0
    _, kept = outcome_of(run(dataclasses.replace(request, store=None), bool))
    np.testing.assert_array_equal(by_output(outcome)["background"], by_output(kept)["background"])


@pytest.mark.parametrize("stored", [False, True])
def test_frames_before_an_error_are_kept(request_of, stack, tmp_path, monkeypatch, stored):
    if stored:
        pytest.importorskip("zarr")
    real = api.iter_restore
    calls = []

    def failing(image, *arguments, **settings):
        calls.append(image)
        if len(calls) == 3:
            raise OSError("the card is gone")
        return real(image, *arguments, **settings)

    monkeypatch.setattr(api, "iter_restore", failing)
    request = request_of(stack, store=tmp_path / "out.zarr" if stored else None)
    _, part = outcome_of(run(request, bool))
    assert part.provenance["frames_done"] == 2
    assert part.problem.message == "the card is gone"
    _, rest = outcome_of(run(part.unfinished.request, bool, part.unfinished.volume))
    assert (rest.problem, rest.unfinished) == (None, None)
    assert len(calls) == 4
    _, whole = outcome_of(run(request_of(stack), bool))
    np.testing.assert_array_equal(by_output(rest)["background"], by_output(whole)["background"])


def test_result_type_is_a_choice_and_clipped_pixels_are_counted(request_of, stack):
    request = request_of(stack[:1], dtype="uint8", outputs=("background",))
    _, outcome = outcome_of(run(request, bool))
    assert by_output(outcome)["background"].dtype == np.uint8
    assert outcome.provenance["clipped_pixels"] > 0


def test_a_core_is_left_to_the_gui(fake_restore, monkeypatch):
    import torch

    from napari_dmgn.plugin import beside_gui

    seen = []
    before = torch.get_num_threads()
    monkeypatch.setattr(beside_gui.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    layer = Image(np.zeros((4, 5)), contrast_limits=(0, 1))
    outcome_of(run(Request(source=capture(layer)), bool))
    assert seen == [3, 4]
    monkeypatch.undo()
    assert torch.get_num_threads() == before


def test_runs_that_overlap_give_the_cores_back(monkeypatch):
    import torch

    from napari_dmgn.plugin import beside_gui as module

    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    first, second = module.beside_gui(), module.beside_gui()
    with first:
        second.__enter__()  # the later run ends later
    assert threads[-1] == 3
    second.__exit__(None, None, None)
    assert threads[-1] == 4


def test_full_collections_pass_over_what_was_there_before_a_run(request_of, stack):
    """Such a sweep would hold up the GUI; after the run all is collected as before it."""
    before = gc.get_freeze_count()
    events = run(request_of(stack), bool)
    next(events)
    assert gc.get_freeze_count() > before + 10_000
    events.close()
    assert gc.get_freeze_count() == before


def test_what_others_froze_stays_frozen(request_of, stack):
    gc.freeze()
    try:
        outcome_of(run(request_of(stack), bool))
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_model_is_let_go_where_the_user_wants_it(request_of, stack):
    from napari_dmgn import zoo

    request = request_of(stack[:1, :64, :64])
    outcome_of(run(request, bool))
    assert zoo._load.cache_info().currsize > 0
    outcome_of(run(dataclasses.replace(request, keep_model=False), bool))
    assert zoo._load.cache_info().currsize == 0


def test_channels_of_colours_are_saved_as_frames():
    placement = {"axis_labels": ("c", "y", "x"), "units": ("pixel", "pixel", "pixel")}
    assert axis_letters(placement, colours=False) == "CYX"
    assert axis_letters(placement, colours=True) == "ZYXS"
