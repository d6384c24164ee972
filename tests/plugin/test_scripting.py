"""Layers in scripts: restore takes them, add_to puts results on them, and copied recipes do what the widget did."""

import dataclasses
import shlex

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel

import napari_dmgn as dmgn
from napari_dmgn.plugin import recipe
from napari_dmgn.plugin.source import capture
from napari_dmgn.plugin.worker import Request

ENGINE = {"device": "cpu", "precision": "float32"}
PLACED = {"scale": (0.5, 2), "rotate": 30, "translate": (7, -3), "shear": (0.3,), "units": ("um", "um")}


@pytest.fixture
def viewer():
    return ViewerModel()


def test_restore_takes_a_layer_and_add_to_places_its_results(viewer, tiny_checkpoint, rainy):
    layer = viewer.add_image(rainy, rgb=True, name="street", **PLACED)
    restoration = dmgn.restore(layer, model=tiny_checkpoint, **ENGINE)
    expected = dmgn.restore(rainy, model=tiny_checkpoint, **ENGINE)
    np.testing.assert_array_equal(restoration.background, expected.background)
    layer.scale = (1, 1)  # later: the results belong to what was restored
    added = restoration.add_to(viewer, outputs=("background", "noise_map", "residual"))
    assert [entry.name for entry in added] == ["street residual", "street noise map", "street background"]
    assert added[-1].rgb
    for entry in added:
        np.testing.assert_allclose(entry.scale, PLACED["scale"])
        assert str(entry.units[0]) == "micrometer"


def test_three_gray_frames_are_no_colours(viewer, tiny_checkpoint):
    layer = viewer.add_image(np.zeros((5, 9, 3), np.uint8), rgb=False)
    assert dmgn.restore(layer, model=tiny_checkpoint, **ENGINE).noise_map.shape == (5, 9, 3)


@pytest.mark.parametrize("frames", [(), (2,)])
def test_colours_restored_as_channels_lead_and_lie_on_the_layer(viewer, tiny_checkpoint, rainy, frames):
    image = np.broadcast_to(rainy[:40, :50], (*frames, 40, 50, 3)).copy()
    n = len(frames) + 2
    placed = {**PLACED, "affine": [[1, 0.2, 3], [0, 1.5, 4], [0, 0, 1]]} if not frames else {"scale": (3, 0.5, 2)}
    layer = viewer.add_image(image, rgb=True, **placed)
    restoration = dmgn.restore(layer, model=tiny_checkpoint, channel_axis=n, **ENGINE)
    outputs = ("background", "noise", "noise_map", "coarse", "residual")
    for entry in restoration.add_to(viewer, outputs):
        assert not entry.rgb
        assert entry.data.shape == (3, *image.shape[:-1])
        for corner in np.ndindex(*(2,) * n):
            point = np.multiply(corner, np.array(image.shape[:-1]) - 1)
            world = entry.data_to_world((2, *point))
            np.testing.assert_allclose(world, (2, *layer.data_to_world(point)), atol=1e-6)
    np.testing.assert_array_equal(np.moveaxis(viewer.layers[-1].data, 0, -1), restoration.background)


def test_the_axes_are_those_of_the_call(viewer, tiny_checkpoint, rainy):
    outputs = ("background", "noise", "noise_map", "coarse", "residual")
    colours = viewer.add_image(rainy[:9, :20], rgb=True, **PLACED)
    for entry in dmgn.restore(colours, model=tiny_checkpoint, rgb=False, **ENGINE).add_to(viewer, outputs):
        assert (entry.rgb, entry.data.shape) == (False, (9, 20, 3))
        np.testing.assert_allclose(entry.data_to_world((4, 5, 2)), (*colours.data_to_world((4, 5)), 2), atol=1e-6)
    turned = np.eye(3)
    turned[:2, :2] = [[0, -1], [1, 0]]
    placed = {"scale": (2, 3, 7), "translate": (1, 2, 3), "rotate": turned, "shear": (0.5, 0, 0)}
    gray = viewer.add_image(rainy[:9, :20], rgb=False, units=("um", "um", "s"), **placed)
    added = dmgn.restore(gray, model=tiny_checkpoint, rgb=True, **ENGINE).add_to(viewer, outputs)
    assert (added[-1].rgb, added[-1].data.shape) == (True, (9, 20, 3))
    for entry in added:
        assert entry.ndim == 2
        np.testing.assert_allclose(entry.data_to_world((4, 5)), gray.data_to_world((4, 5, 0))[:2], atol=1e-6)
        assert [str(unit) for unit in entry.units] == ["micrometer", "micrometer"]


def test_pyramids_and_lazy_layers(viewer, tiny_checkpoint, rainy):
    da = pytest.importorskip("dask.array")
    gray = rainy[..., 0]
    layer = viewer.add_image([da.from_array(gray), da.from_array(gray[::2, ::2])], multiscale=True)
    assert dmgn.restore(layer, model=tiny_checkpoint, **ENGINE).background.shape == gray.shape


def test_what_is_no_image_is_said(viewer):
    labels = viewer.add_labels(np.zeros((4, 4), int), name="cells")
    with pytest.raises(ValueError, match="'cells' is a Labels layer"):
        dmgn.restore(labels)
    with pytest.raises(ValueError, match="is a Points layer"):
        dmgn.restore(viewer.add_points([[1, 2]]))


def test_results_of_an_array_can_be_added_too(viewer, tiny_checkpoint, rainy):
    restoration = dmgn.restore(rainy, model=tiny_checkpoint, **ENGINE)
    assert restoration.add_to(viewer)[-1].data.shape == rainy.shape
    with pytest.raises(ValueError, match="residual needs the input"):
        restoration.add_to(viewer, outputs=["residual"])
    for wrong in (["mask"], "mask", ["noise", "mask"]):
        with pytest.raises(ValueError, match=r"unknown outputs \['mask'\]; there are background, "):
            restoration.add_to(viewer, outputs=wrong)
    with pytest.raises(ValueError, match=r"outputs are names of background, .*; got 5"):
        restoration.add_to(viewer, outputs=5)
    with pytest.raises(ValueError, match="add_to takes a viewer; got None"):
        restoration.add_to(None)
    (one,) = restoration.add_to(viewer, "background")
    assert one.data.shape == rainy.shape
    assert len(restoration.add_to(viewer, None)) == 3


@pytest.mark.parametrize("colours", [False, True])
def test_a_residual_is_of_what_was_restored_or_refused(viewer, tiny_checkpoint, rainy, colours):
    layer = viewer.add_image(np.array(rainy[..., ::-1] if colours else rainy[::2, ::-2, 0]), rgb=colours, name="street")
    part = capture(layer, crop=((0, 40), (8, 30)))
    restorations = [dmgn.restore(each, model=tiny_checkpoint, **ENGINE) for each in (layer, part)]
    for restoration in restorations:
        restoration.add_to(viewer, "residual")
    layer.data[:] = 0
    count = len(viewer.layers)
    for restoration in restorations:
        with pytest.raises(ValueError, match="the pixels of 'street' have changed since"):
            restoration.add_to(viewer, ("background", "residual"))
        assert len(viewer.layers) == count
        restoration.add_to(viewer, "background")
        count += 1


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "f8"])
def test_results_of_pictures_of_one_value_can_be_added(viewer, tiny_checkpoint, dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    for value in (0, 1, 7, 1e12, -1e12, 1e30, info.min, info.max):
        if info.min <= value <= info.max:
            restoration = dmgn.restore(np.full((9, 9), value, dtype), model=tiny_checkpoint, **ENGINE)
            low, high = restoration.add_to(viewer)[-1].contrast_limits
            assert low < high
            assert abs(value) > 1e38 or np.float32(low) < np.float32(high)


@pytest.mark.parametrize("crop", [None, ((0, 2), (5, 50), (8, 70))])
def test_copied_python_does_the_same(viewer, tiny_checkpoint, rainy, crop):
    from napari_dmgn.plugin.worker import run

    stack = np.stack([rainy[..., 0], rainy[..., 1]]).astype(np.uint16) * 200
    layer = viewer.add_image(stack, name="it's", scale=(1, 2, 2))
    request = Request(
        source=capture(layer, crop=crop),
        model=tiny_checkpoint,
        tile=64,
        outputs=("background", "noise", "residual"),
        **ENGINE,
    )
    events = run(request, bool)
    try:
        while True:
            next(events)
    except StopIteration as end:
        residual, noise, background = end.value.layers
    exec(recipe.as_python(request), {"viewer": viewer})
    assert [entry.name for entry in viewer.layers[1:]] == ["it's residual", "it's noise", "it's background"]
    # Frames that pass together are summed in another order on some processors: one of 65536 levels, at most.
    np.testing.assert_allclose(viewer.layers[-1].data.astype(int), background.data, rtol=0, atol=1)
    np.testing.assert_allclose(viewer.layers[-2].data, noise.data, atol=0.1)
    np.testing.assert_allclose(viewer.layers[-3].data, residual.data, atol=1)
    np.testing.assert_allclose(viewer.layers[-1].translate, background.settings["translate"], atol=1e-6)


@pytest.mark.parametrize("crop", [None, ((1, 3), (0, 200), (8, 300))])
def test_copied_python_fills_a_store_frame_by_frame(viewer, tiny_checkpoint, tmp_path, crop):
    da = pytest.importorskip("dask.array")
    pytest.importorskip("zarr")
    from napari_dmgn.plugin.worker import run

    read = []

    def block(values, block_info=None):
        read.append(block_info[0]["chunk-location"][0])
        return values

    stack = np.random.default_rng(0).integers(0, 4000, (3, 400, 360), np.uint16)
    lazy = da.from_array(stack, chunks=(1, -1, -1)).map_blocks(block, dtype=stack.dtype, meta=np.empty((0,), np.uint16))
    layer = viewer.add_image(lazy, name="it's", contrast_limits=(0, 4000), units=("um",) * 3)
    request = Request(
        source=capture(layer, crop=crop),
        model=tiny_checkpoint,
        dtype="float32",
        outputs=("background", "noise_map"),
        store=tmp_path / "the widget's.zarr",
        intensity_range=(0.0, 4000.0),
        **ENGINE,
    )
    text = recipe.as_python(dataclasses.replace(request, store=tmp_path / "the script's.zarr"))
    events = run(request, bool)
    try:
        while True:
            next(events)
    except StopIteration as end:
        expected = end.value.layers
    read.clear()
    exec(text, {"viewer": viewer})
    wanted = [0, 1, 2] if crop is None else [1, 2]
    assert read == [wanted[0], wanted[-1], *wanted]  # the first and the last frame tell layers apart
    assert (tmp_path / "the script's.zarr").is_dir()
    assert [entry.name for entry in viewer.layers[1:]] == ["it's noise map", "it's background"]
    for entry, other in zip(viewer.layers[1:], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(entry.data), np.asarray(other.data))
        assert not isinstance(entry.data, np.ndarray)
        np.testing.assert_allclose(entry.translate, other.settings["translate"])
    with pytest.raises(RuntimeError, match=r"exists\. Choose another name"):
        exec(text, {"viewer": viewer})


def test_a_script_goes_on_where_the_store_was_left(viewer, tiny_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    from napari_dmgn import api
    from napari_dmgn.plugin.scripting import restore_into_store

    calls = []
    real = api.iter_restore

    def failing(image, *arguments, **settings):
        calls.append(image)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return real(image, *arguments, **settings)

    monkeypatch.setattr(api, "iter_restore", failing)
    layer = viewer.add_image(np.random.default_rng(0).integers(0, 256, (2, 400, 360), np.uint8), name="s")
    with pytest.raises(RuntimeError, match=r"the disk is gone\. The first 1 of 2 frames were done\."):
        restore_into_store(layer, tmp_path / "out.zarr", viewer, model=tiny_checkpoint, **ENGINE)
    assert len(viewer.layers) == 1
    added = restore_into_store(layer, tmp_path / "out.zarr", viewer, model=tiny_checkpoint, **ENGINE)
    assert (len(added), len(calls)) == (3, 3)
    with pytest.raises(ValueError, match="is a Labels layer"):
        restore_into_store(viewer.add_labels(np.zeros((4, 4), int)), tmp_path / "x.zarr", viewer)


@pytest.mark.parametrize("downscale", ["auto", 1, 3])
def test_working_size_is_in_a_recipe_where_it_was_chosen(viewer, small_sighted, rainy, downscale):
    layer = viewer.add_image(rainy, rgb=True, name="street")
    request = Request(source=capture(layer), task="haze", model=small_sighted, downscale=downscale, **ENGINE)
    text, command = recipe.as_python(request), shlex.split(recipe.as_command(request)[0])
    if downscale == "auto":
        assert "downscale" not in text
        assert "--downscale" not in command
    else:
        assert command[command.index("--downscale") + 1] == str(downscale)
    exec(text, {"viewer": viewer})
    expected = dmgn.restore(rainy, "haze", model=small_sighted, downscale=downscale, **ENGINE)
    np.testing.assert_array_equal(viewer.layers["street background"].data, expected.background)
    found = viewer.layers["street background"].metadata["napari_dmgn"]["downscale"]
    assert found == (2 if downscale == "auto" else downscale)


def test_a_region_is_seen_at_the_size_of_its_whole(viewer, small_sighted, rainy):
    """So that a corner shows how the whole will be."""
    layer = viewer.add_image(np.tile(rainy, (2, 2, 1)), rgb=True, name="street")  # 192 x 256
    region = capture(layer, crop=((10, 80), (20, 120)))
    request = Request(source=region, task="haze", model=small_sighted, **ENGINE)
    assert request.engine()["downscale"] == 4
    assert Request(source=capture(layer), task="haze", model=small_sighted).engine()["downscale"] == "auto"
    assert dataclasses.replace(request, downscale=2).engine()["downscale"] == 2
    text = recipe.as_python(request)
    exec(text, {"viewer": viewer})
    assert viewer.layers["street background"].metadata["napari_dmgn"]["downscale"] == 4
    assert "--downscale" not in recipe.as_command(request)[0]  # of the whole file, where it is the same by itself


@pytest.mark.parametrize("ensemble", [True, False])
def test_a_mirrored_view_is_in_a_recipe_where_it_was_chosen(viewer, tiny_checkpoint, rainy, tmp_path, ensemble):
    layer = viewer.add_image(rainy, rgb=True, name="street")
    request = Request(source=capture(layer), model=tiny_checkpoint, ensemble=ensemble, **ENGINE)
    text, command = recipe.as_python(request), shlex.split(recipe.as_command(request)[0])
    assert ("ensemble=True" in text) == ("--ensemble" in command) == ensemble
    exec(text, {"viewer": viewer})
    expected = dmgn.restore(rainy, model=tiny_checkpoint, ensemble=ensemble, **ENGINE)
    np.testing.assert_array_equal(viewer.layers["street background"].data, expected.background)
    command, heed = recipe.as_command(dataclasses.replace(request, store=tmp_path / "out.zarr"))
    assert "--ensemble" not in command  # which the command refuses there
    assert ("restores OME-Zarr once, not mirrored" in heed) == ensemble


@pytest.mark.parametrize("there", ["results", "image"])
def test_command_tells_that_stores_are_restored_at_full_size(viewer, small_sighted, tmp_path, monkeypatch, there):
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(small_sighted.parent))
    layer = viewer.add_image(np.zeros((80, 200)))
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "in.zarr" / "zarr.json").touch()
    places = {"store": tmp_path / "out.zarr"}
    source = capture(layer)
    if there == "image":
        places, source = {}, dataclasses.replace(source, path=str(tmp_path / "in.zarr"))
    for model, downscale, heeded in (
        (small_sighted, "auto", True),
        (None, 3, True),
        (None, "auto", False),
        (small_sighted, 1, False),
    ):
        request = Request(source=source, model=model, downscale=downscale, **places)
        text, heed = recipe.as_command(request)
        assert "--downscale" not in text  # which the command refuses there
        assert ("OME-Zarr at full size" in heed) == heeded


def test_copied_command_runs(viewer, tiny_checkpoint, rainy, tmp_path):
    from napari_dmgn.cli import main
    from napari_dmgn.files import read_image, write_image

    path = tmp_path / "my street.png"
    write_image(path, rainy)
    layer = viewer.add_image(rainy, rgb=True)
    settings = {"downscale": 2, "tile": 16, "halo": 16, **ENGINE}
    request = Request(source=capture(layer), model=tiny_checkpoint, **settings)
    text, heed = recipe.as_command(request)
    assert "save it first" in heed
    words = shlex.split(text.replace("IMAGE.tif", shlex.quote(str(path))).replace(" restored", f" {tmp_path}", 1))
    assert words.pop(0) == "napari-dmgn"
    assert main(words) == 0
    expected = dmgn.restore(rainy, model=tiny_checkpoint, **settings).background
    np.testing.assert_array_equal(read_image(tmp_path / "my street_background.png").array, expected)


def test_command_tells_what_it_cannot_do(viewer, tmp_path):
    layer = viewer.add_image(np.zeros((20, 30)))
    request = Request(source=capture(layer, crop=((0, 5), (0, 5))), intensity_range=(-1.0, 1234567.5), tile=None)
    text, heed = recipe.as_command(request)
    assert "--range=-1.0,1234567.5" in text
    assert "--tile none" in text
    assert "not the region" in heed
    request = Request(source=capture(layer), store=tmp_path / "my out.zarr")
    assert f"-o '{tmp_path}/my out.zarr'" in recipe.as_command(request)[0]


def test_saved_stack_keeps_pixel_size_units_and_place(viewer, tmp_path):
    pytest.importorskip("zarr")
    from napari_dmgn.files import open_store
    from napari_dmgn.plugin.saving import save_layers

    data = np.random.default_rng(0).integers(0, 999, (3, 300, 280), np.uint16)
    layer = viewer.add_image(data, scale=(2, 0.5, 0.25), translate=(0, 7, -3), units=("um",) * 3)
    path = tmp_path / "a.zarr"
    assert save_layers(str(path), *layer.as_layer_data_tuple()[:2]) == [str(path)]
    image = open_store(path)
    np.testing.assert_array_equal(np.asarray(image.array), data)
    assert image.axes == "ZYX"
    sizes = image.metadata["ngff"]["axes"]
    assert sizes["Y"] == {"type": "space", "unit": "micrometer", "scale": 0.5, "translation": 7.0}
    with pytest.raises(FileExistsError):
        save_layers(str(path), *layer.as_layer_data_tuple()[:2])
    with pytest.raises(ValueError, match=r"extension '\.jpg'"):
        save_layers(str(tmp_path / "a.jpg"), *layer.as_layer_data_tuple()[:2])
    with pytest.raises(ValueError, match="OME-TIFF holds no int64"):
        save_layers(str(tmp_path / "a.ome.tif"), data.astype(np.int64), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]
