"""Parts of a layer, and where their results lie."""

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel

from napari_dmgn.plugin.regions import RegionError, region
from napari_dmgn.plugin.source import capture

PLACED = {
    "scale": (3.0, 0.5, 2.0),
    "translate": (1.0, 10.0, -3.5),
    "rotate": (12.0, -20.0, 33.0),
    "shear": (0.4, -0.1, 0.2),
    "affine": np.eye(4) + np.triu(np.full((4, 4), 0.15), 1),
    "units": ("s", "um", "um"),
    "axis_labels": ("time", "down", "right"),
}


@pytest.fixture
def viewer():
    return ViewerModel()


def draw(viewer, layer, low, high, ndim=2):
    """Draw the rectangle that covers pixels low..high of a layer that lies at the origin."""
    (top, left), (bottom, right) = np.array(low) - 0.5, np.array(high) - 0.5
    corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
    return viewer.add_shapes(corners, shape_type="polygon")


def world_of(placement, point):
    from napari.layers import Image

    shape = (2,) * len(placement["scale"])
    return np.asarray(Image(np.zeros(shape), contrast_limits=(0, 1), **placement).data_to_world(point))


@pytest.mark.parametrize("rgb", [False, True])
def test_a_crop_lies_where_its_pixels_lay(viewer, rgb):
    shape = (4, 20, 30, 3) if rgb else (4, 20, 30)
    layer = viewer.add_image(np.zeros(shape, np.uint8), rgb=rgb, **PLACED)
    source = capture(layer, crop=((2, 3), (5, 17), (9, 30)))
    assert source.shape == ((1, 12, 21, 3) if rgb else (1, 12, 21))
    for corner in np.ndindex(1, 12, 21):
        if 0 < corner[1] < 11 or 0 < corner[2] < 20:
            continue
        np.testing.assert_allclose(
            world_of(source.placement, corner),
            layer.data_to_world(np.add(corner, (2, 5, 9))),
            atol=1e-6,
            rtol=0,
        )
    assert source.placement["units"] == layer.units


def test_rectangle_on_a_turned_layer(viewer):
    placed = {key: value[1:] if isinstance(value, tuple) else value for key, value in PLACED.items()}
    placed |= {"rotate": 33.0, "shear": (0.4,), "affine": PLACED["affine"][1:, 1:]}
    layer = viewer.add_image(np.zeros((40, 50)), **placed)
    inside = [layer.data_to_world(corner) for corner in ((9.5, 4.5), (9.5, 30.5), (29.5, 30.5), (29.5, 4.5))]
    viewer.add_shapes(np.array(inside), shape_type="polygon", units=("um", "um"))
    assert region(viewer, layer, "shapes") == ((10, 30), (5, 31))


def test_rectangle_is_cut_at_the_border_and_beside_it_is_said(viewer):
    layer = viewer.add_image(np.zeros((40, 50)), name="a")
    draw(viewer, layer, (-10, 30), (12, 90))
    assert region(viewer, layer, "shapes") == ((0, 12), (30, 50))
    draw(viewer, layer, (100, 30), (120, 40))
    with pytest.raises(RegionError, match="The rectangle lies beside 'a'"):
        region(viewer, layer, "shapes")
    viewer.layers[-2].selected_data = {0}
    viewer.layers.selection.active = viewer.layers[-2]
    assert region(viewer, layer, "shapes") == ((0, 12), (30, 50))


def test_no_rectangle_is_said(viewer):
    layer = viewer.add_image(np.zeros((40, 50)))
    viewer.add_shapes([])
    with pytest.raises(RegionError, match="No rectangle is drawn"):
        region(viewer, layer, "shapes")


def test_slice_follows_the_slider_and_the_layers_place(viewer):
    layer = viewer.add_image(np.zeros((5, 40, 50)), scale=(2, 1, 1), translate=(10, 0, 0))
    viewer.dims.set_point(0, 16)
    assert region(viewer, layer, "slice") == ((3, 4), (0, 40), (0, 50))
    draw(viewer, layer, (1, 2), (3, 4))
    assert region(viewer, layer, "shapes") == ((3, 4), (1, 3), (2, 4))


@pytest.mark.parametrize("kind", ["whole", "slice", "shapes"])
def test_levels_of_a_pyramid(viewer, kind):
    full = np.zeros((64, 80))
    layer = viewer.add_image([full, full[::2, ::2], full[::4, ::4]], multiscale=True, scale=(3, 3))
    viewer.add_shapes(np.array([(7.5, 15.5), (7.5, 31.5), (23.5, 31.5), (23.5, 15.5)]) * 3, shape_type="polygon")
    found = region(viewer, layer, kind, level=2)
    assert found == (((2, 6), (4, 8)) if kind == "shapes" else ((0, 16), (0, 20)))
    source = capture(layer, level=2, crop=found)
    first = (9.5, 17.5) if kind == "shapes" else (1.5, 1.5)  # the middle of the 4 x 4 pixels it stands for
    np.testing.assert_allclose(world_of(source.placement, (0, 0)), layer.data_to_world(first), atol=1e-6)
    np.testing.assert_array_equal(source.placement["scale"], (12, 12))
