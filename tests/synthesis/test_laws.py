"""Laws that every degradation keeps, for every part of every task."""

from dataclasses import replace

import pytest
import torch

from napari_dmgn.synthesis.degradation import Clean, Sources
from napari_dmgn.synthesis.haze import Haze, MetricHaze
from napari_dmgn.synthesis.microscopy import OutOfFocusVeil, Stripes, UnevenBackground
from napari_dmgn.synthesis.mixtures import DEFAULT_WEIGHTS, TASK_PARTS, mixture
from napari_dmgn.synthesis.photo import PhotoEffects
from napari_dmgn.synthesis.rain import HeavyRain, LightRain, SeenRain, VeiledRain

NAMES = [(task, part) for task, parts in TASK_PARTS.items() for part in parts]
PARTS = pytest.mark.parametrize("degrade", [TASK_PARTS[t][p]() for t, p in NAMES], ids=["-".join(n) for n in NAMES])


def state(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def pictures(n=4, size=(48, 40), seed=9):
    """Smooth and rough by halves, with some black and white."""
    coarse = torch.rand((n, 3, 5, 5), generator=state(seed))
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (0.7 * smooth + 0.5 * torch.rand((n, 3, *size), generator=state(seed + 1)) - 0.1).clamp(0, 1)


def sources(n=4, size=(48, 40), seed=20):
    depth = pictures(n, size, seed + 2)[:, :1]
    return Sources(layer=pictures(n, size, seed), depth=depth)


def physical(degrade):
    """The degradation without the camera round it."""
    return degrade.degrade if isinstance(degrade, PhotoEffects) else degrade


def recomposed(degrade, pair):
    """The input by the formula that the degradation's module states, from the layers and parameters."""
    b, r, p = pair.background, pair.noise, pair.parameters

    def wide(name):
        value = p[name]
        return value.reshape(*value.shape, *(1,) * (4 - value.ndim))

    if isinstance(degrade, Clean):
        return b
    if isinstance(degrade, LightRain | HeavyRain):
        return (b + r).clamp(0, 1)
    if isinstance(degrade, VeiledRain):
        return (p["transmission"] * b + r).clamp(0, 1)
    if isinstance(degrade, SeenRain):
        return b * (1 - r / wide("colour")) + r
    if isinstance(degrade, Haze | MetricHaze):
        return b * (1 - r / wide("airlight")) + r
    if isinstance(degrade, Stripes | UnevenBackground | OutOfFocusVeil):
        return (b + wide("sign") * r).clamp(0, 1)
    g, q = wide("gamma"), wide("screen")
    behind, front = (b * wide("scale")).clamp(0, 1) ** g, r**g
    return (behind + front - q * behind * front).clamp(0, 1) ** (1 / g)


@PARTS
@pytest.mark.parametrize("size", [(48, 40), (1, 1), (3, 2), (5, 130)])
def test_layers_reproduce_the_input_within_its_range(degrade, size):
    clean, other = pictures(5, size), sources(5, size)
    kept, layer = clean.clone(), other.layer.clone()
    for given in (other, Sources(layer=other.layer)):
        pair = physical(degrade)(clean, state(1), given)
        torch.testing.assert_close(pair.input, recomposed(physical(degrade), pair), atol=2e-5, rtol=0)
        seen = degrade(clean, state(1), given)
        assert torch.equal(seen.background, kept)
        assert torch.equal(seen.noise, pair.noise)  # the camera changes the input only
        for image in (seen.input, seen.noise):
            assert image.shape == clean.shape
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
        assert all(len(v) == 5 for v in seen.parameters.values())
    assert torch.equal(clean, kept)
    assert torch.equal(other.layer, layer)


@PARTS
def test_strength_zero_is_the_identity(degrade):
    clean = pictures()
    pair = replace(degrade, strength=0.0)(clean, state(), sources())
    # Gamma and back rounds.
    torch.testing.assert_close(pair.input, clean, atol=1e-6, rtol=0)
    assert pair.noise.max() < 1e-6


@PARTS
def test_it_does_something_unless_clean(degrade):
    pair = degrade(pictures(), state(), sources())
    changed = ((pair.input - pair.background).abs().amax((1, 2, 3)) > 0.02).all()
    assert bool(changed) != isinstance(degrade, Clean)


@PARTS
def test_same_state_same_pair(degrade):
    clean, other = pictures(), sources()
    before = torch.random.get_rng_state()
    first, again, another = (degrade(clean, state(s), other) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.input, again.input)
    assert torch.equal(first.noise, again.noise)
    if not isinstance(degrade, Clean):
        assert not torch.equal(first.input, another.input)


@PARTS
def test_an_image_depends_on_its_own_pictures_only(degrade):
    clean, other = pictures(), sources()
    changed = [t.clone() for t in (clean, other.layer, other.depth)]
    for tensor in changed:
        tensor[1] = 1 - tensor[1]
    first = degrade(clean, state(5), other)
    second = degrade(changed[0], state(5), Sources(layer=changed[1], depth=changed[2]))
    for i in (0, 2, 3):
        assert torch.equal(first.input[i], second.input[i])
        assert torch.equal(first.noise[i], second.noise[i])
    assert not torch.equal(first.input[1], second.input[1])


@PARTS
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_devices_agree(degrade):
    """Drawn on the CPU, worked out on either."""
    clean, other = pictures(), sources()
    on_gpu = Sources(layer=other.layer.cuda(), depth=other.depth.cuda())
    here, there = degrade(clean, state(), other), degrade(clean.cuda(), state(), on_gpu)
    assert there.input.device.type == there.noise.device.type == "cuda"
    torch.testing.assert_close(there.noise.cpu(), here.noise, atol=2e-4, rtol=0)
    difference = (there.input.cpu() - here.input).abs()
    # A coefficient on the border between two steps of JPEG may be rounded either way.
    assert difference.mean() < (1e-3 if isinstance(degrade, PhotoEffects) else 1e-5)
    native = degrade(clean.cuda(), state(device="cuda"), on_gpu)  # drawn there as well
    assert native.input.isfinite().all()


@PARTS
def test_what_is_wanted_is_what_is_used(degrade):
    clean, other = pictures(), sources()
    first = degrade(clean, state(), other)
    layer = degrade(clean, state(), replace(other, layer=1 - other.layer))
    depth = [degrade(clean, state(s), replace(other, depth=d)).input for s in range(4) for d in (other.depth, None)]
    assert torch.equal(first.input, layer.input) != getattr(degrade, "wants_layer", False)
    same = all(torch.equal(a, b) for a, b in zip(depth[::2], depth[1::2], strict=True))
    assert same != getattr(degrade, "wants_depth", False)


@pytest.mark.parametrize("task", TASK_PARTS)
def test_mixtures_keep_the_laws(task):
    degrade = mixture(task)
    clean, other = pictures(24), sources(24)
    pair, again = (degrade(clean, state(2), other) for _ in range(2))
    assert torch.equal(pair.input, again.input)
    assert 0 <= pair.input.min() <= pair.input.max() <= 1
    names = list(TASK_PARTS[task])
    drawn = {names[int(i)] for i in pair.parameters["part"]}
    assert drawn <= {name for name, weight in DEFAULT_WEIGHTS[task].items() if weight > 0}
    assert len(drawn) >= 2
    untouched = pair.parameters["part"] == names.index("none")
    assert torch.equal(pair.input[untouched], clean[untouched])
    assert not pair.noise[untouched].any()
