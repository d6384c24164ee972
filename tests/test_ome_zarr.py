"""OME-Zarr stores: what is written is read back, by us and by others; views in another order of axes."""

import itertools
import json

import numpy as np
import pytest

from napari_dmgn.files import (
    Transposed,
    blocks,
    create_store,
    fill,
    is_store,
    open_store,
    open_to_write,
    write_collection,
)
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.files.units import axis_sizes

zarr = pytest.importorskip("zarr")

SIZES = {
    "T": {"type": "time", "unit": "second", "scale": 5.0, "translation": 0.0},
    "Z": {"type": "space", "unit": "micrometer", "scale": 2.0, "translation": 0.0},
    "Y": {"type": "space", "unit": "micrometer", "scale": 0.5, "translation": 3.0},
    "X": {"type": "space", "unit": "nanometer", "scale": 250.0, "translation": 0.0},
}


def make(path, image, axes, *, version="0.5", chunk=16, name="image"):
    like = ImageFile(array=image, metadata={"ngff": {"version": version, "axes": SIZES}})
    create_store(path, shape=image.shape, dtype=image.dtype, axes=axes, chunk=chunk, like=like, name=name)
    open_to_write(path, axes)[...] = image
    for level in blocks(path, side=64):
        for block in level:
            fill(path, block)
    return path


def noise(shape, dtype="u1"):
    return np.random.default_rng(2).integers(0, 255, shape).astype(dtype)


class Counting:
    """An array that counts the values that are taken from it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = 0

    def __getitem__(self, key):
        part = self.array[key]
        self.read += part.size
        return part

    def __setitem__(self, key, values):
        self.array[key] = values


def test_a_transposed_view_is_numpys_transposed_array():
    image = noise((2, 3, 4, 5), "u2")
    keys = [(slice(None), 1, slice(0, 2), slice(1, 3)), (1, Ellipsis), (Ellipsis, slice(0, 1)), (0, 1, 1), slice(1, 2)]
    keys += [Ellipsis, (slice(None), 0, 0, slice(None)), 1]
    for order in itertools.permutations(range(4)):
        for key in keys:
            view, plain = Transposed(image, order), image.transpose(order)
            assert (view.shape, view.ndim, view.size, view.nbytes) == (plain.shape, 4, plain.size, plain.nbytes)
            np.testing.assert_array_equal(view[key], plain[key])
            target = np.zeros_like(image)
            Transposed(target, order)[key] = plain[key]
            np.testing.assert_array_equal(target.transpose(order)[key], plain[key])
            assert target.any()


def test_only_what_is_asked_for_is_read():
    counting = Counting(noise((3, 40, 50)))
    view = Transposed(counting, (1, 2, 0))
    assert view[5:9, 10:20].shape == (4, 10, 3)
    assert counting.read == 4 * 10 * 3


IMAGES = [
    ("YX", (30, 20), "f4", "YX"),
    ("YXS", (30, 20, 3), "u1", "YXS"),
    ("TYXS", (2, 30, 20, 4), "u1", "TYXS"),
    ("TCZYX", (2, 2, 2, 30, 20), ">u2", "TCZYX"),
    ("ZCYX", (2, 3, 30, 20), "i2", "CZYX"),  # stored in the format's order
    ("YXC", (30, 20, 2), "u2", "CYX"),
]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("axes", "shape", "dtype", "stored"), IMAGES)
def test_what_is_written_is_read_back(version, axes, shape, dtype, stored, tmp_path):
    image = noise(shape, dtype)
    path = make(tmp_path / "a.ome.zarr", image, axes, version=version)
    assert is_store(path)
    back = open_store(path)
    assert back.axes == stored
    assert back.rgb is stored.endswith("S")
    assert back.channel_axis == (stored.index("C") if "C" in stored else None)
    order = [axes.index(letter) for letter in stored]
    np.testing.assert_array_equal(np.asarray(back.array), image.transpose(order))
    known = back.metadata["ngff"]
    assert known["version"] == version
    for letter in set(axes) & set(SIZES):
        assert known["axes"][letter] == SIZES[letter]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_halve_until_they_are_small(version, tmp_path):
    image = noise((2, 601, 333), "u2")
    path = make(tmp_path / "a.ome.zarr", image, "ZYX", version=version, chunk=64)
    shapes = [open_store(path, level=level).array.shape for level in range(3)]
    assert shapes == [(2, 601, 333), (2, 301, 167), (2, 151, 84)]
    with pytest.raises(ValueError, match=r"level 3 is not in .* levels 0 to 2"):
        open_store(path, level=3)
    coarse = np.asarray(open_store(path, level=1).array)
    np.testing.assert_array_equal(
        coarse[:, :300, :166], np.rint(image[:, :600, :332].reshape(2, 300, 2, 166, 2).mean(axis=(2, 4)))
    )
    np.testing.assert_array_equal(coarse[:, 300, 166], image[:, 600, 332])
    # The centre of a coarse pixel is that of the four it stands for.
    axes = open_store(path, level=2).metadata["ngff"]["axes"]
    assert (axes["Y"]["scale"], axes["Y"]["translation"]) == (2.0, 3.0 + 0.5 * 1.5)
    assert (axes["Z"]["scale"], axes["Z"]["translation"]) == (2.0, 0.0)


def test_a_collection_is_an_image_itself(tmp_path):
    images = {"background": noise((20, 30, 3)), "noise_map": noise((20, 30))}
    for name, image in images.items():
        make(tmp_path / "c.ome.zarr" / name, image, "YXS"[: image.ndim], name=name)
    write_collection(tmp_path / "c.ome.zarr", list(images))
    np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "c.ome.zarr").array), images["background"])
    listed = json.loads((tmp_path / "c.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert [image["name"] for image in listed] == list(images)
    assert [image["datasets"][0]["path"] for image in listed] == ["background/0", "noise_map/0"]


def test_colours_are_told_from_channels_by_what_omero_calls_them(tmp_path):
    path = make(tmp_path / "a.ome.zarr", noise((20, 30, 3)), "YXS")
    assert open_store(path).axes == "YXS"
    assert open_store(path, rgb=False).axes == "CYX"
    channels = make(tmp_path / "b.ome.zarr", noise((3, 20, 30)), "CYX")
    assert open_store(channels).axes == "CYX"
    assert open_store(channels, rgb=True).axes == "YXS"
    assert open_store(channels, rgb=True).array.shape == (20, 30, 3)


FOREIGN = [
    ([("scan", None), ("y", "space"), ("x", "space")], "QYX"),
    ([("cycle", "time"), ("scan", None), ("y", "space"), ("x", "space")], "TQYX"),
    ([("s", None), ("y", "space"), ("x", "space")], "QYX"),
    ([("t", "time"), ("exposure", "time"), ("y", "space"), ("x", "space")], "TQYX"),
    ([("color", "channel"), ("depth", "space"), ("row", "space"), ("column", "space")], "CZYX"),
    ([("T", "time"), ("Y", "space"), ("X", "space")], "TYX"),
]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("axes", "letters"), FOREIGN)
def test_axes_are_told_by_their_whole_names_or_types_and_keep_them(version, axes, letters, tmp_path):
    image = noise((3, 4, 20, 30) if len(axes) > 3 else (3, 20, 30))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=image)
    named = [{"name": name} | ({"type": kind} if kind else {}) for name, kind in axes]
    described = {"axes": named, "datasets": [{"path": "0"}], "version": version}
    if version == "0.4":
        group.attrs["multiscales"] = [described]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [described]}
    source = open_store(tmp_path / "a.zarr")
    assert (source.axes, source.rgb) == (letters, False)
    assert source.channel_axis == (0 if "C" in letters else None)
    np.testing.assert_array_equal(np.asarray(source.array), image)

    path = tmp_path / "b.zarr"
    create_store(path, shape=image.shape, dtype="u1", axes=letters, chunk=16, like=source, name="b")
    attributes = zarr.open_group(path, mode="r").attrs
    attributes = attributes.get("ome", attributes)
    assert attributes["multiscales"][0]["axes"] == named
    assert "omero" not in attributes
    assert open_store(path).axes == letters


def test_axes_that_contradict_the_array_are_refused(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=noise((3, 20, 30)))
    for axes in (["y", "x"], ["y", "y", "x"]):
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
        with pytest.raises(ValueError, match=f"metadata are broken .*axes {', '.join(axes)} of an array of 3"):
            open_store(tmp_path / "a.zarr")


def test_older_versions_and_plain_arrays_are_read(tmp_path):
    image = noise((1, 2, 1, 20, 30), "u2")
    group = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    group.create_array("s0", data=image)
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "s0"}]}]
    old = open_store(tmp_path / "old.zarr")
    assert (old.axes, old.channel_axis, old.metadata["ngff"]["version"]) == ("TCZYX", 1, "0.1")
    np.testing.assert_array_equal(np.asarray(old.array), image)
    group.attrs["multiscales"] = [{"version": "0.3", "axes": list("tczyx"), "datasets": [{"path": "s0"}]}]
    assert open_store(tmp_path / "old.zarr").axes == "TCZYX"
    zarr.create_array(tmp_path / "plain.zarr", data=image)
    plain = open_store(tmp_path / "plain.zarr")
    assert (plain.axes, plain.rgb, plain.channel_axis) == (None, None, None)
    with pytest.raises(ValueError, match="has no levels"):
        open_store(tmp_path / "plain.zarr", level=1)


def test_dask_reads_what_is_written(tmp_path):
    da = pytest.importorskip("dask.array")
    image = noise((2, 40, 30), "u2")
    path = make(tmp_path / "a.ome.zarr", image, "ZYX")
    np.testing.assert_array_equal(da.from_zarr(str(path), component="0").compute(), image)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("axes", "shape", "dtype", "stored"), IMAGES)
def test_the_metadata_are_valid_for_an_independent_reader(version, axes, shape, dtype, stored, tmp_path):
    models = pytest.importorskip("ome_zarr_models")
    make(tmp_path / "c.ome.zarr" / "a", noise(shape, dtype), axes, version=version)
    write_collection(tmp_path / "c.ome.zarr", ["a"])
    for path in (tmp_path / "c.ome.zarr", tmp_path / "c.ome.zarr" / "a"):
        image = models.open_ome_zarr(zarr.open_group(path, mode="r"), version=version)
        assert type(image).__name__ == "Image"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {}),
        ({"ome": {"PhysicalSizeX": "0.1"}}, {"X": {"scale": 0.1, "unit": "micrometer"}}),
        (
            {"ome": {"PhysicalSizeY": "2", "PhysicalSizeYUnit": "mm", "TimeIncrement": "3", "TimeIncrementUnit": "ms"}},
            {"Y": {"scale": 2.0, "unit": "millimeter"}, "T": {"scale": 3.0, "unit": "millisecond"}},
        ),
        ({"ome": {"PhysicalSizeX": "1", "PhysicalSizeXUnit": "pixel"}}, {"X": {"scale": 1.0}}),
        (
            {"imagej": {"unit": "\\u00B5m", "spacing": 0.7, "finterval": 2.0}, "resolution": (4.0, 5.0)},
            {
                "X": {"scale": 0.25, "unit": "micrometer"},
                "Y": {"scale": 0.2, "unit": "micrometer"},
                "Z": {"scale": 0.7, "unit": "micrometer"},
                "T": {"scale": 2.0, "unit": "second"},
            },
        ),
        ({"resolution": (72, 72), "resolutionunit": 2}, {}),  # dots an inch of a printer are no pixel size
    ],
)
def test_pixel_sizes_of_files(metadata, expected):
    assert axis_sizes(ImageFile(array=np.zeros((2, 2)), metadata=metadata)) == expected


@pytest.mark.parametrize("axes", ["YXYX", "X", "TCZQYX", "CZ", "CYXS"])
def test_axes_that_the_format_has_no_place_for(axes, tmp_path):
    image = np.zeros((2,) * len(axes), "u1")
    with pytest.raises(ValueError, match="images of 2 to 5 axes"):
        make(tmp_path / "a.zarr", image, axes)
    assert not list(tmp_path.iterdir())
