"""The user's array survives the way to the network's planes and back."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_dmgn.images import (
    Layout,
    Results,
    check_image,
    check_range,
    find_ranges,
    guess_rgb,
    read_frame,
    read_layout,
    saturate,
)

INTEGERS = ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", ">i4", "<i8", ">u8"]
FLOATS = ["<f2", "<f4", ">f4", "<f8", ">f8"]
LAYOUTS = [
    ((5, 7), {}),
    ((1, 1), {}),
    ((5, 7, 3), {}),
    ((5, 7, 4), {}),
    ((2, 5, 7), {}),
    ((2, 3, 5, 7), {}),
    ((2, 5, 7, 3), {}),
    ((5, 7, 3), {"rgb": False}),
    ((2, 2, 5, 7, 3), {"rgb": True}),
    ((2, 1, 2, 5, 7), {"rgb": False}),
    ((3, 5, 7), {"channel_axis": 0}),
    ((5, 7, 2), {"channel_axis": -1}),
    ((2, 3, 5, 7), {"channel_axis": 1}),
    ((2, 2, 5, 3, 7), {"channel_axis": 3}),
]


def sample(shape, dtype, seed=0):
    """Numbers over the whole span of a type, its limits and, for floats, NaN and inf included."""
    dtype = np.dtype(dtype)
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        image = random.normal(3, 20, shape).astype(dtype)
        image.flat[0 : image.size : 11] = np.nan
        image.flat[5 : image.size : 13] = np.inf
        image.flat[6 : image.size : 17] = -np.inf
        return image
    limits = np.iinfo(dtype)
    native = dtype.newbyteorder("=")
    image = random.integers(limits.min, limits.max, shape, native, endpoint=True).astype(dtype)
    image.flat[0], image.flat[-1] = limits.max, limits.min
    return image


def answer(image, change=None, *, intensity_range="auto", dtype=None, **axes):
    """Results of a network that gives back its input (or `change(planes)`), frame by frame."""
    layout = read_layout(image.shape, **axes)
    ranges = find_ranges(image, layout, intensity_range)
    results = Results(layout, np.dtype(dtype or image.dtype))
    for index in range(layout.frames):
        low, high = ranges[layout.channel(index)]
        frame = read_frame(layout.frame(image, index), rgb=layout.rgb, low=low, high=high)
        assert frame.planes.dtype == np.float32
        assert frame.planes.shape == (1, 3, *layout.frame_shape)
        assert 0 <= frame.planes.min() <= frame.planes.max() <= 1
        planes = frame.planes if change is None else change(frame.planes)
        noise = frame.planes - planes
        results.put(
            index,
            frame,
            background=planes,
            coarse=planes,
            noise=noise,
            noise_map=np.abs(noise).mean(axis=1),
            masks={"cell": frame.planes[:, 0, ::2, ::2]},
        )
    return results


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_the_identity_gives_back_every_dtype_in_every_layout(dtype):
    for (shape, axes), wanted in product(LAYOUTS, ("auto", "dtype", (2.5, 60))):
        image = sample(shape, dtype)
        results = answer(image, intensity_range=wanted, **axes)
        for restored in (results.background, results.coarse):
            assert restored.dtype == image.dtype
            np.testing.assert_array_equal(restored, image)
        assert results.clipped_pixels == 0
        assert not results.noise.any()
        layout = read_layout(shape, **axes)
        assert results.noise_map.shape == (shape[:-1] if layout.rgb else shape)
        assert results.noise.shape == ((*shape[:-1], 3) if layout.rgb else shape)


def test_values_of_a_round_trip_are_the_normalised_image():
    image = np.array([[0, 51], [102, 255]], np.uint8)
    frame = read_frame(image, rgb=False, low=0, high=255)
    np.testing.assert_allclose(frame.planes[0], [[[0, 0.2], [0.4, 1]]] * 3, atol=1e-7)
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    planes = read_frame(colours, rgb=True, low=0, high=11).planes
    np.testing.assert_allclose(planes[0, 1], colours[..., 1] / 11, atol=1e-7)


def test_a_restored_pixel_is_in_the_units_of_the_image():
    image = np.full((4, 6), 1000, np.uint16)
    image[0, 0] = 4000
    results = answer(image, lambda planes: planes - 0.1)
    np.testing.assert_array_equal(results.background, np.rint(image - 400.0))
    np.testing.assert_allclose(results.noise, 400, rtol=1e-5)
    np.testing.assert_allclose(results.noise_map, 0.1, atol=1e-6)


def test_grayscale_is_the_mean_of_the_three_planes():
    image = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    weights = np.array([0.1, 0.2, 0.6], np.float32).reshape(1, 3, 1, 1)
    results = answer(image, lambda planes: planes * weights)
    np.testing.assert_allclose(results.background, image * 0.3, atol=1e-6)


def test_each_channel_is_what_it_would_be_alone():
    image = sample((2, 3, 5, 7), "u2") // np.array([1, 90, 900], "u2").reshape(1, 3, 1, 1)
    together = answer(image, lambda planes: planes**2, channel_axis=1)
    for channel in range(3):
        alone = answer(image[:, channel], lambda planes: planes**2)
        for name in ("background", "noise", "noise_map", "coarse"):
            np.testing.assert_array_equal(getattr(together, name)[:, channel], getattr(alone, name))


def test_the_range_is_fixed_once_for_all_frames():
    stack = np.zeros((3, 4, 5), np.uint16)
    stack[1] = 100
    stack[2] = 5000
    layout = read_layout(stack.shape)
    assert find_ranges(stack, layout) == ((0.0, 5000.0),)
    dim = read_frame(layout.frame(stack, 1), rgb=False, low=0, high=5000)
    np.testing.assert_allclose(dim.planes, 0.02, atol=1e-7)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[3, 7]], "u1"), (0, 255)),
        (np.array([[3, 700]], ">u2"), (0, 700)),
        (np.array([[-5, 700]], "i2"), (-5, 700)),
        (np.array([[-5, -2]], "i4"), (-5, -2)),
        (np.array([[0.25, 0.5]], "f4"), (0, 1)),
        (np.array([[0.25, 1.5]], "f4"), (0.25, 1.5)),
        (np.array([[-0.25, 0.5, np.nan, np.inf]], "f8"), (-0.25, 0.5)),
        (np.array([[np.nan, np.inf]], "f4"), (0, 1)),
    ],
)
def test_automatic_ranges(image, expected):
    assert find_ranges(image, read_layout(image.shape, rgb=False)) == (expected,)


def test_alpha_has_no_say_in_the_range_and_is_carried_over():
    image = sample((5, 7, 4), "u2")
    image[..., :3] //= 100
    image[..., 3] = np.arange(35).reshape(5, 7)
    image[0, 0, 3] = 65535
    assert find_ranges(image, read_layout(image.shape))[0][1] == image[..., :3].max()
    results = answer(image, lambda planes: planes / 2)
    np.testing.assert_array_equal(results.background[..., 3], image[..., 3])
    assert (results.background[..., :3] != image[..., :3]).any()


@pytest.mark.parametrize("dtype", ["u1", "<u2", "i2", "f4", "f8"])
@pytest.mark.parametrize("value", [0, 1, 77])
def test_a_constant_image_stays_as_it_is(dtype, value):
    image = np.full((3, 4), value, dtype)
    np.testing.assert_array_equal(answer(image).background, image)
    assert np.isfinite(answer(image, lambda planes: planes / 2).background).all()


def test_inputs_of_any_kind_of_memory_are_read_and_never_changed(tmp_path: Path):
    plain = sample((4, 6, 3), "f4")
    frozen = plain.copy()
    frozen.flags.writeable = False
    wide = np.zeros((8, 12, 6), "f4")
    wide[::2, ::2, ::2] = plain
    mapped = np.memmap(tmp_path / "image.dat", "f4", "w+", shape=plain.shape)
    mapped[:] = plain
    kinds = [frozen, wide[::2, ::2, ::2], np.asfortranarray(plain), plain[::-1][::-1], mapped]
    expected = answer(plain.copy(), lambda planes: planes / 2)
    for image in kinds:
        results = answer(image, lambda planes: planes / 2)
        np.testing.assert_array_equal(results.background, expected.background)
        np.testing.assert_array_equal(image, plain)


def test_holes_are_filled_from_their_neighbours_and_put_back():
    rows, columns = np.mgrid[0:40, 0:50]
    image = (rows / 40 + columns / 50).astype(np.float32)
    holed = image.copy()
    holed[10:14, 20:25] = np.nan
    holed[30, 30] = np.inf
    low, high = find_ranges(holed, read_layout(holed.shape))[0]
    filled = read_frame(holed, rgb=False, low=low, high=high).planes[0, 0]
    np.testing.assert_allclose(filled, (image - low) / (high - low), atol=0.06)
    results = answer(holed, lambda planes: planes / 2)
    np.testing.assert_array_equal(np.isnan(results.background), np.isnan(holed))
    assert results.background[30, 30] == np.inf
    assert results.nonfinite_pixels == 21
    assert not results.noise[10:14, 20:25].any()
    assert not results.noise_map[10:14, 20:25].any()


def test_an_image_without_one_finite_pixel_comes_back():
    for shape in ((3, 4), (3, 4, 3)):
        image = np.full(shape, np.nan, np.float32)
        np.testing.assert_array_equal(answer(image, lambda planes: planes + 0.5).background, image)


def test_a_hole_larger_than_the_reach_of_its_rim_is_filled_by_the_median():
    image = np.full((100, 100), 0.25, np.float32)
    image[5:95, 5:95] = np.nan
    np.testing.assert_array_equal(read_frame(image, rgb=False, low=0, high=1).planes, 0.25)


def test_saturated_pixels_are_counted_once_and_never_wrap():
    image = np.full((2, 3, 3), 250, np.uint8)
    image[0, 0] = 3
    results = answer(image, lambda planes: planes + 0.1)
    assert results.clipped_pixels == 5
    np.testing.assert_array_equal(results.background[1], 255)
    assert results.background[0, 0, 0] == np.rint(3 + 25.5)
    wider = answer(image, lambda planes: planes + 0.1, dtype="f4")
    assert wider.clipped_pixels == 0
    np.testing.assert_allclose(wider.background[1], 275.5, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u8", "i8"])
def test_saturation_holds_the_limits_of_integers(dtype):
    limits = np.iinfo(dtype)
    values = np.array([-1e30, -np.inf, 1e30, np.inf, np.nan, 1.6, float(limits.max) * 1.01])
    result, beyond = saturate(values, dtype)
    low, high = limits.min, limits.max
    assert result.tolist() == [low, low, high, high, 0, 2, high]
    assert beyond.tolist() == [True, True, True, True, False, False, True]


def test_saturation_between_integers_and_in_floats():
    assert saturate(np.array([-5, 300, 7], np.int64), "u1")[0].tolist() == [0, 255, 7]
    for values in ([0.4, 254.6, 7], [0.4, 255.4, 7], [-0.4, 3, np.nan]):
        inside, beyond = saturate(np.array(values), "u1")
        assert inside.tolist() == np.rint(np.nan_to_num(values)).tolist()
        assert beyond is None
    half, beyond = saturate(np.array([1e9, -1e9, 2.0, np.inf, np.nan]), "f2")
    np.testing.assert_array_equal(half, np.array([65504, -65504, 2, np.inf, np.nan], "f2"))
    assert beyond.tolist() == [True, True, False, False, False]


def test_masks_take_the_axes_of_the_frames():
    image = sample((2, 3, 6, 8), "u1")
    results = answer(image, channel_axis=1)
    assert results.masks["cell"].shape == (2, 3, 3, 4)
    np.testing.assert_allclose(results.masks["cell"], image[..., ::2, ::2] / 255, atol=1e-6)
    coloured = answer(sample((2, 6, 8, 3), "u1"))
    assert coloured.masks["cell"].shape == (2, 3, 4)


def test_every_frame_is_visited_once():
    for shape, axes in LAYOUTS:
        layout = read_layout(shape, **axes)
        visits = np.zeros(shape, int)
        for index in range(layout.frames):
            layout.frame(visits, index)[...] += 1
        assert (visits == 1).all()
        assert len(layout.axes) == len(shape)
        assert [shape[layout.axes.index(name)] for name in "yx"] == list(layout.frame_shape)


def test_names_of_axes():
    assert read_layout((5, 7)).axes == ("y", "x")
    assert read_layout((2, 5, 7, 4)).axes == ("frame", "y", "x", "rgba")
    assert read_layout((2, 5, 3, 7), channel_axis=2).axes == ("frame", "y", "channel", "x")
    assert read_layout((5, 7, 2), channel_axis=-1) == Layout(shape=(5, 7, 2), channel_axis=2)


def test_the_guess_of_colours_counts_small_pictures():
    assert guess_rgb((1, 1, 3))
    assert guess_rgb((2, 100, 100, 4))
    assert not guess_rgb((100, 3))
    assert not guess_rgb((3, 100, 100))


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((2, 2, 5, 7, 3), {}, "5 axes needs channel_axis= or rgb="),
        ((5, 7), {"rgb": True}, "last axis of 3 or 4; got shape (5, 7)"),
        ((5, 7, 5), {"rgb": True}, "last axis of 3 or 4"),
        ((5, 7, 3), {"rgb": True, "channel_axis": 0}, "not both"),
        ((5, 7, 3), {"channel_axis": 3}, "channel_axis 3 is outside the 3 axes"),
        ((5, 7, 3), {"channel_axis": -4}, "channel_axis -4 is outside"),
        ((5, 7, 3), {"channel_axis": 1.5}, "whole number; got 1.5"),
        ((5, 7, 3), {"channel_axis": True}, "whole number; got True"),
        ((5, 7), {"channel_axis": 0}, "3 or more axes"),
        ((5, 7, 3), {"rgb": "no"}, "rgb is True, False or None; got 'no'"),
        ((5, 7, 3), {"rgb": 1}, "got 1"),
        ((5, 7, 3), {"channel_axis": np.zeros((2, 2))}, "got array([[0., 0.], [0., 0.]])"),
    ],
)
def test_contradictory_axes_are_refused(shape, axes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_layout(shape, **axes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), bool), "dtype bool"),
        (np.zeros((4, 4), complex), "dtype complex128"),
        (np.zeros((4, 4), object), "dtype object"),
        (np.zeros((4, 4), "U1"), "dtype <U1"),
        (np.zeros((4, 4), "M8[s]"), "dtype datetime64"),
        (np.zeros(4), "2 axes; got shape (4,)"),
        (np.float32(4), "2 axes; got shape ()"),
        (np.zeros((0, 5)), "no pixels: its shape is (0, 5)"),
        (np.zeros((5, 5, 0)), "no pixels"),
        (Path("x.png"), f"an image is an array; got the path {Path('x.png')!r}: read the file first"),
        ("x.png", "got the path 'x.png'"),
        ([[1, 2], [3]], "cannot read a list as an array of pixels: "),
        (torch.rand(9, 9, requires_grad=True), "cannot read a Tensor as an array of pixels: Can't call numpy()"),
        (torch.zeros(9, 9, dtype=torch.bfloat16), "cannot read a Tensor as an array of pixels: Got unsupported"),
        (np.ma.masked_less(np.arange(12.0).reshape(3, 4), 2), "an image's mask would be lost: fill its pixels first"),
    ],
)
def test_arrays_that_are_no_images_are_refused(image, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_image(image)


@pytest.mark.parametrize(
    "wanted",
    [
        *("full", (0,), (0, 1, 2), (1, 1), (2, 1), (0, np.nan), (0, np.inf), ("a", "b"), 5, None),
        *((0, 10**400), (0, [1]), (0, [[1], [2, 3]]), np.array([[0, 1], [2, 3]]), np.array([[0], [1]]), np.array(5)),
    ],
)
def test_ranges_that_are_none_are_refused(wanted):
    with pytest.raises(ValueError, match="intensity_range is 'auto', 'dtype' or two") as caught:
        check_range(wanted)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_mask_of_a_dask_array_is_seen():
    array = pytest.importorskip("dask.array")
    masked = array.ma.masked_greater(array.from_array(np.arange(16.0).reshape(4, 4)), 3)
    with pytest.raises(ValueError, match="mask would be lost"):
        check_image(masked)


def test_nothing_masked_is_no_mask():
    assert type(check_image(np.ma.masked_less(np.ones((3, 4)), 0))) is np.ndarray


def test_a_range_beyond_float32_is_refused():
    with pytest.raises(ValueError, match="too wide for float32"):
        check_range((-3e38, 3e38))
    image = np.array([[-1e300, 1e300]])
    with pytest.raises(ValueError, match="too wide for float32"):
        find_ranges(image, read_layout(image.shape))
