"""Noise layers of microscopes: direction, smoothness, sign."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dmgn.synthesis.degradation import Sources
from napari_dmgn.synthesis.microscopy import OutOfFocusVeil, Stripes, UnevenBackground, compose_signed


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(value, n=1, size=(96, 96)):
    return torch.full((n, 3, *size), value)


def test_composition_adds_light_or_takes_a_share():
    layer = torch.full((2, 1, 4, 4), 0.3)
    pair = compose_signed(flat(0.8, 2, (4, 4)), layer, torch.tensor([False, True]))
    np.testing.assert_allclose(pair.input[:, 0, 0, 0], [1.0, 0.8 * 0.7], rtol=1e-6)
    np.testing.assert_allclose(pair.noise[:, 0, 0, 0], [0.3, 0.8 * 0.3], rtol=1e-6)
    assert pair.parameters["sign"].tolist() == [1, -1]


@pytest.mark.parametrize(("degrade", "share"), [(Stripes(dark=0.3), 0.3), (UnevenBackground(shaded=0.6), 0.6)])
def test_a_share_loses_light_the_others_gain(degrade, share):
    clean = flat(0.4, 200, (12, 12))
    pair = degrade(clean, state(1))
    lost = pair.parameters["sign"] < 0
    assert lost.float().mean().item() == pytest.approx(share, abs=0.1)
    assert (pair.input[lost] <= 0.4).all()
    assert (pair.input[~lost] >= 0.4).all()
    amplitude = pair.parameters["amplitude"]
    peak = (pair.input - clean).abs().amax((1, 2, 3))
    torch.testing.assert_close(peak, torch.where(lost, 0.4, 1.0) * amplitude, atol=1e-5, rtol=0)


def test_stripes_run_along_their_angle():
    """Change along a stripe is much less than across: 0 is vertical, a quarter turn horizontal."""
    pair = Stripes(dark=0.0)(flat(0.0, 24), state(2))
    down = pair.noise[:, 0].diff(dim=1).abs().mean((1, 2))
    right = pair.noise[:, 0].diff(dim=2).abs().mean((1, 2))
    vertical = pair.parameters["angle"] < 0.5
    assert 4 < vertical.sum() < 20
    assert (right[vertical] > 2.5 * down[vertical]).all()
    assert (down[~vertical] > 2.5 * right[~vertical]).all()


def test_veil_is_the_other_plane_through_two_gaussians():
    points = np.random.default_rng(0).random((96, 96)) > 0.98
    points[[*range(4), *range(-4, 0)]] = points[:, [*range(4), *range(-4, 0)]] = False  # nothing goes on at the border
    plane = torch.from_numpy(points).float().expand(1, 3, 96, 96)
    pair = OutOfFocusVeil(sigma=(6.0, 6.0), amplitude=(1.0, 1.0))(flat(0.0), state(3), Sources(layer=plane))
    found = pair.noise[0, 0].numpy()
    near, far = (gaussian_filter(plane[0, 0].numpy(), s, mode="nearest") for s in (6, 18))
    best = min(np.abs(found - (1 - w) * near - w * far).max() for w in np.linspace(0.2, 0.8, 61))
    assert best < 0.2 * found.max()  # blurred at a quarter of the resolution


def test_veil_without_a_layer_is_the_image_upside_down():
    clean = torch.rand((2, 3, 40, 48), generator=state(4)) * 0.3
    own = OutOfFocusVeil()(clean, state(5))
    given = OutOfFocusVeil()(clean, state(5), Sources(layer=clean.flip((2, 3))))
    assert torch.equal(own.input, given.input)


def test_uneven_background_is_smooth_white_and_wide():
    pair = UnevenBackground(shaded=0.0)(flat(0.0, 16), state(6))
    assert torch.equal(pair.noise[:, 0], pair.noise[:, 2])
    steps = torch.cat([pair.noise.diff(dim=2).flatten(1), pair.noise.diff(dim=3).flatten(1)], 1).abs()
    peak = pair.noise.amax((1, 2, 3))
    assert (steps.amax(1) < 0.08 * peak).all()
    assert (pair.noise.flatten(1).std(1) > 0.1 * peak).all()
