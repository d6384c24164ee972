"""Scores against closed forms and against scikit-image."""

import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_dmgn.metrics import luma, psnr_y, ssim_y


@pytest.fixture(scope="module")
def pairs():
    """Pictures and what noise of several kinds makes of them."""
    random = np.random.default_rng(0)
    clean = data.astronaut()[60:140, 100:211]
    noisy = [
        clean + random.normal(0, 10, clean.shape),
        clean * 0.8 + 20,
        np.roll(clean, 1, axis=1),
        random.integers(0, 256, clean.shape),
    ]
    return [(np.clip(n, 0, 255).astype(np.uint8), clean) for n in noisy]


def test_luma_is_the_limited_range_of_itu_r_601(pairs):
    for image, _ in pairs:
        np.testing.assert_allclose(luma(image), rgb2ycbcr(image)[..., 0], atol=1e-9)
    ends = np.array([[[0] * 3, [255] * 3]], np.uint8)
    np.testing.assert_allclose(luma(ends), [[16, 235]], atol=1e-9)


def test_equal_images_score_highest(pairs):
    for image, clean in pairs:
        assert psnr_y(image, image) == float("inf")
        assert ssim_y(image, image) == pytest.approx(1)
        assert psnr_y(image, clean) < 60
        assert ssim_y(image, clean) < 1


def test_psnr_of_a_constant_offset_is_the_closed_form():
    clean = np.full((12, 13, 3), 100, np.uint8)
    for offset in (1, 5, 60, -40):
        error = offset * 219 / 255  # the luma's range is that much narrower
        wanted = 20 * np.log10(255 / abs(error))
        assert psnr_y((clean.astype(int) + offset).astype(np.uint8), clean) == pytest.approx(wanted)


def test_limited_range_reads_1_32_db_above_full_range():
    random = np.random.default_rng(1)
    a, b = (np.repeat(random.integers(0, 256, (20, 20, 1), np.uint8), 3, axis=2) for _ in range(2))
    full = peak_signal_noise_ratio(b[..., 0], a[..., 0], data_range=255)
    assert psnr_y(a, b) - full == pytest.approx(20 * np.log10(255 / 219))
    assert psnr_y(a, b) - full == pytest.approx(1.32, abs=0.005)


def test_ssim_of_constant_images_is_its_luminance_term():
    for low, high in ((0, 255), (100, 110), (30, 200)):
        a, b = (np.full((11, 15, 3), v, np.uint8) for v in (low, high))
        x, y = luma(a)[0, 0], luma(b)[0, 0]
        c1 = (0.01 * 255) ** 2
        assert ssim_y(a, b) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1))


def test_scores_agree_with_scikit_image(pairs):
    for image, clean in pairs:
        a, b = luma(image), luma(clean)
        assert psnr_y(image, clean) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))
        _, full = structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert ssim_y(image, clean) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


def test_scores_are_symmetric_and_see_no_mirror(pairs):
    for image, clean in pairs:
        for score in (psnr_y, ssim_y):
            assert score(image, clean) == pytest.approx(score(clean, image))
            assert score(image[::-1, ::-1], clean[::-1, ::-1]) == pytest.approx(score(image, clean))


def test_smallest_image_for_ssim_is_its_window(pairs):
    image, clean = (i[:11, :11] for i in pairs[0])
    assert 0 < ssim_y(image, clean) < 1
    with pytest.raises(ValueError, match="10x11; SSIM needs 11x11"):
        ssim_y(image[:, :10], clean[:, :10])


@pytest.mark.parametrize("score", [psnr_y, ssim_y])
def test_other_images_are_refused(score):
    good = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in shape"):
        score(good, good[:11])
    for wrong in (good.astype(np.float32), good[..., 0], good[..., :2], good.astype(np.uint16)):
        with pytest.raises(ValueError, match=r"wanted uint8 \(H, W, 3\)"):
            score(wrong, wrong)
