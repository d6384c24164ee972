"""Files and arrays become pictures as promised."""

import numpy as np
import pytest
import torch
from PIL import Image

from napari_dmgn.data import PicturePool, array_pictures, find_pictures, pair_pictures, read_pictures
from napari_dmgn.files import write_image


def picture(h=20, w=26, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def save(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def rows(found):
    """A picture's pixels as (H, W, C), the layer of a pair last in."""
    return found.pixels[-1].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("shape", [(20, 26), (20, 26, 3), (2, 20, 26), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_arrays_are_copies(shape, dtype):
    array = np.ones(shape, dtype)
    array[0] = 0
    found = array_pictures(array, "array")
    kept = [p.pixels.clone() for p in found]
    array[:] = 1 - array
    for p, k in zip(found, kept, strict=True):
        assert torch.equal(p.pixels, k)
    array.flags.writeable = False  # which torch warns of where it shares the memory
    array_pictures(array, "array")


def test_pictures_are_found_by_suffix_in_order_of_name(tmp_path):
    for name in ("b.png", "a.PNG", "c.bmp", "d.TIF"):
        save(picture(), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find_pictures(tmp_path)] == ["a.PNG", "b.png", "c.bmp", "d.TIF"]


def test_folders_without_pictures_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="has no picture"):
        find_pictures(tmp_path)
    for missing in (tmp_path / "none", tmp_path / "notes.txt", "~nobody-of-this-name/pictures"):
        with pytest.raises(ValueError, match=f"data folder {missing} does not exist"):
            find_pictures(missing)


def test_gray_palette_alpha_and_rotated_pictures_become_gray_or_rgb(tmp_path):
    pixels = picture()
    gray = save(pixels[..., 0], tmp_path / "gray.png")
    alpha = save(np.dstack([pixels, np.full((20, 26), 7, np.uint8)]), tmp_path / "alpha.png")
    indexed = tmp_path / "indexed.png"
    Image.fromarray(pixels // 128 * 255).quantize(8).save(indexed)
    bitmap = save(pixels, tmp_path / "bitmap.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = save(pixels, tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    web = save(pixels, tmp_path / "web.webp", lossless=True)
    found = [read_pictures(path)[0] for path in (gray, alpha, indexed, bitmap, turned, web)]
    wanted = [pixels[..., :1], pixels, pixels // 128 * 255, pixels]
    assert np.array_equal(rows(found[5]), pixels)
    for f, w in zip(found, wanted, strict=False):
        assert np.array_equal(rows(f), w), f.name
    assert {f.pixels.dtype for f in found} == {torch.uint8}
    assert rows(found[4]).shape == (26, 20, 3)
    np.testing.assert_allclose(rows(found[4]).astype(int), np.rot90(pixels, -1), atol=6)  # JPEG


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint16, 4095), (np.uint16, 65535), (np.float32, 1.0), (np.float32, 900)]
)
def test_more_than_eight_bits_are_kept_in_the_range_that_restore_would_use(dtype, top, tmp_path):
    ramp = (np.linspace(0, 1, 20 * 26).reshape(20, 26) * top).astype(dtype)
    write_image(tmp_path / "ramp.tif", ramp)
    (found,) = read_pictures(tmp_path / "ramp.tif")
    assert found.pixels.dtype == torch.float16
    assert found.dtype == np.dtype(dtype).name
    np.testing.assert_allclose(rows(found)[..., 0], ramp / ramp.max(), atol=2**-11)
    assert len(np.unique(rows(found))) > 256


def test_each_page_of_a_stack_and_each_channel_is_a_picture(tmp_path):
    stack = np.random.default_rng(0).integers(0, 4000, (5, 20, 26)).astype(np.uint16)
    write_image(tmp_path / "stack.tif", stack)
    found = read_pictures(tmp_path / "stack.tif")
    assert [f.name for f in found] == [f"stack.tif[{i}]" for i in range(5)]
    assert {(f.group, f.file) for f in found} == {(str((tmp_path / "stack.tif").resolve()), "stack.tif")}
    for f, page in zip(found, stack, strict=True):  # one range for the whole stack
        np.testing.assert_allclose(rows(f)[..., 0], page / stack.max(), atol=1e-3)
    assert len(array_pictures(np.zeros((3, 20, 26, 3), np.uint8), "layer")) == 3


def test_pairs_share_the_inputs_range_and_channels(tmp_path):
    background = np.random.default_rng(0).integers(0, 2000, (20, 26)).astype(np.uint16)
    noisy = background + np.uint16(2000)
    write_image(tmp_path / "a.tif", noisy)
    write_image(tmp_path / "b.tif", background)
    (found,) = pair_pictures(tmp_path / "a.tif", tmp_path / "b.tif")
    assert found.pixels.shape == (2, 1, 20, 26)
    np.testing.assert_allclose(found.pixels[0, 0], noisy / noisy.max(), atol=1e-3)
    np.testing.assert_allclose(found.pixels[1, 0], background / noisy.max(), atol=1e-3)
    (mixed,) = pair_pictures(save(picture(), tmp_path / "c.png"), save(picture()[..., 0], tmp_path / "d.png"))
    assert mixed.pixels.shape == (2, 3, 20, 26)
    (again,) = pair_pictures(str(tmp_path / "c.png"), str(tmp_path / "d.png"))
    assert torch.equal(again.pixels, mixed.pixels)
    assert again.group == mixed.group
    (alone,) = read_pictures(str(tmp_path / "c.png"))
    assert torch.equal(alone.pixels[0], mixed.pixels[0])


def test_unequal_pairs_are_refused_by_name():
    a = picture()
    for b, message in (
        (a[:-1], r"shapes \(20, 26, 3\) and \(19, 26, 3\)"),
        (a.astype(np.float32), "types uint8 and float32"),
    ):
        with pytest.raises(ValueError, match=f"array 3: {message}; wanted two of one"):
            array_pictures(a, "array 3", b)


def test_unreadable_pictures_are_refused_in_one_line(tmp_path):
    good = save(picture(64, 64), tmp_path / "good.png").read_bytes()
    jpeg = save(picture(64, 64), tmp_path / "good.jpg").read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    cases = {
        "text.png": b"not a picture",
        "text.bmp": b"not a picture",
        "empty.png": b"",
        "damaged.png": bytes(damaged),
        **{f"cut{i}.png": good[: len(good) * i // 8] for i in range(1, 8)},
        **{f"cut{i}.jpg": jpeg[: len(jpeg) * i // 8] for i in range(1, 8)},
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^cannot read picture {path}: .") as caught:
            read_pictures(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot read picture"):
        read_pictures(tmp_path / "missing.png")


def test_digest_follows_every_pixel_and_no_file_detail(tmp_path):
    def digest(*paths):
        return PicturePool([p for path in paths for p in read_pictures(path)]).digest

    pixels = picture()
    path = save(pixels, tmp_path / "a.png")
    first = digest(path)
    assert digest(save(pixels, tmp_path / "b.bmp")) == first
    for where in ((0, 0, 0), (19, 25, 2), (7, 3, 1)):
        changed = pixels.copy()
        changed[where] ^= 1
        assert digest(save(changed, path)) != first
    other = save(picture(seed=1), tmp_path / "c.png")
    assert digest(path, other) != digest(other, path)
