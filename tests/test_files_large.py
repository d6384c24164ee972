"""Files that are large, or hold more than one image: read, mapped, chosen from, or refused in one line."""

import contextlib
import logging
import re
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dmgn.files import read_image, room, tiff, write_image


def noise(shape, dtype="u1"):
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def save(path, image):
    if path.suffix in (".webp", ".bmp"):
        Image.fromarray(image).save(path)
    else:
        write_image(path, image)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_pictures_are_read_beyond_the_limit_of_pillow_which_stays(tmp_path, monkeypatch, name):
    """As with a mosaic of 13,500 x 13,500 pixels, which is beyond the limit as it comes."""
    image = noise((40, 50, 3))
    save(tmp_path / name, image)
    expected = read_image(tmp_path / name).array
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(read_image(tmp_path / name).array, expected)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / name)


def test_webp_beyond_the_limit_of_pillow_is_refused_by_name(tmp_path, monkeypatch):
    save(tmp_path / "a.webp", noise((40, 50, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    words = r"a.webp': Image size \(2000 pixels\) exceeds limit of 200 pixels for WebP; wanted another format$"
    with pytest.raises(ValueError, match=words):
        read_image(tmp_path / "a.webp")


def test_threads_read_beyond_the_limit_at_the_same_time(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", noise((40, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    read = []
    threads = [threading.Thread(target=lambda: read.append(read_image(tmp_path / "a.png").array)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 8
    assert all(np.array_equal(array, read[0]) for array in read)


def claims(width, height, bits, kind):
    """A PNG of a few bytes whose header claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("bits", "kind", "channels"), [(8, 0, 1), (8, 2, 3), (8, 6, 4), (16, 2, 3)])
def test_a_header_that_claims_more_than_the_memory_is_one_line(tmp_path, bits, kind, channels):
    path = tmp_path / "bomb.png"
    path.write_bytes(claims(2**31 - 1, 2**31 - 1, bits, kind))
    words = f"cannot read {str(path)!r}: 2147483647 x 2147483647 x {channels} values take "
    with pytest.raises(ValueError, match="^" + re.escape(words) + r"[\d,.]+ GiB of memory to read, ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a16.png", "a.tif", "a.webp", "a.bmp"])
def test_a_whole_file_that_the_free_memory_does_not_hold_is_refused(tmp_path, monkeypatch, name):
    image = noise((40, 50, 3), "u2" if "16" in name else "u1")
    save(tmp_path / name, image)
    monkeypatch.setattr(room, "_free_memory", lambda: image.nbytes - 1)
    with pytest.raises(ValueError, match=r"40 x 50 x 3 values take .* of memory to read, "):
        read_image(tmp_path / name)
    monkeypatch.setattr(room, "_free_memory", lambda: None)  # a system that does not tell
    assert read_image(tmp_path / name).array.shape == image.shape


PAGES = {
    "plain": {"metadata": None},
    "compressed": {"compression": "zlib"},
    "big": {"metadata": None, "bigtiff": True},
    "other byte order": {"metadata": None, "byteorder": ">"},
    "ImageJ": {"imagej": True},
    "OME": {"ome": True},
    "one for all": {"truncate": True},
}


@pytest.mark.parametrize("name", PAGES)
def test_a_tiff_that_ends_before_its_last_page_is_refused_wherever_it_ends(tmp_path, name):
    path = tmp_path / "a.tif"
    image = noise((4, 6, 8), "u2")
    tifffile.imwrite(path, image, photometric="minisblack", **PAGES[name])
    np.testing.assert_array_equal(read_image(path).array, image)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1].offset
    for end in (*range(0, last, 9), last - 1, last, last + 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="cannot read") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_a_tiff_cut_between_pages_says_what_it_lacks(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(4):
            file.write(noise((6, 8)), contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[3].offset
    path.write_bytes(path.read_bytes()[:offset])
    words = f"a broken TIFF image (it ends after {offset} bytes, before its page 3, which lies at byte {offset})"
    with pytest.raises(ValueError, match=re.escape(words)):
        read_image(path)


def test_a_chain_of_pages_without_an_end_is_read_once(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((6, 8)), metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page, form = file.pages.first, file.tiff
        after = page.offset + form.tagnosize + len(page.tags) * form.tagsize
    content[after : after + form.offsetsize] = struct.pack(form.offsetformat, page.offset)
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        tiff._check_pages(file)
    with contextlib.suppress(ValueError):  # older tifffile refuses it
        assert read_image(path).array.shape[-2:] == (6, 8)


LAYOUTS = {
    "plane": ((20, 30), {}),
    "colours": ((20, 30, 3), {"photometric": "rgb"}),
    "planes of colours": ((3, 20, 30), {"photometric": "rgb", "planarconfig": "separate"}),
    "stack": ((4, 20, 30), {"photometric": "minisblack"}),
    "imagej": ((4, 20, 30), {"imagej": True, "byteorder": "<", "metadata": {"axes": "ZYX"}}),
    "ome": ((4, 20, 30), {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_large_plain_tiff_is_mapped_and_says_what_a_read_one_says(tmp_path, monkeypatch, name):
    shape, options = LAYOUTS[name]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(shape), **options)
    read = read_image(path)
    monkeypatch.setattr(tiff, "_MAPPED_BYTES", read.array.nbytes)
    mapped = read_image(path)
    assert isinstance(mapped.array, np.memmap)
    assert not isinstance(read.array, np.memmap)
    assert mapped.array.dtype == read.array.dtype
    np.testing.assert_array_equal(mapped.array, read.array)
    assert (mapped.axes, mapped.rgb, mapped.channel_axis) == (read.axes, read.rgb, read.channel_axis)
    assert mapped.metadata == read.metadata


@pytest.mark.parametrize(
    "options", [{"compression": "zlib"}, {"byteorder": ">"}, {"photometric": "miniswhite"}, {"bitspersample": 10}]
)
def test_a_large_tiff_whose_bytes_are_not_its_pixels_is_read(tmp_path, monkeypatch, options):
    image = noise((20, 30), "u2") // 64
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    expected = read_image(tmp_path / "a.tif").array
    monkeypatch.setattr(tiff, "_MAPPED_BYTES", 0)
    array = read_image(tmp_path / "a.tif").array
    assert array.dtype == np.uint16
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, expected)


def test_a_large_tiff_that_was_cut_off_is_told_before_it_is_used(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((200, 300)))
    path.write_bytes(path.read_bytes()[:20_000])
    monkeypatch.setattr(tiff, "_MAPPED_BYTES", 0)
    with pytest.raises(ValueError, match="a broken TIFF image"):
        read_image(path)


@pytest.fixture
def two_series(tmp_path):
    """An OME-TIFF of two images of different sizes, types and pixel sizes."""
    path = tmp_path / "two.ome.tif"
    images = noise((20, 30)), noise((2, 12, 14), "u2")
    with tifffile.TiffWriter(path, ome=True) as file:
        for image, axes, step in zip(images, ("YX", "ZYX"), (0.5, 0.25), strict=True):
            metadata = {"axes": axes, "PhysicalSizeX": step}
            file.write(image, metadata=metadata, photometric="minisblack")
    return path, images


def test_each_series_of_a_tiff_is_read_when_asked_for(two_series, caplog):
    path, images = two_series
    for number, (image, axes, step) in enumerate(zip(images, ("YX", "ZYX"), (0.5, 0.25), strict=True)):
        found = read_image(path, series=number)
        np.testing.assert_array_equal(found.array, image)
        assert (found.axes, float(found.metadata["ome"]["PhysicalSizeX"])) == (axes, step)
    assert not caplog.records
    for number in (2, -1):
        words = f"series {number} is not in {str(path)!r}, which has the series 0 to 1"
        with pytest.raises(ValueError, match=re.escape(words)):
            read_image(path, series=number)


def test_the_first_of_several_series_is_read_with_a_warning(two_series, tmp_path, caplog):
    path, images = two_series
    np.testing.assert_array_equal(read_image(path).array, images[0])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{str(path)!r} holds 2 series of images; only the first, series 0, is read"
    write_image(tmp_path / "a.png", images[0])
    with pytest.raises(ValueError, match="is a PNG image and has no series; got series 0"):
        read_image(tmp_path / "a.png", series=0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("factor", [256, 257])
def test_indices_of_a_palette_become_its_colours(tmp_path, bits, factor):
    palette = noise((3, 2**bits))
    indices = noise((2, 20, 30), f"u{bits // 8}")
    path = tmp_path / "a.tif"
    options = {"photometric": "palette", "colormap": palette.astype("u2") * factor, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(path, indices, **options)
    found = read_image(path)
    assert (found.axes, found.rgb, found.array.dtype) == ("ZYXS", True, np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(found.array[..., channel], palette[channel][indices])


def test_a_palette_tiff_reads_as_pillow_shows_it(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(noise((20, 30, 3))).quantize(16).save(path)
    with Image.open(path) as shown:
        np.testing.assert_array_equal(read_image(path).array, np.array(shown.convert("RGB")))


def test_pseudo_colours_of_imagej_leave_what_was_measured(tmp_path):
    image = noise((20, 30))
    palette = np.tile(np.arange(256, dtype="u2") * 257, (3, 1))
    palette[1:] = 0
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="palette", colormap=palette, description="ImageJ=1.54f\nimages=1\n")
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej
    np.testing.assert_array_equal(read_image(path).array, image)
