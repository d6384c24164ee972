"""Pictures are found, split, read and cropped as promised."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from napari_dmgn.data import PicturePool, find_pictures, split_pictures


def picture(h=20, w=26, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def save(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_pictures_are_found_by_suffix_in_order_of_name(tmp_path):
    for name in ("b.png", "a.PNG", "c.bmp", "d.TIF"):
        save(picture(), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder").mkdir()
    assert [p.name for p in find_pictures(tmp_path)] == ["a.PNG", "b.png", "c.bmp", "d.TIF"]


def test_folders_without_pictures_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="has no picture"):
        find_pictures(tmp_path)
    for missing in (tmp_path / "none", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"data folder {missing} does not exist"):
            find_pictures(missing)


def test_split_depends_on_names_alone_and_shares_nothing(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abcdef"]
    for count in range(6):
        first = split_pictures(paths, count)
        assert [len(part) for part in first] == [6 - count, count]
        assert sorted(first[0] + first[1]) == paths
        for order in itertools.islice(itertools.permutations(paths), 0, None, 37):
            again = split_pictures(order, count)
            assert [set(part) for part in again] == [set(part) for part in first]
        moved = split_pictures([p.parent / "elsewhere" / p.name for p in paths], count)
        assert [[p.name for p in part] for part in moved] == [[p.name for p in part] for part in first]


def test_added_pictures_never_bring_a_training_picture_into_validation(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    added = [tmp_path / f"new{i}.png" for i in range(5)]
    for count in range(8):
        train, held_out = split_pictures(paths, count)
        for k in range(6):
            more, held = split_pictures(paths + added[:k], count)
            assert set(train) <= set(more)
            assert set(held) <= set(held_out) | set(added)


def test_one_picture_at_least_is_left_for_training(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for count in (2, 3, -1):
        with pytest.raises(ValueError, match=f"{count} of 2 pictures for validation"):
            split_pictures(paths, count)


def test_pixels_come_as_they_are(tmp_path):
    pixels = picture()
    pool = PicturePool([save(pixels, tmp_path / "a.png")], least=20)
    assert len(pool) == 1
    assert np.array_equal(pool.pictures[0].permute(1, 2, 0), pixels)
    whole = pool.centres(20)
    np.testing.assert_array_equal(whole[0].permute(1, 2, 0) * 255, pixels[:, 3:23])


def test_gray_palette_alpha_and_rotated_pictures_become_rgb(tmp_path):
    pixels = picture()
    gray = save(pixels[..., 0], tmp_path / "gray.png")
    alpha = save(np.dstack([pixels, np.full((20, 26), 7, np.uint8)]), tmp_path / "alpha.png")
    indexed = tmp_path / "indexed.png"
    Image.fromarray(pixels // 128 * 255).quantize(8).save(indexed)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = save(pixels, tmp_path / "turned.tif", exif=exif)
    pool = PicturePool([gray, alpha, indexed, turned], least=20)
    found = [p.permute(1, 2, 0).numpy() for p in pool.pictures]
    assert np.array_equal(found[0], np.repeat(pixels[..., :1], 3, axis=2))
    assert np.array_equal(found[1], pixels)
    assert np.array_equal(found[2], pixels // 128 * 255)
    assert np.array_equal(found[3], np.rot90(pixels, -1))


def test_sixteen_bit_and_float_pictures_are_not_cut_off_unseen(tmp_path):
    """Pillow clips them to 8 bits: an image of white would be trained on."""
    ramp = np.linspace(0, 65535, 20 * 26).reshape(20, 26)
    for name, pixels in (("a.png", ramp.astype(np.uint16)), ("b.tif", ramp.astype(np.float32))):
        path = save(pixels, tmp_path / name)
        with pytest.raises(ValueError, match=rf"picture {path} has pixels of mode .*; wanted 8 bits"):
            PicturePool([path], least=1)


def test_unreadable_pictures_are_refused_in_one_line(tmp_path):
    good = save(picture(64, 64), tmp_path / "good.png").read_bytes()
    jpeg = save(picture(64, 64), tmp_path / "good.jpg").read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    cases = {
        "text.png": b"not a picture",
        "empty.png": b"",
        "damaged.png": bytes(damaged),
        **{f"cut{i}.png": good[: len(good) * i // 8] for i in range(1, 8)},
        **{f"cut{i}.jpg": jpeg[: len(jpeg) * i // 8] for i in range(1, 8)},
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^cannot read picture {path}: .") as caught:
            PicturePool([path], least=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot read picture"):
        PicturePool([tmp_path / "missing.png"], least=1)


def test_small_pictures_are_refused(tmp_path):
    path = save(picture(20, 26), tmp_path / "a.png")
    PicturePool([path], least=20)
    with pytest.raises(ValueError, match="is 26x20; the crops need at least 21x21"):
        PicturePool([path], least=21)


def test_digest_follows_every_pixel_and_no_file_detail(tmp_path):
    pixels = picture()
    path = save(pixels, tmp_path / "a.png")
    first = PicturePool([path], least=1).digest
    assert PicturePool([save(pixels, tmp_path / "b.bmp")], least=1).digest == first
    for where in ((0, 0, 0), (19, 25, 2), (7, 3, 1)):
        changed = pixels.copy()
        changed[where] ^= 1
        assert PicturePool([save(changed, path)], least=1).digest != first
    other = save(picture(seed=1), tmp_path / "c.png")
    both = [PicturePool(order, least=1).digest for order in ([path, other], [other, path])]
    assert both[0] != both[1]


def symmetries(crop):
    return [np.rot90(c, k) for c in (crop, crop[:, ::-1]) for k in range(4)]


def test_crops_are_the_eight_symmetries_of_real_crops(tmp_path):
    pixels = [picture(6, 7, seed=0), picture(5, 9, seed=1)]
    pool = PicturePool([save(p, tmp_path / f"{i}.png") for i, p in enumerate(pixels)], least=4)
    real = {}
    for index, p in enumerate(pixels):
        for top, left in itertools.product(range(p.shape[0] - 3), range(p.shape[1] - 3)):
            for turn, form in enumerate(symmetries(p[top : top + 4, left : left + 4])):
                real[form.tobytes()] = (index, top, left, turn)
    crops = pool.crops(4000, 4, torch.Generator().manual_seed(0))
    assert crops.dtype == torch.float32
    seen = [real[(c.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).tobytes()] for c in crops]
    # Every picture, place and symmetry occurs; the pictures and symmetries alike often.
    assert set(seen) == set(real.values())
    for part, kinds in ((0, 2), (3, 8)):
        counts = np.bincount([s[part] for s in seen], minlength=kinds)
        np.testing.assert_allclose(counts, 4000 / kinds, rtol=0.2)


def test_same_generator_state_same_crops(tmp_path):
    pool = PicturePool([save(picture(), tmp_path / "a.png")], least=8)
    first, again, other = (pool.crops(5, 8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    before = torch.random.get_rng_state()
    pool.crops(5, 8, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
