"""The compression agrees with Pillow's encoder and decoder."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from napari_dmgn.synthesis.jpeg import jpeg

QUALITIES = (10, 30, 50, 75, 95, 100)


def psnr(a, b):
    return -10 * np.log10(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2) / 255**2)


def by_pillow(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))


def by_us(pixels, quality):
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    levels = jpeg(images, torch.tensor([quality]))[0].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    return levels.round().astype(np.uint8)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_it_is_what_pillow_makes(name, quality):
    pixels = getattr(data, name)()[100:229, 150:310]  # 129 x 160: no whole number of blocks
    ours, theirs = by_us(pixels, quality), by_pillow(pixels, quality)
    assert psnr(ours, theirs) > 42
    # Nearer to each other than either is to the picture.
    assert psnr(ours, theirs) > psnr(theirs, pixels) + 5
    assert psnr(ours, pixels) == pytest.approx(psnr(theirs, pixels), abs=0.2)


def test_each_image_has_its_own_quality():
    pixels = torch.from_numpy(data.astronaut()[:64, :64].copy()).permute(2, 0, 1) / 255
    together = jpeg(torch.stack([pixels] * 3), torch.tensor([20.0, 60.0, 95.0]))
    for image, quality in zip(together, (20.0, 60.0, 95.0), strict=True):
        torch.testing.assert_close(image, jpeg(pixels[None], torch.tensor([quality]))[0])
    losses = ((together - pixels) ** 2).mean((1, 2, 3))
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (16, 8)])
def test_small_pictures_and_gray(size):
    gray = torch.full((2, 3, *size), 100 / 255)
    torch.testing.assert_close(jpeg(gray, torch.tensor([50, 95])), gray, atol=1.5 / 255, rtol=0)
