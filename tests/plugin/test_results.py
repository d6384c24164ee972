import dataclasses

import numpy as np
import pytest

napari = pytest.importorskip("napari")

from napari.components import ViewerModel  # noqa: E402
from napari.layers import Image, Labels, Points  # noqa: E402

from napari_dmgn.plugin.results import (  # noqa: E402
    DEFAULT_OUTPUTS,
    TITLES,
    add_layers,
    result_layers,
)
from napari_dmgn.plugin.source import capture, why_not  # noqa: E402


@dataclasses.dataclass
class Result:
    background: np.ndarray
    noise: np.ndarray
    noise_map: np.ndarray
    provenance: dict


def result_of(image, *, rgb, noise=0.1):
    pixels = image.shape[:-1] if rgb else image.shape
    return Result(
        background=image,
        noise=np.full(image.shape, noise, np.float32),
        noise_map=np.full(pixels, 0.5, np.float32),
        provenance={"task": "rain"},
    )


def layers_of(source, result, outputs=DEFAULT_OUTPUTS):
    return result_layers(source, {output: getattr(result, output) for output in outputs}, result.provenance)


def added_to(viewer, layer, result, outputs=DEFAULT_OUTPUTS):
    return add_layers(viewer, layers_of(capture(layer), result, outputs))


PLACED = {
    "scale": (0.5, 2.0),
    "translate": (10.0, -3.5),
    "rotate": 33.0,
    "shear": (0.4,),
    "affine": [[1.1, 0.2, 5.0], [-0.1, 0.9, -7.0], [0.0, 0.0, 1.0]],
    "units": ("um", "mm"),
    "axis_labels": ("down", "right"),
}
PLACED_3D = {
    "scale": (3.0, 0.5, 2.0),
    "translate": (1.0, 10.0, -3.5),
    "rotate": (12.0, -20.0, 33.0),
    "shear": (0.4, -0.1, 0.2),
    "affine": np.eye(4) + np.triu(np.full((4, 4), 0.15), 1),
    "units": ("s", "um", "um"),
    "axis_labels": ("time", "down", "right"),
}


@pytest.mark.parametrize(
    ("shape", "rgb", "placed"),
    [
        ((20, 30), False, PLACED),
        ((20, 30, 3), True, PLACED),
        ((4, 20, 30), False, PLACED_3D),
        ((4, 20, 30, 3), True, PLACED_3D),
    ],
    ids=["gray", "rgb", "stack", "rgb stack"],
)
def test_results_lie_exactly_on_their_source(shape, rgb, placed):
    viewer = ViewerModel()
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    source = viewer.add_image(image, rgb=rgb, name="photo", **placed)
    added = added_to(viewer, source, result_of(image, rgb=rgb))
    assert [layer.name for layer in added] == ["photo noise map", "photo noise", "photo background"]
    pixels = shape[:-1] if rgb else shape
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in pixels])).reshape(len(pixels), -1).T
    for layer in added:
        assert layer.ndim == source.ndim
        for point in corners:
            np.testing.assert_allclose(layer.data_to_world(point), source.data_to_world(point), atol=1e-6, rtol=0)
        assert layer.units == source.units
        assert layer.axis_labels == source.axis_labels
        # Field by field: the way napari composes them stays editable in its transform controls.
        for field in ("scale", "translate", "rotate", "shear"):
            np.testing.assert_allclose(getattr(layer, field), getattr(source, field), atol=1e-6, rtol=0)
        np.testing.assert_allclose(layer.affine.affine_matrix, source.affine.affine_matrix, atol=1e-6, rtol=0)


def test_results_are_independent_of_what_becomes_of_the_source():
    viewer = ViewerModel()
    image = np.zeros((8, 9), np.uint8)
    layer = viewer.add_image(image, name="a", scale=(2, 3), contrast_limits=(3, 99), colormap="green", gamma=0.7)
    source = capture(layer)
    layer.scale, layer.name, layer.contrast_limits = (1, 1), "b", (0, 1)
    viewer.layers.clear()
    *_, background = add_layers(viewer, layers_of(source, result_of(image, rgb=False)))
    assert background.name == "a background"
    np.testing.assert_array_equal(background.scale, (2, 3))
    assert background.contrast_limits == [3, 99]
    assert (background.colormap.name, background.gamma) == ("green", 0.7)


def test_an_earlier_result_is_kept_and_the_selection_too():
    viewer = ViewerModel()
    image = np.zeros((8, 9), np.uint8)
    layer = viewer.add_image(image, name="a")
    first = added_to(viewer, layer, result_of(image, rgb=False))
    kept = [entry.data for entry in first]
    second = added_to(viewer, layer, result_of(image + 1, rgb=False))
    assert len(viewer.layers) == 7
    assert len({entry.name for entry in viewer.layers}) == 7
    assert all(entry.data is data for entry, data in zip(first, kept, strict=True))
    assert second[-1].name.startswith("a background")
    assert viewer.layers.selection.active is layer
    assert set(viewer.layers.selection) == {layer}


@pytest.mark.parametrize("output", DEFAULT_OUTPUTS)
def test_only_the_chosen_layers_are_added(output):
    viewer = ViewerModel()
    image = np.zeros((8, 9), np.uint8)
    (layer,) = added_to(viewer, viewer.add_image(image, name="a"), result_of(image, rgb=False), [output])
    assert layer.name == f"a {TITLES[output]}"
    assert layer.metadata["napari_dmgn"] == {"task": "rain", "source_layer": "a", "output": output}


def test_map_has_fixed_limits_and_a_colormap():
    viewer = ViewerModel()
    image = np.zeros((8, 9, 3), np.uint8)
    layer, *_ = added_to(viewer, viewer.add_image(image, rgb=True), result_of(image, rgb=True))
    assert not layer.rgb
    assert layer.contrast_limits == [0, 1]
    assert layer.colormap.name == "magma"


@pytest.mark.parametrize(
    ("dtype", "noise", "expected"),
    [(np.uint8, 25.4, 25), (np.uint8, 300.0, 255), (np.uint16, 40_000.0, 40_000), (np.float32, 0.25, 0.25)],
)
def test_noise_of_a_colour_picture_is_one_that_napari_can_show(dtype, noise, expected):
    viewer = ViewerModel()
    image = np.zeros((8, 9, 3), dtype)
    _, layer, _ = added_to(viewer, viewer.add_image(image, rgb=True), result_of(image, rgb=True, noise=noise))
    assert layer.rgb
    assert layer.data.dtype == dtype
    assert np.all(layer.data == np.asarray(expected, dtype))


@pytest.mark.parametrize("rgb", [False, True])
def test_signed_noise_is_shown_round_zero(rgb):
    viewer = ViewerModel()
    image = np.zeros((8, 9, 3) if rgb else (8, 9), np.uint8)
    result = result_of(image, rgb=rgb)
    result.noise[:4] = -40
    _, layer, _ = added_to(viewer, viewer.add_image(image, rgb=rgb), result)
    assert not layer.rgb
    assert layer.data.min() == -40
    assert layer.contrast_limits == [-40, 40]


def test_noise_of_a_gray_picture_keeps_its_values_and_nan_do_not_set_its_limits():
    viewer = ViewerModel()
    image = np.zeros((8, 9), np.float32)
    result = result_of(image, rgb=False, noise=0.0)
    result.noise[0, 0], result.noise[1, 1] = np.nan, 12.5
    _, layer, _ = added_to(viewer, viewer.add_image(image), result)
    np.testing.assert_array_equal(layer.data, result.noise)
    assert layer.contrast_limits == [0, 12.5]


def test_clean_picture_gives_a_noise_layer_too():
    viewer = ViewerModel()
    image = np.zeros((8, 9), np.float32)
    _, layer, _ = added_to(viewer, viewer.add_image(image), result_of(image, rgb=False, noise=0.0))
    assert layer.contrast_limits[0] < layer.contrast_limits[1]


def test_multiscale_layer_gives_its_full_resolution():
    full = np.random.default_rng(0).random((64, 80))
    layer = Image([full, full[::2, ::2], full[::4, ::4]], multiscale=True, scale=(2, 2))
    source = capture(layer)
    assert source.data is full or np.array_equal(source.data, full)
    np.testing.assert_array_equal(source.placement["scale"], (2, 2))


def test_what_cannot_be_restored_is_named():
    assert why_not(Image(np.zeros((4, 4)))) is None
    assert "No image layer" in why_not(None)
    assert why_not(Labels(np.zeros((4, 4), int), name="cells")) == ("'cells' is a Labels layer. Select an image layer.")
    assert "is a Points layer" in why_not(Points([[1, 2]], name="dots"))
    nothing = Image(np.zeros((0, 4, 5)), name="nothing", contrast_limits=(0, 1))
    assert "'nothing' is empty: its shape is (0, 4, 5)." in why_not(nothing)
    yes = Image(np.zeros((4, 4), bool), name="yes", contrast_limits=(0, 1))
    assert "'yes' holds bool values." in why_not(yes)


@pytest.mark.parametrize("shape", [(40, 30), (2, 40, 30), (40, 30, 3)])
def test_limits_of_large_arrays_come_from_some_rows(shape, monkeypatch):
    from napari_dmgn.plugin import results

    monkeypatch.setattr(results, "_LOOK_AT_VALUES", np.prod(shape) // 4)
    data = np.zeros(shape, np.float32)
    rows = np.arange(40.0).reshape(-1, *(1,) * (2 if shape[-1] == 3 else 1))
    found = results._sample(data + rows, rows=-3 if shape[-1] == 3 else -2)
    assert found.size == data.size // 4
    assert found.max() == 36
