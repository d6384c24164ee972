"""Scores against closed forms and against scikit-image."""

import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_dmgn.metrics import PROTOCOL_OF_TASK, PROTOCOLS, luma, psnr, psnr_y, score, ssim, ssim_y
from napari_dmgn.metrics.colour import pooled


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
        for function in (psnr_y, ssim_y):
            assert function(image, clean) == pytest.approx(function(clean, image))
            assert function(image[::-1, ::-1], clean[::-1, ::-1]) == pytest.approx(function(image, clean))


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
    for wrong in (good.astype(np.float32), good[..., 0], good[..., :2], good.astype(np.uint16), good.tolist(), None):
        with pytest.raises(ValueError, match=r"wanted uint8 \(H, W, 3\)"):
            score(wrong, wrong)


# The other protocols.

NAMES = ["rain-y", "haze-rgb", "haze-rgb-pooled-ssim", "reflection-rgb", "allinone-rgb"]


def fixed_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its target from whole-number arithmetic and a rounded wave, the same everywhere."""
    y, x, c = np.indices((height, width, 3))
    target = (128 + 64 * np.sin(y / 17 + c) + 48 * np.cos(x / 23 - c)).round()
    image = np.clip(target + (7 * y * y + 13 * x + 29 * c * y + x * y) % 61 - 30, 0, 255)
    return image.astype(np.uint8), target.astype(np.uint8)


def test_every_protocol_of_the_list_is_there_and_says_what_it_does():
    assert list(PROTOCOLS) == NAMES
    assert all(PROTOCOLS[name].name == name and PROTOCOLS[name].summary for name in NAMES)
    assert set(PROTOCOL_OF_TASK.values()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_laws_of_every_protocol(name, pairs):
    """Identity, symmetry, no sense of left and right, and floats in [0, 1] as good as bytes."""
    for image, clean in pairs:
        assert psnr(clean, clean, name) == float("inf")
        assert ssim(clean, clean, name) == pytest.approx(1, abs=1e-12)
        scores = score(image, clean, name)
        assert scores["psnr"] == psnr(image, clean, name) < 60
        assert scores["ssim"] == ssim(image, clean, name) < 1
        assert psnr(clean, image, name) == pytest.approx(scores["psnr"])
        assert ssim(clean, image, name) == pytest.approx(scores["ssim"])
        turned = score(image[:, ::-1], clean[:, ::-1], name)
        if name != "allinone-rgb" and "lmse" not in scores:  # an odd rest is cut off on one side
            assert turned == pytest.approx(scores)
        assert score(image / 255, clean / 255, name) == pytest.approx(scores, abs=1e-9)


def test_psnr_of_a_constant_offset_is_the_closed_form_in_rgb():
    clean = np.full((32, 48, 3), 100, np.uint8)
    for offsets in ((5, 5, 5), (1, 10, 60)):
        image = (clean + np.array(offsets)).astype(np.uint8)
        pooled_error = 10 * np.log10(255**2 / np.mean(np.square(offsets)))
        channel_mean = np.mean([20 * np.log10(255 / offset) for offset in offsets])
        for name in ("haze-rgb", "haze-rgb-pooled-ssim", "allinone-rgb"):
            assert psnr(image, clean, name) == pytest.approx(pooled_error, abs=1e-9)
        assert psnr(image, clean, "reflection-rgb") == pytest.approx(channel_mean, abs=1e-9)
    assert channel_mean - pooled_error > 1  # why no number goes without its protocol


def test_protocols_agree_with_scikit_image(pairs):
    def gaussian(a, b):
        _, full = structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        return full[5:-5, 5:-5].mean()

    for image, clean in pairs:
        bands = [(image[..., c].astype(float), clean[..., c].astype(float)) for c in range(3)]
        whole = peak_signal_noise_ratio(clean, image, data_range=255)
        each = np.mean([peak_signal_noise_ratio(b, a, data_range=255) for a, b in bands])
        uniform = np.mean([structural_similarity(a, b, data_range=255) for a, b in bands])
        haze, reflection = score(image, clean, "haze-rgb"), score(image, clean, "reflection-rgb")
        assert haze["psnr"] == pytest.approx(whole, abs=1e-6)
        assert haze["ssim"] == pytest.approx(np.mean([gaussian(a, b) for a, b in bands]), abs=1e-6)
        assert reflection["psnr"] == pytest.approx(each, abs=1e-6)
        assert reflection["ssim"] == pytest.approx(uniform, abs=1e-6)
        h, w, _ = image.shape  # 80 x 111: 15 columns are cut off, 7 of them on the left
        assert (h, w) == (80, 111)
        a, b = (x[:, 7:103] / 255 for x in (image, clean))
        crop = score(image, clean, "allinone-rgb")
        assert crop["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-6)
        assert crop["ssim"] == pytest.approx(structural_similarity(a, b, data_range=1, channel_axis=2), abs=1e-6)


def test_scores_are_those_of_pytorch_msssim():
    """Numbers of another implementation: pytorch-msssim 1.0.0 and torch 2.13, in double precision.

    With `i`, `t` the pair as (1, 3, 400, 517) tensors of [0, 1], s = (200, 258), and the window in
    double precision too, since its own rounding moves the score by 5e-6:

        w = torch.exp(-0.5 * ((torch.arange(11).double() - 5) / 1.5) ** 2)
        w = (w / w.sum()).reshape(1, 1, 1, 11).repeat(3, 1, 1, 1)
        ssim(i, t, data_range=1, win=w)
        ssim(F.adaptive_avg_pool2d(i, s), F.adaptive_avg_pool2d(t, s), data_range=1, win=w)
        10 * torch.log10(1 / F.mse_loss(i, t))
    """
    image, target = fixed_pair(400, 517)
    assert ssim(image, target, "haze-rgb") == pytest.approx(0.2511507132552429, abs=1e-9)
    assert ssim(image, target, "haze-rgb-pooled-ssim") == pytest.approx(0.8105834753517188, abs=1e-9)
    for name in ("haze-rgb", "haze-rgb-pooled-ssim"):
        assert psnr(image, target, name) == pytest.approx(23.239061644968203, abs=1e-9)
    small = [picture[:300] for picture in (image, target)]  # 300 / 256 rounds to 1: no pooling
    assert ssim(*small, "haze-rgb-pooled-ssim") == ssim(*small, "haze-rgb")


@pytest.mark.parametrize("size", [(400, 517), (640, 700), (255, 900), (385, 384)])
def test_pooling_is_torchs_adaptive_average(size):
    import torch

    x = np.random.default_rng(3).random((*size, 2))
    factor = max(1, round(min(size) / 256))
    shape = [int(side / factor) for side in size]
    wanted = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x).permute(2, 0, 1), shape)
    np.testing.assert_allclose(pooled(x), wanted.permute(1, 2, 0), atol=1e-10)


@pytest.mark.parametrize("size", [(20, 20), (29, 30), (47, 63)])
def test_local_error_is_that_of_windows_taken_one_by_one(size):
    image, target = (picture.astype(float) for picture in fixed_pair(*size))
    image[:25, :25, 1] = 0  # a window with nothing to scale
    lost = total = 0.0
    for c in range(3):
        for top in range(0, size[0] - 19, 10):
            for left in range(0, size[1] - 19, 10):
                a, b = (x[top : top + 20, left : left + 20, c] for x in (image, target))
                scale = (a * b).sum() / (a * a).sum() if a.any() else 0
                lost += ((b - scale * a) ** 2).sum()
                total += (b * b).sum()
    found = score(image / 255, target / 255, "reflection-rgb")["lmse"]
    assert found == pytest.approx(lost / total, rel=1e-9)
    assert 0 < found < 1


def test_lmse_and_ncc_see_no_brightness_and_ncc_is_a_correlation():
    image, target = fixed_pair(60, 50)
    dark = score(image / 510, target / 255, "reflection-rgb")
    scores = score(image, target, "reflection-rgb")
    assert dark["lmse"] == pytest.approx(scores["lmse"])
    assert dark["ncc"] == pytest.approx(scores["ncc"])
    assert dark["psnr"] < scores["psnr"] - 3
    assert scores["ncc"] == pytest.approx(np.corrcoef(image.ravel(), target.ravel())[0, 1])
    best = score(target, target, "reflection-rgb")
    assert (best["lmse"], best["ncc"]) == pytest.approx((0, 1), abs=1e-9)
    flat = np.full_like(target, 9)
    assert np.isnan(score(flat, target, "reflection-rgb")["ncc"])
    black = np.zeros_like(target)
    assert score(target, black, "reflection-rgb")["lmse"] == 0
    assert score(black, target, "reflection-rgb")["lmse"] == 1


def test_rain_y_rounds_floats_to_bytes():
    image, target = fixed_pair(40, 30)
    nearly = np.clip(image + np.random.default_rng(0).uniform(-0.49, 0.49, image.shape), 0, 255) / 255
    assert score(nearly, target / 255, "rain-y") == score(image, target, "rain-y")
    assert score(nearly, target / 255, "haze-rgb") != score(image, target, "haze-rgb")


def test_a_crop_to_multiples_of_16_forgets_the_rest():
    image, target = fixed_pair(49, 66)
    spoilt = image.copy()
    spoilt[-1:] = spoilt[:, :1] = spoilt[:, -1:] = 0  # one row below; a column on each side
    assert score(spoilt, target, "allinone-rgb") == score(image, target, "allinone-rgb")
    assert psnr(spoilt, target, "haze-rgb") < psnr(image, target, "haze-rgb")


@pytest.mark.parametrize(
    ("name", "least"),
    [("rain-y", 11), ("haze-rgb", 11), ("haze-rgb-pooled-ssim", 11), ("reflection-rgb", 20), ("allinone-rgb", 16)],
)
def test_the_smallest_image_of_every_protocol(name, least):
    image, target = fixed_pair(least, least + 3)
    assert 0 < score(image, target, name)["psnr"] < 60
    with pytest.raises(ValueError, match=rf"{least + 3}x{least - 1}; .* {least}x{least} or more"):
        score(image[1:], target[1:], name)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_images_are_refused_by_every_protocol(name):
    good = np.zeros((24, 24, 3), np.uint8)
    wrong = {
        "differ in shape": good[1:],
        r"wanted \(H, W, 3\)": good[..., 0],
        "wanted uint8, or floats": good.astype(np.int32),
        "spans 0.0 to 2.0": np.linspace(0, 2, good.size).reshape(good.shape),
        "spans nan": np.full(good.shape, np.nan),
    }
    for message, image in wrong.items():
        for function in (psnr, ssim, score):
            with pytest.raises(ValueError, match=message):
                function(image, good, name)


def test_what_is_no_numpy_array_is_refused():
    import torch

    good = np.zeros((24, 24, 3), np.uint8)
    for wrong, name in ((good.tolist(), "list"), (None, "NoneType"), (torch.zeros(24, 24, 3), "Tensor")):
        for images in ((wrong, good), (good, wrong)):
            with pytest.raises(ValueError, match=rf"image is a {name}, no NumPy array; wanted \(H, W, 3\)"):
                score(*images, "haze-rgb")


def test_an_unknown_protocol_is_refused_with_the_near_match():
    good = np.zeros((24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="unknown protocol 'haze-rbg'; did you mean 'haze-rgb'"):
        psnr(good, good, "haze-rbg")
    for wrong in (["haze-rgb"], None, 3):
        with pytest.raises(ValueError, match="unknown protocol"):
            psnr(good, good, wrong)


def test_an_equal_channel_beside_others_counts_as_one_level_off_in_one_pixel():
    target = np.full((24, 30, 3), 100, np.uint8)
    image = target + np.array([0, 2, 4], np.uint8)
    nudged = image.copy()
    nudged[3, 5, 0] += 1
    assert psnr(image, target, "reflection-rgb") == pytest.approx(psnr(nudged, target, "reflection-rgb"))
    assert psnr(target, target, "reflection-rgb") == float("inf")
    # Never less than a channel that is all but equal.
    close = target / 255
    close[..., 1:] += 1e-6
    assert psnr(close, target / 255, "reflection-rgb") == pytest.approx(120, abs=1e-3)
