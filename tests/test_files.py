"""What is written is read back, whole, in its type, with its axes; or one line says why not."""

import os
import re
import struct
import zlib
from itertools import product

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image, ImageCms

from napari_dmgn.files import ImageFile, create_store, open_store, read_image, write_image

TIFF_TYPES = ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8"]
PICTURES = [(1, 1), (7, 5), (9, 4, 3), (1, 1, 4), (6, 8, 4)]


def noise(shape, dtype, seed=0):
    dtype = np.dtype(dtype)
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        return random.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    values = random.integers(limits.min, limits.max, shape, dtype.newbyteorder("="), endpoint=True)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_png_round_trip(tmp_path, dtype):
    for shape in PICTURES:
        image = noise(shape, dtype)
        write_image(tmp_path / "a.png", image)
        back = read_image(tmp_path / "a.png")
        assert back.array.dtype == image.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back.array, image)
        assert back.rgb is (len(shape) == 3)
        assert back.channel_axis is None


@pytest.mark.parametrize("dtype", TIFF_TYPES)
def test_tiff_round_trip(tmp_path, dtype):
    for shape, rgb in product([*PICTURES, (2, 7, 5), (1, 2, 7, 5), (2, 7, 5, 4)], (None, False)):
        image = noise(shape, dtype)
        write_image(tmp_path / "a.tif", image, rgb=rgb)
        back = read_image(tmp_path / "a.tif").array
        assert back.dtype == image.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, image)


def test_views_of_any_order_are_written(tmp_path):
    image = noise((8, 12, 6), "u2")[::-2, ::3, ::2]
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, image)
        np.testing.assert_array_equal(read_image(tmp_path / name).array, image)
        write_image(tmp_path / name, np.asfortranarray(image[..., 0]))
        np.testing.assert_array_equal(read_image(tmp_path / name).array, image[..., 0])


@pytest.mark.parametrize(("name", "options"), [("a.webp", {"lossless": True, "exact": True}), ("a.bmp", {})])
def test_webp_and_bmp_are_read(tmp_path, name, options):
    for shape in [(7, 5, 3), (8, 12, 4)] if name == "a.webp" else [(7, 5), (7, 5, 3)]:
        image = noise(shape, "u1")
        Image.fromarray(image).save(tmp_path / name, **options)
        back = read_image(tmp_path / name)
        np.testing.assert_array_equal(back.array, image)
        assert back.rgb is (len(shape) == 3)


def test_bmp_of_few_colours_is_read(tmp_path):
    image = noise((7, 9), "u1") // 128 * 255
    for mode in ("1", "P"):
        Image.fromarray(image).convert(mode).save(tmp_path / "a.BMP")
        back = read_image(tmp_path / "a.BMP").array
        np.testing.assert_array_equal(back, image if back.ndim == 2 else np.stack([image] * 3, axis=-1))


def test_what_lies_in_a_file_decides_not_its_extension(tmp_path):
    image = noise((7, 5, 3), "u1")
    for kind, options in (("BMP", {}), ("WEBP", {"lossless": True})):
        Image.fromarray(image).save(tmp_path / "a.png", format=kind, **options)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, image)


def test_a_resolution_of_0_is_none(tmp_path):
    image = Image.fromarray(noise((7, 5, 3), "u1"))
    image.save(tmp_path / "a.bmp", dpi=(300, 300))
    assert read_image(tmp_path / "a.bmp").metadata["dpi"] == pytest.approx((300, 300), abs=0.1)
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[42:46] = bytes(4)  # dots per metre, down
    (tmp_path / "a.bmp").write_bytes(content)
    assert "dpi" not in read_image(tmp_path / "a.bmp").metadata


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_exif_that_makes_no_sense_leaves_the_picture(tmp_path, name):
    image = noise((7, 5, 3), "u1")
    Image.fromarray(image).save(tmp_path / name, lossless=True, exif=b"Exif\0\0garbage of no kind")
    np.testing.assert_array_equal(read_image(tmp_path / name).array, image)


def test_a_jpeg_of_several_pictures_is_its_first(tmp_path):
    frames = [Image.fromarray(np.full((8, 9, 3), level, np.uint8)) for level in (40, 200)]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read_image(tmp_path / "a.jpg").array.astype(int) - 40).max() < 3


def test_webp_comes_upright_with_its_colour_profile(tmp_path):
    image, exif = noise((8, 12, 3), "u1"), Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    turned.save(tmp_path / "a.webp", lossless=True, exif=exif, icc_profile=profile)
    back = read_image(tmp_path / "a.webp")
    np.testing.assert_array_equal(back.array, image)
    assert back.metadata["icc_profile"] == profile


def test_jpeg_is_close_and_upright(tmp_path):
    rows, columns = np.mgrid[0:32, 0:48].astype(np.uint8)
    image = np.stack([rows * 5, columns * 4, np.full_like(rows, 90)], axis=-1)
    write_image(tmp_path / "a.jpg", image)
    back = read_image(tmp_path / "a.jpg")
    assert back.rgb
    assert np.abs(back.array.astype(int) - image).mean() < 2
    turns = {3: np.rot90(image, 2), 6: np.rot90(image), 8: np.rot90(image, -1)}
    for orientation, stored in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "b.jpg", quality=95, exif=exif)
        upright = read_image(tmp_path / "b.jpg").array
        assert upright.shape == image.shape
        assert np.abs(upright.astype(int) - image).mean() < 3
    write_image(tmp_path / "g.jpeg", image[..., 0])
    assert read_image(tmp_path / "g.jpeg").array.shape == (32, 48)


def test_rarer_pictures_become_grayscale_rgb_or_rgba(tmp_path):
    image = noise((6, 8, 3), "u1")
    few = Image.fromarray(image).quantize(8)
    path = tmp_path / "a.png"

    few.save(path)
    np.testing.assert_array_equal(read_image(path).array, np.array(few.convert("RGB")))
    few.save(path, transparency=0)
    assert read_image(path).array.shape == (6, 8, 4)
    Image.fromarray(image[..., 0] > 99).save(path)
    np.testing.assert_array_equal(read_image(path).array, np.where(image[..., 0] > 99, 255, 0))
    gray = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in (0, 1)])
    gray.save(path)
    np.testing.assert_array_equal(read_image(path).array, image[..., [0, 0, 0, 1]])
    path.write_bytes(png_encode(noise((6, 8, 2), "u2")))
    np.testing.assert_array_equal(read_image(path).array, noise((6, 8, 2), "u2")[..., [0, 0, 0, 1]])
    Image.fromarray(image).convert("CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").array.shape == (6, 8, 3)


def test_the_content_decides_not_the_extension(tmp_path):
    image = noise((6, 8), "u1")
    write_image(tmp_path / "a.png", image)
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, image)


def test_the_colour_profile_goes_with_the_colours(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise((6, 8, 3), "u1")
    Image.fromarray(image).save(tmp_path / "a.png", icc_profile=profile, dpi=(300, 300))
    source = read_image(tmp_path / "a.png")
    for name in ("b.png", "b.jpg"):
        write_image(tmp_path / name, image, like=source)
        with Image.open(tmp_path / name) as written:
            assert written.info["icc_profile"] == profile
            assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    write_image(tmp_path / "map.png", image[..., 0], like=source)
    with Image.open(tmp_path / "map.png") as written:
        assert "icc_profile" not in written.info


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("colours", ["RGB", "GRAY"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_profile_and_resolution_are_kept_whatever_the_depth(tmp_path, name, colours, kind):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = colours.ljust(4).encode()
    facts = {"icc_profile": bytes(profile), "dpi": (300, 150)} | {"resolution": (300, 150), "resolutionunit": 2}
    for image in (noise((6, 8, 3), kind), noise((6, 8), kind)):
        write_image(tmp_path / name, image, like=ImageFile(array=image, metadata=facts))
        source = read_image(tmp_path / name)
        np.testing.assert_array_equal(source.array, image)
        assert source.metadata.get("icc_profile") == (
            bytes(profile) if (image.ndim == 3) == (colours == "RGB") else None
        )
        dots = source.metadata["dpi" if name == "a.png" else "resolution"]
        assert dots == pytest.approx((300, 150), abs=0.1)


def test_imagej_stacks_keep_their_axes_and_pixel_size(tmp_path):
    image = noise((2, 3, 6, 8), "u2")
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        imagej=True,
        resolution=(4, 5),
        metadata={"axes": "ZCYX", "spacing": 0.7, "unit": "um"},
    )
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb, source.channel_axis) == ("ZCYX", False, 1)
    np.testing.assert_array_equal(source.array, image)
    for array in (image // 2, image.astype("f4")):
        write_image(tmp_path / "b.tif", array, like=source)
        back = read_image(tmp_path / "b.tif")
        assert back.axes == "ZCYX"
        assert back.metadata["resolution"] == (4, 5)
        assert back.metadata["imagej"] == {"spacing": 0.7, "unit": "um"}
    write_image(tmp_path / "b.tif", image.astype("f8"), like=source)  # ImageJ has no float64
    back = read_image(tmp_path / "b.tif")
    assert back.axes == "ZCYX"
    assert back.metadata["resolution"] == (4, 5)


def test_ome_tiffs_keep_their_axes_and_pixel_size(tmp_path):
    sizes = {"PhysicalSizeX": "0.25", "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": "2.0"}
    image = noise((2, 3, 6, 8), "u2")
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "TZYX", **sizes}, photometric="minisblack")
    source = read_image(path)
    assert (source.axes, source.rgb, source.channel_axis) == ("TZYX", False, None)
    write_image(tmp_path / "b.tif", image.astype("f4"), like=source)
    written = read_image(tmp_path / "b.tif")
    assert written.axes == "TZYX"
    assert sizes.items() <= written.metadata["ome"].items()


def test_ome_tiffs_keep_the_names_of_their_channels(tmp_path):
    image = noise((2, 3, 6, 8), "u2")
    names = {"Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "TCYX", **names}, photometric="minisblack")
    source = read_image(tmp_path / "a.ome.tif")
    assert source.channel_axis == 1
    write_image(tmp_path / "b.ome.tif", image + 1, like=source)
    assert read_image(tmp_path / "b.ome.tif").metadata["ome"]["Channel"] == names["Channel"]
    write_image(tmp_path / "c.ome.tif", image[:, :2], like=source)  # of other channels
    assert "Channel" not in read_image(tmp_path / "c.ome.tif").metadata["ome"]
    pytest.importorskip("zarr")
    create_store(tmp_path / "d.ome.zarr", shape=image.shape, dtype="u2", axes="TCYX", chunk=8, like=source, name="d")
    channels = open_store(tmp_path / "d.ome.zarr").metadata["ngff"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == names["Channel"]["Name"]
    assert {channel["window"]["max"] for channel in channels} == {65535}


def test_a_map_of_colours_keeps_the_other_axes(tmp_path):
    image = noise((2, 6, 8, 3), "u1")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", metadata={"axes": "TYXS"}, resolution=(3, 3))
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb, source.channel_axis) == ("TYXS", True, None)
    write_image(tmp_path / "map.tif", image[..., 0], like=source)
    back = read_image(tmp_path / "map.tif")
    assert (back.axes, back.rgb) == ("TYX", False)
    assert back.metadata["resolution"] == (3, 3)


def test_unnamed_axes_are_left_to_the_reader(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((2, 2, 2, 6, 8), "u1"), photometric="minisblack")
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb, source.channel_axis) == (None, None, None)
    assert source.array.shape == (2, 2, 2, 6, 8)


def test_planes_of_colours_become_the_last_axis(tmp_path):
    image = noise((3, 6, 8), "u1")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig="separate")
    source = read_image(tmp_path / "a.tif")
    assert (source.axes, source.rgb) == ("YXS", True)
    np.testing.assert_array_equal(source.array, np.moveaxis(image, 0, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_in_every_format(tmp_path, orientation):
    image = noise((6, 9, 3), "u1")
    exif = Image.Exif()
    exif[0x0112] = orientation
    dots = (300, 150) if orientation < 5 else (150, 300)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(image).save(tmp_path / name, exif=exif, dpi=(300, 150))
        read = read_image(tmp_path / name)
        assert read.metadata["dpi"] == pytest.approx(dots, abs=0.1)
    upright = read_image(tmp_path / "a.png").array
    assert orientation == 1 or not np.array_equal(upright, image)

    deep = image * np.uint16(257)
    content, note = png_encode(deep), exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(note)) + b"eXIf" + note + struct.pack(">I", zlib.crc32(b"eXIf" + note))
    size = b"pHYs" + struct.pack(">IIB", 11811, 5906, 1)  # dots in a metre
    size = struct.pack(">I", len(size) - 4) + size + struct.pack(">I", zlib.crc32(size))
    for place in (33, len(content) - 12):  # after the header, before the end
        (tmp_path / "b.png").write_bytes(content[:33] + size + content[33:place] + chunk + content[place:])
        read = read_image(tmp_path / "b.png")
        np.testing.assert_array_equal(read.array, upright * np.uint16(257))
        assert read.metadata["dpi"] == pytest.approx(dots, abs=0.1)

    tag = [(274, "H", 1, orientation, True)]
    planes = np.moveaxis(image, -1, 0)
    for stored, colours, options in (
        (image, slice(None), {"photometric": "rgb"}),
        (planes, slice(None), {"photometric": "rgb", "planarconfig": "separate"}),
        (image[..., 0], 0, {"photometric": "minisblack"}),
    ):
        tifffile.imwrite(tmp_path / "a.tif", stored, extratags=tag, resolution=(3, 4), **options)
        read = read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(read.array, upright[..., colours])
        assert read.metadata["resolution"] == ((3, 4) if orientation < 5 else (4, 3))
        write_image(tmp_path / "b.tif", read.array, like=read)
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif").array, upright[..., colours])


def test_stacks_lie_as_they_are_stored(tmp_path):
    image = noise((4, 6, 9), "u1")
    tag = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=tag, photometric="minisblack", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, image)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_inks_become_colours_as_those_of_jpeg(tmp_path, planes):
    levels = np.array(list(product(range(0, 256, 15), repeat=2)), np.uint8)
    inks = np.stack([levels[:, 0], 255 - levels[:, 0], levels[::-1, 0], levels[:, 1]], axis=-1).reshape(18, 18, 4)
    expected = np.array(Image.fromarray(inks, mode="CMYK").convert("RGB"))
    path = tmp_path / "a.tif"
    for image, of_8_bits in ((inks, expected), (inks * np.uint16(257), expected * np.uint16(257))):
        stored = image if planes == "contig" else np.moveaxis(image, -1, 0)
        tifffile.imwrite(path, stored, photometric="separated", planarconfig=planes)
        read = read_image(path)
        assert (read.axes, read.rgb, read.array.dtype) == ("YXS", True, image.dtype)
        assert np.abs(read.array.astype(int) - of_8_bits).max() <= (0 if image is inks else 128)  # rounding of 8 bits
    write_image(tmp_path / "b.tif", read.array, like=read)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").array, read.array)


@pytest.mark.parametrize(
    ("photometric", "shape", "dtype", "seen"),
    [
        ("cielab", (6, 8, 3), "u1", "CIELAB, 3 samples of 8 bits"),
        ("ycbcr", (6, 8, 3), "u1", "YCBCR, 3 samples of 8 bits"),
        ("separated", (6, 8, 5), "u1", "SEPARATED, 5 samples of 8 bits"),
        ("separated", (6, 8, 4), "f4", "SEPARATED, 4 samples of 32 bits"),
    ],
)
def test_colours_that_are_none_of_ours_are_named(tmp_path, photometric, shape, dtype, seen):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape, dtype), photometric=photometric, planarconfig="contig")
    words = f"cannot read {str(path)!r}: its colours are {seen}; wanted grayscale, RGB, a palette, or CMYK of 8 or 16 "
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        read_image(path)


def test_colours_that_jpeg_has_made_ycbcr_are_read(tmp_path):
    rows, columns = np.mgrid[0:32, 0:48].astype(np.uint8)
    image = np.stack([rows * 5, columns * 4, np.full_like(rows, 90)], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", compressionargs={"level": 95})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR
    assert np.abs(read_image(tmp_path / "a.tif").array.astype(int) - image).mean() < 3


def tags(path):
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        assert len(file.pages) == 1
        return page.photometric, page.planarconfig, page.extrasamples, page.shape


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(
    ("photometric", "extra"),
    [
        ("rgb", [1]),
        ("rgb", [2]),
        ("rgb", [0]),
        ("rgb", [0, 2]),
        ("minisblack", [0]),
        ("minisblack", [0, 0, 0, 0]),
        ("minisblack", [0, 0, 2]),
    ],
)
def test_further_samples_keep_their_meaning(tmp_path, planes, photometric, extra):
    count = len(extra) + (3 if photometric == "rgb" else 1)
    image = noise((6, 8, count), "u2")
    colours = photometric == "rgb" and extra in ([1], [2])
    stored = image if planes == "contig" else np.moveaxis(image, -1, 0)
    source, result = tmp_path / "a.tif", tmp_path / "b.tif"
    for ome in (False, True):
        axes = "YXS" if planes == "contig" else "SYX"
        options = {"photometric": photometric, "planarconfig": planes, "extrasamples": extra}
        tifffile.imwrite(source, stored, metadata={"axes": axes}, ome=ome, **options)
        read = read_image(source)
        assert (read.rgb, read.channel_axis) == ((True, None) if colours else (False, read.axes.index("C")))
        np.testing.assert_array_equal(read.array, image if colours else stored)
        write_image(result, read.array, like=read, rgb=read.rgb)
        again = read_image(result)
        np.testing.assert_array_equal(again.array, read.array)
        assert (again.axes, again.rgb) == (read.axes, read.rgb)
        if not colours or planes == "contig":
            assert tags(result) == tags(source)
        else:  # planes of colours are written beside each other
            assert tags(result)[2] == tags(source)[2]


def test_three_grey_levels_side_by_side_are_colours_and_as_planes_channels(tmp_path):
    image = noise((6, 8, 3), "u2")
    options = {"photometric": "minisblack", "extrasamples": [0, 0], "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", image, planarconfig="contig", **options)  # as GDAL writes 16 bits
    read = read_image(tmp_path / "a.tif")
    assert read.rgb
    np.testing.assert_array_equal(read.array, image)
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(image, -1, 0), planarconfig="separate", **options)
    read = read_image(tmp_path / "b.tif")
    assert (read.rgb, read.array.shape) == (False, (3, 6, 8))


def test_a_broken_note_makes_no_broken_16_bit_png(tmp_path):
    path = tmp_path / "a.png"
    image = noise((6, 8, 3), "u2")
    write_image(path, image)
    content = path.read_bytes()
    note = zlib.compress(bytes(2 << 20))  # larger than Pillow unpacks
    for name, data in ((b"zTXt", b"Comment\0\0" + note), (b"tEXt", b"Comment\0x")):
        check = zlib.crc32(name + data) ^ (name == b"tEXt")
        chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)
        path.write_bytes(content[:33] + chunk + content[33:])
        np.testing.assert_array_equal(read_image(path).array, image)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("alpha", [1, 2])
def test_gray_with_alpha_becomes_rgba_as_that_of_png(tmp_path, photometric, alpha):
    image = noise((6, 8, 2), "u1")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric=photometric, planarconfig="contig", extrasamples=[alpha])
    read = read_image(path)
    assert (read.axes, read.rgb) == ("YXS", True)
    gray = image[..., 0] if photometric == "minisblack" else 255 - image[..., 0]
    np.testing.assert_array_equal(read.array, np.stack([gray, gray, gray, image[..., 1]], axis=-1))
    write_image(path, read.array, like=read)
    assert tags(path)[2] == (alpha,)


def test_a_stack_of_further_samples_keeps_them_apart_from_colours(tmp_path):
    image = noise((5, 6, 8, 4), "u1")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", extrasamples=[0])
    read = read_image(path)
    assert (read.axes, read.rgb, read.channel_axis) == (None, None, 3)
    write_image(path, image, like=read, rgb=False)
    again = read_image(path)
    np.testing.assert_array_equal(again.array, image)
    assert again.channel_axis == 3


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("shape", [(6, 13), (3, 6, 13)])
def test_one_bit_becomes_black_and_white_as_that_of_png(tmp_path, photometric, shape):
    image = noise(shape, "u1") > 99
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric=photometric)
    read = read_image(path)
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, np.where(image == (photometric == "minisblack"), 255, 0))
    if image.ndim == 2:
        with Image.open(path) as picture:
            np.testing.assert_array_equal(read.array, np.array(picture.convert("L")))
    write_image(path, read.array, like=read)
    np.testing.assert_array_equal(read_image(path).array, read.array)


def test_one_bit_of_a_palette_becomes_its_colours(tmp_path):
    path = tmp_path / "a.tif"
    image = noise((6, 16), "u1") > 99
    palette = np.array([[0, 65535], [256 * 40, 0], [256 * 90, 256 * 7]], np.uint16)
    tag = [(320, "H", 6, palette.ravel().tolist(), True)]
    tifffile.imwrite(path, image, photometric="minisblack", extratags=tag)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags["PhotometricInterpretation"].valueoffset
    content[place : place + 2] = struct.pack("<H", 3)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path).array, (palette.T >> 8).astype(np.uint8)[image.astype(int)])


def test_white_is_the_largest_value(tmp_path):
    image = noise((6, 8), "u2")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, 65535 - image)


def test_the_first_level_of_a_pyramid_is_read(tmp_path):
    image = noise((64, 64), "u1")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image, subifds=1, tile=(16, 16))
        file.write(image[::2, ::2], subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, image)


def test_compressed_tiffs_are_read(tmp_path):
    image = noise((20, 30, 3), "u2") // 64
    for compression in ("zlib", "lzw", "zstd"):
        tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, photometric="rgb")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, image)


def broken_files(folder):
    """Files that are no images, and what their message has to say."""
    whole = folder / "whole.png"
    write_image(whole, noise((50, 60, 3), "u1"))
    write_image(folder / "whole16.png", noise((50, 60, 3), "u2"))
    write_image(folder / "whole.tif", noise((50, 60, 3), "u2"))
    write_image(folder / "whole.jpg", noise((50, 60, 3), "u1"))
    for name in ("whole.png", "whole16.png", "whole.tif", "whole.jpg"):
        content = (folder / name).read_bytes()
        cut = folder / name.replace("whole", "cut")
        cut.write_bytes(content[: len(content) // 2])
        yield cut, "a broken"
    damaged = bytearray(whole.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "damaged.png").write_bytes(damaged)
    yield folder / "damaged.png", "a broken PNG image"
    text = folder / "x.png"
    text.write_text("hello, world")
    yield text, "not a PNG image (it starts with b'hello, w')"
    (folder / "empty.tif").touch()
    yield folder / "empty.tif", "not a TIFF image (it is empty)"
    (folder / "head.tif").write_bytes(b"II*\0")
    yield folder / "head.tif", "a broken TIFF image"
    (folder / "head.png").write_bytes(whole.read_bytes()[:20])
    yield folder / "head.png", "a broken PNG image"
    (folder / "folder.png").mkdir()
    yield folder / "folder.png", "it is a folder"
    yield folder / "a.gif", "extension '.gif' is none of .png, .jpg"
    for name in ("whole.webp", "whole.bmp"):
        Image.fromarray(noise((50, 60, 3), "u1")).save(folder / name)
        content = (folder / name).read_bytes()
        cut = folder / name.replace("whole", "cut")
        cut.write_bytes(content[: len(content) // 2])
        yield cut, f"a broken {'WebP' if name.endswith('webp') else 'BMP'} image"
    (folder / "sound.webp").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    yield folder / "sound.webp", "not a WebP image"
    for name in ("moving.webp", "moving.png"):
        frames = [Image.fromarray(noise((8, 9, 3), "u1", seed)) for seed in range(3)]
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
        yield folder / name, "an animation of 3 pictures; wanted a single one"
    deep = [Image.fromarray(noise((8, 9), "u2", seed)) for seed in range(3)]
    deep[0].save(folder / "moving16.png", save_all=True, append_images=deep[1:])
    yield folder / "moving16.png", "an animation of 3 pictures; wanted a single one"


def test_a_file_that_is_no_image_is_named_in_one_line(tmp_path):
    for path, message in broken_files(tmp_path):
        with pytest.raises(ValueError, match=re.escape(f"cannot read {str(path)!r}: {message}")) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.png"
    with pytest.raises(FileNotFoundError, match=re.escape(f"no such file: {str(path)!r}")):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.png", np.zeros((4, 4), "f4"), "PNG holds whole numbers of 8 or 16 bits, not float32"),
        ("a.png", np.zeros((4, 4), "i2"), "not int16; use .tif"),
        ("a.jpg", np.zeros((4, 4), "u2"), "JPEG holds whole numbers of 8 bits"),
        ("a.jpg", np.zeros((4, 4, 4), "u1"), "JPEG holds no alpha"),
        ("a.png", np.zeros((2, 4, 5), "u1"), "one picture, not shape (2, 4, 5)"),
        ("a.png", np.zeros((0, 4), "u1"), "has no pixels"),
        ("a.tif", np.zeros((0, 4), "u1"), "has no pixels"),
        ("a.tif", np.zeros((4,), "u1"), "2 axes or more"),
        ("a.tif", np.zeros((4, 4), bool), "no image format holds bool"),
        ("a.tif", np.zeros((4, 4), complex), "no image format holds complex128"),
        ("a.gif", np.zeros((4, 4), "u1"), "extension '.gif' is none of"),
        ("a.webp", np.zeros((4, 4), "u1"), "extension '.webp' is none of .png, .jpg, .jpeg, .tif, .tiff"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_written(tmp_path, name, image, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder: "):
        write_image(tmp_path / "none" / "a.png", np.zeros((4, 4), "u1"))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a16.png", "a.jpg"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    path = tmp_path / name
    old = np.zeros((4, 4), "u2" if "16" in name else "u1")
    write_image(path, old)
    content = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, old + 9)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(OSError, match="No space left") as caught:
        write_image(tmp_path / "a.tif", np.zeros((40, 40)))
    assert caught.value.filename == str(tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_image(tmp_path / "a.png", np.zeros((4, 4), "u1"))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_written_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((40, 40), "u1"))
    write_image(path, np.full((4, 4), 7, "u1"), like=ImageFile(array=np.zeros((4, 4))))
    np.testing.assert_array_equal(read_image(path).array, 7)
