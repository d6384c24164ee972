"""Windows where memory runs out: the same result in smaller pieces, at last on the CPU, and it is told."""

import json
from itertools import count

import numpy as np
import pytest
import torch

import napari_dmgn as dmgn
from napari_dmgn.cli import main
from napari_dmgn.files import create_store, open_store, open_to_write
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.inference import Plan, phases
from napari_dmgn.lazy.pieces import in_pieces
from napari_dmgn.lazy.volume import describe
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.tiling import Span, Window

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

PARTS = ("background", "noise", "noise_map", "coarse")
SETTINGS = {"device": "cpu", "precision": "float32"}


def noise(shape):
    return np.random.default_rng(1).integers(0, 4000, shape, dtype="u2")


@pytest.fixture
def scarce(monkeypatch):
    """Make the network run out of memory at these of its windows, counted from 1."""

    def fail_at(*places):
        calls, real = count(1), phases.separate

        def failing(*arguments, **options):
            if next(calls) in places:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return real(*arguments, **options)

        monkeypatch.setattr(phases, "separate", failing)

    return fail_at


@pytest.mark.parametrize(("tile", "place"), [(None, 1), (32, 1), (32, 5), (32, 12)])
def test_restore_lazy_halves_what_does_not_fit(tile, place, scarce, tiny_checkpoint, caplog):
    image = noise((78, 60))
    settings = SETTINGS | {"model": tiny_checkpoint, "tile": tile}
    wanted = dmgn.restore(image, **settings)
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=(20, 60)), **settings)
    scarce(place)
    found = dask.compute(*(getattr(lazy, part) for part in PARTS), scheduler="synchronous")
    for part, array in zip(PARTS, found, strict=True):
        expected = getattr(wanted, part)
        assert array.shape == expected.shape
        span = 1 if part == "noise_map" else 4000
        assert np.abs(array.astype(float) - expected).max() <= max(1e-5 * span, array.dtype.kind == "u")
    (record,) = caplog.records
    assert "out of memory on cpu with " in record.getMessage()
    assert "halved to " in record.getMessage()


@pytest.mark.parametrize("place", [1, 5, 18])
def test_a_store_is_restored_all_the_same_and_its_provenance_tells(
    place, scarce, tmp_path, tiny_checkpoint, caplog, capsys
):
    pytest.importorskip("zarr")
    image, source = noise((96, 96)), tmp_path / "big.ome.zarr"
    create_store(
        source, shape=image.shape, dtype=image.dtype, axes="YX", chunk=24, like=ImageFile(array=image), name="big"
    )
    open_to_write(source, "YX")[...] = image
    outputs = [tmp_path / "plenty.ome.zarr", tmp_path / "scarce.ome.zarr"]
    model = ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]
    for out in outputs:
        assert main(["restore", str(source), "-o", str(out), "--tile", "32", "--json", *model]) == 0
        if out == outputs[0]:
            capsys.readouterr()
            scarce(place)
    for part in ("background", "noise", "noise_map"):
        wanted, found = (np.asarray(open_store(out / part).array).astype(int) for out in outputs)
        assert np.abs(found - wanted).max() <= 1
    (report,) = json.loads(capsys.readouterr().out)
    (text,) = report["provenance"]["fallbacks"]
    assert text == "out of memory on cpu with windows of 32x32 pixels: halved to 16x16"
    assert [text in record.getMessage() for record in caplog.records] == [True]


def whole(config) -> tuple[Window, Plan]:
    span = Span(read=(0, 128), paste=(0, 128))
    plan = Plan(shape=(128, 128), device="cuda", precision="float32", tile=128, halo=8, parts=())
    assert config.working_size(128, 128) == (128, 128)
    return Window(rows=span, columns=span), plan


def side(piece: Window) -> int:
    return piece.rows.paste[1] - piece.rows.paste[0]


@pytest.mark.parametrize("fits", [64, 32, 16])
def test_pieces_cover_the_window_once_each(fits, tiny_network):
    window, plan = whole(tiny_network.config)

    def work(piece, plan):
        assert plan.device == "cuda"
        if side(piece) > fits:
            raise torch.OutOfMemoryError
        return piece

    pieces, said = in_pieces(work, window, plan, tiny_network.config)
    covered = np.zeros((128, 128), int)
    for piece in pieces:
        covered[slice(*piece.rows.paste), slice(*piece.columns.paste)] += 1
    assert (covered == 1).all()
    assert {side(piece) for piece in pieces} == {fits}
    assert len(said) == {64: 1, 32: 2, 16: 3}[fits]


def test_a_card_that_holds_nothing_is_left_for_the_cpu(tiny_network):
    window, plan = whole(tiny_network.config)

    def work(piece, plan):
        if plan.device == "cuda" or side(piece) > 64:
            raise torch.OutOfMemoryError
        return piece

    pieces, said = in_pieces(work, window, plan, tiny_network.config)
    assert [side(piece) for piece in pieces] == [64] * 4
    assert said[-2:] == [
        "out of memory on cuda with windows of 16x16 pixels: went on on the CPU",
        "out of memory on cpu with windows of 128x128 pixels: halved to 64x64",
    ]


def test_what_fits_nowhere_is_told_and_other_errors_are_not_taken_for_it(tiny_network):
    window, plan = whole(tiny_network.config)

    def full(*_):
        raise torch.OutOfMemoryError("no room")

    def bug(*_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(MemoryError, match=r"out of memory on cpu .* cannot be smaller: no room"):
        in_pieces(full, window, plan, tiny_network.config)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_pieces(bug, window, plan, tiny_network.config)


def test_tiles_are_sized_by_the_memory_of_the_device_that_was_named(tiny_checkpoint, monkeypatch):
    free = {"cpu": 1 << 36, "cuda": 4 << 20}
    monkeypatch.setattr("napari_dmgn.devices.free_memory", free.__getitem__)

    def tile(device):
        settings = SETTINGS | {"device": device, "model": tiny_checkpoint, "tile": "auto", "halo": 16, "dtype": "same"}
        axes = {"channel_axis": None, "rgb": None, "intensity_range": "auto"}
        return describe((8000, 8000), np.dtype("u2"), "rain", **settings, **axes).recipe.tile

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert tile("cuda") == tile("cpu") == 2048  # a worker may have one
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert tile("cuda") < 256
    assert tile("cpu") == 2048


def test_the_configuration_travels_with_the_recipe(tiny_checkpoint, tiny_network):
    settings = SETTINGS | {"model": tiny_checkpoint, "tile": 16, "halo": "exact", "dtype": "same"}
    axes = {"channel_axis": None, "rgb": None, "intensity_range": "auto"}
    recipe = describe((64, 64), np.dtype("u2"), "rain", **settings, **axes).recipe
    assert isinstance(recipe.config, NetworkConfig)
    assert recipe.config == tiny_network.config
