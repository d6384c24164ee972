"""Dask arrays: the results of `restore`, bit for bit, on any scheduler; the halo reads only what it needs."""

import numpy as np
import pytest

import napari_dmgn as dmgn

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

PARTS = ("background", "noise", "noise_map", "coarse")
SETTINGS = {"device": "cpu", "precision": "float32"}


def noise(shape, dtype="u2", seed=0):
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(0.4, 0.3, shape).astype(dtype)
    return random.integers(0, 200 if np.dtype(dtype).itemsize == 1 else 4000, shape, dtype=dtype)


def computed(lazy) -> dict[str, np.ndarray]:
    arrays = dask.compute(*(getattr(lazy, part) for part in PARTS), scheduler="threads", num_workers=2)
    return dict(zip(PARTS, arrays, strict=True))


def assert_equal(lazy, expected):
    for part, array in computed(lazy).items():
        wanted = getattr(expected, part)
        assert getattr(lazy, part).shape == wanted.shape
        assert getattr(lazy, part).dtype == array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted, err_msg=part)


LAYOUTS = {
    "plane": ((70, 90), (33, 40), {}),
    "colours": ((60, 50, 3), (31, 17, 2), {}),
    "alpha": ((40, 50, 4), (40, 50, 4), {}),
    "stack": ((3, 40, 36), (2, 40, 20), {}),
    "stack of colours": ((2, 2, 33, 20, 3), (1, 2, 16, 20, 3), {"rgb": True}),
    "channels first": ((2, 40, 36), (1, 40, 36), {"channel_axis": 0}),
    "channels last": ((40, 36, 2), (20, 36, 2), {"channel_axis": -1}),
    "channels between": ((2, 3, 32, 36), (2, 2, 32, 36), {"channel_axis": 1}),
    "one pixel": ((1, 1), (1, 1), {}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("tile", [None, 16])
def test_lazy_equals_in_memory_bit_for_bit(name, tile, tiny_checkpoint):
    shape, chunks, axes = LAYOUTS[name]
    image = noise(shape, "u1" if name == "alpha" else "u2")
    settings = SETTINGS | axes | {"model": tiny_checkpoint, "tile": tile}
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=chunks), **settings)
    assert_equal(lazy, dmgn.restore(image, **settings))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
@pytest.mark.parametrize("axes", [{}, {"channel_axis": 0}, {"channel_axis": 2}])
def test_chunks_of_length_zero(dtype, axes, tiny_checkpoint):
    image = noise((2, 20, 18), dtype)
    lazy = da.from_array(image, chunks=((0, 1, 0, 1), (0, 20, 0), (9, 0, 9)))
    settings = SETTINGS | axes | {"model": tiny_checkpoint}
    assert_equal(dmgn.restore_lazy(lazy, **settings), dmgn.restore(image, **settings))


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "i8", "f2", ">f4", "f8"])
@pytest.mark.parametrize("wanted", ["auto", "dtype", (10.0, 900.0)])
def test_every_type_and_range(dtype, wanted, tiny_checkpoint):
    image = noise((2, 20, 24), dtype[-2:]).astype(dtype)
    if image.dtype.kind == "f":
        image[0, 3, 4], image[1, 7, 7] = np.nan, np.inf
        image *= 3  # beyond 0..1: "auto" is the extremes
    settings = SETTINGS | {"model": tiny_checkpoint, "intensity_range": wanted, "channel_axis": 0}
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=(2, 13, 24)), **settings)
    assert_equal(lazy, dmgn.restore(image, **settings))


def test_holes_are_filled_across_the_borders_of_windows(tiny_checkpoint):
    image = noise((150, 140), "f4")
    image[10:60, 12:20] = np.nan
    image[100:, 64:90] = np.inf
    settings = SETTINGS | {"model": tiny_checkpoint, "tile": 16, "halo": 16}
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=(40, 40)), **settings)
    assert_equal(lazy, dmgn.restore(image, **settings))


def test_a_window_reads_only_the_chunks_that_it_needs(tiny_checkpoint):
    from dask.core import get_dependencies

    image = da.from_array(noise((512, 32), "u1"), chunks=(16, 32), name="source")
    lazy = dmgn.restore_lazy(image, model=tiny_checkpoint, tile=32, halo=16, intensity_range="dtype", **SETTINGS)
    graph = lazy.background.dask.to_dict()
    for kind in ("sums", "results"):
        (task,) = (key for key in graph if isinstance(key, tuple) and key[1:] == (kind, 0, 4))
        blocks = {key[1] for key in get_dependencies(graph, task) if key[0] == "source"}
        assert blocks == {7, 8, 9, 10}  # rows 128 to 160 and the halo


def tasks(lazy) -> list[str]:
    keys = lazy.background.dask.to_dict()
    return [key[1] for key in keys if isinstance(key, tuple) and key[0].startswith("restore-")]


def test_frames_are_single_tasks_where_they_are_single_windows(tiny_checkpoint):
    image = da.zeros((6, 400, 400), chunks=(1, 400, 400), dtype="u1")
    lazy = dmgn.restore_lazy(image, model=tiny_checkpoint, **SETTINGS)
    assert lazy.provenance["windows"] == 6
    assert lazy.provenance["tile"] is None
    assert lazy.background.numblocks == (6, 1, 1)
    assert sorted(tasks(lazy)) == ["limits", "recipe", *["results"] * 6]


def test_small_frames_share_a_task(tiny_checkpoint):
    image = da.zeros((6, 16, 16), chunks=(2, 16, 16), dtype="u1")
    lazy = dmgn.restore_lazy(image, model=tiny_checkpoint, **SETTINGS)
    assert lazy.background.numblocks == (6, 1, 1)
    assert sorted(tasks(lazy)) == ["limits", "recipe", "results"]


def test_nothing_is_read_or_loaded_before_it_is_computed(tiny_checkpoint, monkeypatch):
    def never(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("napari_dmgn.zoo._load", never)
    image = da.zeros((100_000, 100_000, 3), chunks=(10_000, 10_000, 3), dtype="u1").map_blocks(never, dtype="u1")
    lazy = dmgn.restore_lazy(image, model=tiny_checkpoint, **SETTINGS)
    assert lazy.background.shape == (100_000, 100_000, 3)
    assert lazy.noise_map.shape == (100_000, 100_000)
    assert max(lazy.noise_map.chunks[0]) <= 2048


def test_tiles_that_are_approximate_are_warned_of_once(tiny_network, tmp_path, caplog):
    from dataclasses import replace

    from napari_dmgn import checkpoint
    from napari_dmgn.model.network import DMGN

    path = tmp_path / "corners.safetensors"
    network = DMGN(replace(tiny_network.config, align_corners=True))
    checkpoint.save(path, network, task="rain", card={"name": "corners", "licence": "BSD-3-Clause"})
    image = da.from_array(noise((3, 200, 220)), chunks=(1, 50, 50))
    assert dmgn.restore_lazy(image, model=path, tile=None).provenance["fallbacks"] == []
    assert not caplog.records
    (fallback,) = dmgn.restore_lazy(image, model=path, tile=32).provenance["fallbacks"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"model 'corners': {fallback}; tile=None restores whole frames"


def test_a_model_without_a_file_goes_with_the_tasks(tiny_network):
    from napari_dmgn.model.descriptor import Metadata, Model

    model = Model(tiny_network, Metadata(name="mine", task="rain", card={}, sha256="0" * 64))
    image = noise((40, 40))
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=(40, 40)), model=model, tile=16, **SETTINGS)
    assert_equal(lazy, dmgn.restore(image, model=model, tile=16, **SETTINGS))


def test_a_worker_refuses_another_file_of_the_same_name(tiny_checkpoint, tmp_path):
    path = tmp_path / "moved.safetensors"
    path.write_bytes(tiny_checkpoint.read_bytes())
    lazy = dmgn.restore_lazy(da.from_array(noise((16, 16)), chunks=(16, 16)), model=path, **SETTINGS)
    path.unlink()
    with pytest.raises(ValueError, match="no model 'moved' with sha256"):
        computed(lazy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 8))}, "takes a Dask array; got ndarray"),
        ({"image": da.zeros((8,))}, "at least 2 axes"),
        ({"image": da.zeros((0, 8))}, "no pixels"),
        ({"image": da.zeros((8, 8), dtype=complex)}, "wanted integers or floats"),
        ({"image": da.zeros((8, 8))[da.zeros(8) > 0]}, "compute_chunk_sizes"),
        ({"task": "rian"}, "did you mean 'rain'"),
        ({"tile": 0}, "tile is 'auto', None or a whole number"),
        ({"halo": -1}, "halo is"),
        ({"precision": "half"}, "unknown precision"),
        ({"device": "abacus"}, "unknown device"),
        ({"device": None}, "device is None; wanted auto, cpu"),
        ({"device": 5}, "device is 5; wanted auto, cpu"),
        ({"image": da.ma.masked_greater(da.ones((8, 8)), 3)}, "mask would be lost"),
        ({"intensity_range": (3, 1)}, "intensity_range is"),
        ({"channel_axis": 5, "image": da.zeros((2, 8, 8))}, "outside the 3 axes"),
        ({"dtype": "text"}, "dtype is"),
        ({"model": "none"}, "no model 'none'"),
    ],
)
def test_mistakes_are_told_before_any_work(change, message, tiny_checkpoint):
    arguments = {"image": da.zeros((8, 8)), "model": tiny_checkpoint} | change
    with pytest.raises(ValueError, match=message):
        dmgn.restore_lazy(**arguments)
