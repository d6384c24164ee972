"""Haze after Koschmieder, and the depth that it follows."""

import math

import pytest
import torch

from napari_dmgn.synthesis.degradation import Draw, Sources
from napari_dmgn.synthesis.depth import landscape_depth, random_depth
from napari_dmgn.synthesis.haze import Haze, MetricHaze, beta_for, compose_haze


def state(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(seed=0):
    return Draw(state(seed), torch.device("cpu"))


def pictures(n=4, size=(48, 64), seed=9):
    return torch.rand((n, 3, *size), generator=state(seed))


def test_composition_is_the_law():
    clean = pictures(2)
    transmission = torch.tensor([0.0, 0.25])[:, None, None, None].expand(2, 1, 48, 64)
    airlight = torch.tensor([[0.9, 0.8, 0.7], [1.0, 0.6, 0.5]])
    pair = compose_haze(clean, transmission, airlight)
    torch.testing.assert_close(pair.input[0], airlight[0][:, None, None].expand(3, 48, 64))
    for channel, a in enumerate((1.0, 0.6, 0.5)):
        torch.testing.assert_close(pair.input[1, channel], 0.25 * clean[1, channel] + 0.75 * a)
        torch.testing.assert_close(pair.noise[1, channel], torch.full((48, 64), 0.75 * a))


def test_scattering_gives_the_mean_transmission():
    depth = torch.cat([torch.rand((5, 1, 30, 24), generator=state(1)), torch.ones((1, 1, 30, 24))])
    wanted = torch.tensor([0.1, 0.3, 0.5, 0.9, 0.99, 0.5])
    beta = beta_for(0.1 + 0.9 * depth, wanted)
    mean = torch.exp(-beta[:, None, None, None] * (0.1 + 0.9 * depth)).mean((1, 2, 3))
    torch.testing.assert_close(mean, wanted, atol=0.02, rtol=0)
    assert beta[5].item() == pytest.approx(math.log(2), rel=1e-3)


def test_transmission_and_airlight_fill_their_ranges():
    pair = Haze(transmission=(0.3, 0.8), airlight=(0.6, 0.9), tint=0.05)(pictures(300, (16, 16)), state(2))
    transmission, airlight = pair.parameters["transmission"], pair.parameters["airlight"]
    low, high = transmission.quantile(torch.tensor([0.02, 0.98]))
    assert 0.27 < low < 0.36
    assert 0.72 < high < 0.83
    assert 0.55 <= airlight.min() < 0.62
    assert 0.88 < airlight.max() <= 0.95
    red, green, blue = airlight.unbind(1)
    assert ((red - blue).abs() <= 0.1 + 1e-6).all()
    assert (green >= torch.minimum(red, blue) - 0.0125 - 1e-6).all()  # never magenta


def test_metric_haze_follows_a_given_depth():
    """A picture without light shows A (1 - exp(-beta d)), which gives d back up to drifts and scale."""
    depth = torch.linspace(0, 1, 64).expand(8, 1, 32, 64)
    haze = MetricHaze(beta=(1, 1), near=(0.5, 0.5), far=(2, 2), airlight=(0.8, 0.8), tint=0)
    pair = haze(torch.zeros((8, 3, 32, 64)), state(3), Sources(depth=depth))
    path = -torch.log(1 - pair.input[:, :1] / 0.8)
    straight = (path - torch.lerp(torch.tensor(0.5), torch.tensor(2.0), depth)).abs().amax((1, 2, 3)) < 1e-4
    assert 3 <= straight.sum() < 8  # the others have drifts
    assert (pair.noise[:, :, :, -1] > pair.noise[:, :, :, 0]).all()


def test_a_share_of_the_images_gets_the_given_depth():
    depth = torch.zeros((200, 1, 8, 8))  # air without a thing: the same everywhere
    depth[:, :, :4] = 1
    pair = Haze(real_depth=0.5)(torch.zeros((200, 3, 8, 8)), state(4), Sources(depth=depth))
    # Rows of equal depth are equally bright up to drifts, which three in ten have.
    even = (pair.noise[:, 0, :4].flatten(1).std(1) < 1e-6).sum()
    assert even == pytest.approx(70, abs=20)


def test_depth_is_relative_structured_and_smooth_away_from_edges():
    clean = torch.full((64, 3, 96, 128), 0.5)
    depth = random_depth(clean, draw(5))
    assert depth.shape == (64, 1, 96, 128)
    assert 0 <= depth.min() <= depth.max() <= 1
    span = depth.amax((1, 2, 3)) - depth.amin((1, 2, 3))
    assert (span > 0.65).all()
    steps = torch.cat([depth.diff(dim=3).abs().flatten(1), depth.diff(dim=2).abs().flatten(1)], 1)
    assert (steps.quantile(0.5, dim=1) < 0.03).all()
    # More scenes recede upwards than downwards.
    upwards = depth[:, 0, :20].mean((1, 2)) > depth[:, 0, -20:].mean((1, 2))
    assert upwards.sum() > 36
    assert len(torch.unique(depth.mean((1, 2, 3)))) == 64


def test_depth_takes_edges_from_the_picture():
    """A picture of two flat halves pulls steps of the depth to its own edge."""

    def step_at_the_edge(clean):
        depth = random_depth(clean, draw(6))
        return depth.diff(dim=3).abs()[..., 62:66].amax((1, 2, 3)).mean()

    flat = torch.full((48, 3, 96, 128), 0.5)
    halves = flat.clone()
    halves[..., 64:] = 0.9
    assert step_at_the_edge(halves) > 2 * step_at_the_edge(flat)


def test_depth_looks_the_same_at_every_size():
    small = torch.full((6, 3, 60, 80), 0.5)
    large = torch.full((6, 3, 300, 400), 0.5)
    a, b = random_depth(small, draw(7)), random_depth(large, draw(7))
    reduced = torch.nn.functional.interpolate(b, (60, 80), mode="area")
    torch.testing.assert_close(a, reduced, atol=0.05, rtol=0)


def test_a_landscape_recedes_upwards_to_its_sky():
    scene = torch.full((64, 3, 96, 128), 0.25)
    scene[:, :, :32] = torch.tensor([0.55, 0.7, 0.95])[:, None, None]
    depth = landscape_depth(scene, draw(8))
    assert depth.shape == (64, 1, 96, 128)
    assert 0 <= depth.min() <= depth.max() <= 1
    far = depth[:, 0, :28].mean((1, 2)) > 0.9
    assert 48 <= far.sum() < 64  # now and then a picture's sky is taken for a wall
    middle, foot = depth[:, 0, 40:60].mean((1, 2)), depth[:, 0, -12:].mean((1, 2))
    assert (middle > foot).sum() > 56
    assert len(torch.unique(depth.mean((1, 2, 3)))) == 64


def test_what_hangs_below_something_is_no_sky():
    dark = torch.full((32, 3, 96, 128), 0.25)
    covered = dark.clone()
    covered[:, :, 20:50] = 0.95
    sky = covered.clone()
    sky[:, :, :20] = 0.95
    low, high = (landscape_depth(x, draw(9))[:, 0, 25:45].mean() for x in (covered, sky))
    assert high > low + 0.15


def test_landscapes_are_a_share_of_the_drawn_depths():
    scene = torch.full((100, 3, 32, 32), 0.1)
    scene[:, :, :12] = 0.95
    haze = MetricHaze(beta=(1, 1), near=(0.5, 0.5), far=(2, 2), airlight=(0.5, 0.5), tint=0, landscape=0.6, drifting=0)
    transmission = 1 - haze(scene, state(10)).noise / 0.5
    farthest = (transmission[:, 0, :8].flatten(1).mean(1) < math.exp(-1.9)).sum()
    # 85 % of the landscapes have their sky at the farthest.
    assert 35 <= farthest <= 70


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 90), (200, 1)])
def test_landscapes_of_every_size_are_depths(size):
    depth = landscape_depth(pictures(3, size), draw(11))
    assert depth.shape == (3, 1, *size)
    assert 0 <= depth.min() <= depth.max() <= 1
    torch.testing.assert_close(landscape_depth(pictures(3, size), draw(11)), depth)
