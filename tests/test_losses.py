"""Losses against their definitions."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from napari_dmgn import losses
from napari_dmgn.losses import LossWeights, charbonnier, noise_map_target, perceptual, restoration_loss
from napari_dmgn.model.network import NetworkOutput

TERMS = ("background", "background_fft", "coarse", "noise", "noise_map")


@pytest.fixture
def layers():
    random = torch.Generator().manual_seed(0)
    return [torch.rand((2, 3, 6, 8), generator=random) for _ in range(2)]


@pytest.fixture
def output():
    random = torch.Generator().manual_seed(1)
    b, c, r, m = (torch.rand((2, 3, 6, 8), generator=random).requires_grad_(True) for _ in range(4))
    return NetworkOutput(background=b, coarse=c, noise=r, noise_map=m[:, :1])


def only(**weights) -> LossWeights:
    return LossWeights(**{**dict.fromkeys(TERMS, 0), **weights})


def test_perfect_output_costs_nothing(layers):
    background, noise = layers
    target = noise_map_target(noise, LossWeights().noise_map_scale)
    perfect = NetworkOutput(background=background, coarse=background, noise=noise, noise_map=target)
    total, terms = restoration_loss(perfect, background, noise, LossWeights())
    assert total.item() == 0
    assert dict.fromkeys(TERMS, 0) == {k: v.item() for k, v in terms.items()}


def test_terms_are_their_definitions(layers, output):
    background, noise = (t.numpy().astype(np.float64) for t in layers)
    got = {n: getattr(output, n).detach().numpy().astype(np.float64) for n in ("background", "coarse", "noise")}
    spectrum = np.fft.rfft2(got["background"] - background, norm="ortho")
    target = 1 - np.exp(-noise.mean(axis=1, keepdims=True) / 0.1)
    wanted = {
        "background": np.abs(got["background"] - background).mean(),
        "background_fft": np.abs(spectrum).mean(),
        "coarse": np.abs(got["coarse"] - background).mean(),
        "noise": np.abs(got["noise"] - noise).mean(),
        "noise_map": np.abs(output.noise_map.detach().numpy() - target).mean(),
    }
    weights = LossWeights(background=2, background_fft=0.3, coarse=0.7, noise=1.1, noise_map=0.2, balance=0)
    total, terms = restoration_loss(output, *layers, weights)
    assert list(terms) == list(wanted)
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name
        assert not terms[name].requires_grad
    assert total.item() == pytest.approx(sum(getattr(weights, n) * v for n, v in wanted.items()), rel=1e-5)
    assert total.requires_grad


@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_weight_zero_is_not_computed(name, layers, output, monkeypatch):
    total, terms = restoration_loss(output, *layers, only(**{name: 3}))
    assert list(terms) == [name]
    assert total.item() == pytest.approx(3 * terms[name].item())
    total.backward()
    of = {"background_fft": "background"}.get(name, name)
    for image in ("background", "coarse", "noise"):
        assert (getattr(output, image).grad is not None) == (image == of)
    monkeypatch.setattr(losses, "_fft_l1", lambda *_: pytest.fail("computed"))
    restoration_loss(output, *layers, LossWeights(background_fft=0))


def test_balance_weighs_each_image_by_its_noise(output):
    """Image k of a batch weighs 1 / (m_k + balance), normalised: worked out by hand from single images."""
    background = torch.full((2, 3, 6, 8), 0.5)
    noise = torch.stack([torch.full((3, 6, 8), level) for level in (0.03, 0.18)])
    weights = only(background=1, balance=0.02)
    total, _ = restoration_loss(output, background, noise, weights)
    errors = (output.background.detach() - background).abs().mean(dim=(1, 2, 3)).numpy()
    share = np.array([1 / 0.05, 1 / 0.20])
    assert total.item() == pytest.approx((errors * share).sum() / share.sum(), rel=1e-5)


def test_charbonnier_is_l1_above_epsilon_and_squares_below():
    a, b = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    assert charbonnier(a, b, 0.0).item() == 1
    assert charbonnier(a, b, 1e-3).item() == pytest.approx(1, abs=1e-3)
    assert charbonnier(a, b, 100.0).item() == pytest.approx(1 / (2 * 100), rel=1e-2)  # d**2 / (2 epsilon)
    small = torch.full((1, 1, 1, 1), 0.01)
    assert charbonnier(a, small, 0.1).item() == pytest.approx(math.sqrt(0.01**2 + 0.1**2) - 0.1, rel=1e-3)


def test_fourier_term_counts_every_pixel_alike(layers):
    """Parseval: the energy of the orthonormal transform is that of the difference."""
    background, noise = layers
    moved = background.clone()
    moved[:, :, 2, 3] += 0.5  # one wrong pixel has a flat spectrum
    output = NetworkOutput(background=moved, coarse=moved, noise=noise, noise_map=noise[:, :1])
    loss, _ = restoration_loss(output, background, noise, only(background_fft=1))
    assert loss.item() == pytest.approx(0.5 / math.sqrt(6 * 8), rel=1e-4)


def test_perceptual_loss_is_its_definition_and_so_is_its_gradient():
    random = torch.Generator().manual_seed(2)
    shapes = ((2, 4, 6, 8), (2, 5, 3, 4))
    image = [torch.randn(s, generator=random, dtype=torch.float64).requires_grad_(True) for s in shapes]
    wanted = [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes]
    loss = perceptual(image, wanted)
    assert loss.item() == pytest.approx(sum((a - b).abs().mean().item() for a, b in zip(image, wanted, strict=True)))
    assert torch.autograd.gradcheck(lambda *maps: perceptual(maps, wanted), image)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_perceptual_gradient_keeps_type_and_memory_of_the_features(layout):
    random = torch.Generator().manual_seed(3)
    x, wanted = (torch.randn((2, 4, 6, 8), generator=random).bfloat16().contiguous(memory_format=layout) for _ in "ab")
    loss = perceptual([x.requires_grad_(True)], [wanted])
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(3 * loss, x)
    assert gradient.dtype == x.dtype
    assert gradient.is_contiguous(memory_format=layout)
    share = torch.tensor(3 / x.numel()).bfloat16()  # of each value in the mean
    assert torch.equal(gradient, (x - wanted).sign() * share)


def test_gradient_is_finite_where_the_output_is_perfect(layers):
    background, noise = layers
    b = background.clone().requires_grad_(True)
    output = NetworkOutput(background=b, coarse=b, noise=noise, noise_map=noise[:, :1])
    restoration_loss(output, background, noise, LossWeights())[0].backward()
    assert b.grad.isfinite().all()


def test_noise_map_target_rises_from_zero_towards_one():
    levels = torch.tensor([0, 0.01, 0.1, 1.0])[:, None, None, None].expand(4, 3, 2, 2)
    target = noise_map_target(levels, 0.1)[:, 0, 0, 0]
    wanted = [1 - math.exp(-level / 0.1) for level in (0, 0.01, 0.1, 1)]
    np.testing.assert_allclose(target, wanted, rtol=1e-5)
    assert torch.equal(noise_map_target(-levels, 0.1)[:, 0, 0, 0], target)
    assert target[2].item() == pytest.approx(0.632, abs=5e-4)


def test_wrong_weights_are_refused(layers, output):
    for field in fields(LossWeights):
        for value in (-1, math.nan, math.inf, "x", None):
            with pytest.raises(ValueError, match=f"{field.name} is {value!r}"):
                LossWeights(**{field.name: value})
    with pytest.raises(ValueError, match="noise_map_scale is 0"):
        LossWeights(noise_map_scale=0)
    with pytest.raises(ValueError, match="every loss weight is 0"):
        restoration_loss(output, *layers, only())
