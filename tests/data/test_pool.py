"""Crops are real crops, turned, resized, and the same for the same generator."""

import itertools

import numpy as np
import pytest
import torch

from napari_dmgn.data import PicturePool, array_pictures


def picture(h=20, w=26, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def pool(*arrays):
    return PicturePool([p for i, a in enumerate(arrays) for p in array_pictures(a, f"array {i}")])


def symmetries(crop):
    return [np.rot90(c, k) for c in (crop, crop[:, ::-1]) for k in range(4)]


def test_crops_are_the_eight_symmetries_of_real_crops():
    pixels = [picture(6, 7, seed=0), picture(5, 9, seed=1)]
    real = {}
    for index, p in enumerate(pixels):
        for top, left in itertools.product(range(p.shape[0] - 3), range(p.shape[1] - 3)):
            for turn, form in enumerate(symmetries(p[top : top + 4, left : left + 4])):
                real[form.tobytes()] = (index, top, left, turn)
    crops = pool(*pixels).crops(4000, 4, torch.Generator().manual_seed(0))[:, 0]
    assert crops.dtype == torch.float32
    seen = [real[(c.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).tobytes()] for c in crops]
    # Every picture, place and symmetry occurs; the pictures and symmetries alike often.
    assert set(seen) == set(real.values())
    for part, kinds in ((0, 2), (3, 8)):
        counts = np.bincount([s[part] for s in seen], minlength=kinds)
        np.testing.assert_allclose(counts, 4000 / kinds, rtol=0.2)


def test_upright_crops_are_mirrored_only():
    ramp = np.arange(48, dtype=np.uint8).reshape(6, 8, 1).repeat(3, axis=2)
    crops = pool(ramp).crops(400, 4, torch.Generator().manual_seed(0), upright=True)[:, 0, 0] * 255
    torch.testing.assert_close(crops.diff(dim=1), torch.full((400, 3, 4), 8.0))  # downwards in every crop
    rightwards = crops.diff(dim=2)[:, 0, 0].round()
    assert set(rightwards.tolist()) == {-1.0, 1.0}
    assert 0.4 < (rightwards > 0).float().mean() < 0.6


def test_same_generator_state_same_crops():
    one = pool(picture())
    first, again, other = (one.crops(5, 8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    before = torch.random.get_rng_state()
    one.crops(5, 8, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_both_layers_of_a_pair_are_cropped_alike():
    background = picture() // 2
    pairs = PicturePool(array_pictures(background + np.uint8(9), "pair", background))
    crops = pairs.crops(20, 8, torch.Generator().manual_seed(0), rescale=(0.5, 2))
    assert crops.shape == (20, 2, 3, 8, 8)
    torch.testing.assert_close(crops[:, 0] - crops[:, 1], torch.full((20, 3, 8, 8), 9 / 255))


def test_gray_becomes_three_equal_channels_beside_colours():
    mixed = pool(picture(), picture()[..., 0].astype(np.float32) / 255)
    whole = mixed.centres(20)[:, 0]
    np.testing.assert_array_equal(whole[0].permute(1, 2, 0) * 255, picture()[:, 3:23])
    for channel in whole[1]:
        np.testing.assert_allclose(channel, picture()[:, 3:23, 0] / 255, atol=2**-11)


@pytest.mark.parametrize(("factor", "side"), [(0.5, 16), (2.0, 4), (0.1, 20)])
def test_rescaling_shows_what_a_resized_picture_would(factor, side):
    """On a ramp: its slope tells the factor; pictures are never made smaller than the crop."""
    ramp = np.repeat(np.arange(26, dtype=np.float32)[None] / 25, 20, axis=0)
    crops = pool(ramp).crops(30, 8, torch.Generator().manual_seed(0), rescale=(factor, factor))[:, 0, 0]
    inner = crops[:, 3:5, 3:5]
    slope = torch.stack([(inner[:, :, 1] - inner[:, :, 0]).abs(), (inner[:, 1] - inner[:, 0]).abs()]).amax((0, 2))
    np.testing.assert_allclose(slope * 25, side / 8, rtol=0.02)
    drawn = pool(ramp).crops(300, 8, torch.Generator().manual_seed(0), rescale=(0.5, 2))[:, 0, 0]
    spread = torch.stack([drawn.diff(dim=1).abs().amax((1, 2)), drawn.diff(dim=2).abs().amax((1, 2))]).amax(0) * 25
    assert 0.45 < spread.min() < 0.6
    assert 1.8 < spread.max() < 2.2


def test_pictures_smaller_than_the_crops_are_named():
    small = pool(picture(70, 80), picture(40, 41))
    for crops in (lambda: small.crops(1, 64, torch.Generator()), lambda: small.centres(64)):
        with pytest.raises(ValueError, match="array 1 is 41x40; crops of 64 px wanted that at least"):
            crops()
    assert small.centres(40).shape == (2, 1, 3, 40, 40)
    assert small.crops(9, 64, torch.Generator().manual_seed(0), rescale=(1, 2)).shape == (9, 1, 3, 64, 64)
    with pytest.raises(ValueError, match="a pool of no pictures; wanted one or more"):
        PicturePool([])


def test_torchs_defaults_change_no_crop():
    wanted = pool(picture()).crops(9, 8, torch.Generator().manual_seed(0), rescale=(0.5, 2))
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = pool(picture()).crops(9, 8, torch.Generator().manual_seed(0), rescale=(0.5, 2))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(found, wanted)
