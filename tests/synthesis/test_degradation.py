"""A mixture keeps its weights, and each image its own part."""

import pytest
import torch

from napari_dmgn.synthesis.degradation import Clean, Mixture, Sources, TensorPair, uniform


def shift(amount):
    def degrade(background, generator, sources):
        noise = torch.full_like(background, amount)
        return TensorPair(input=background + noise, background=background, noise=noise, parameters={})

    return degrade


def test_each_image_gets_the_part_drawn_for_it():
    clean = torch.rand((200, 3, 2, 2), generator=torch.Generator().manual_seed(0)) / 2
    kept = clean.clone()
    mixture = Mixture({"a": shift(0.1), "b": shift(0.2), "c": shift(0.3)}, [1, 1, 1])
    pair = mixture(clean, torch.Generator().manual_seed(1))
    part = pair.parameters["part"]
    assert set(part.tolist()) == {0, 1, 2}
    for i in range(200):
        amount = (part[i] + 1) / 10
        torch.testing.assert_close(pair.noise[i], amount.expand(3, 2, 2))
        torch.testing.assert_close(pair.input[i], clean[i] + amount)
        assert torch.equal(pair.background[i], kept[i])
    assert torch.equal(clean, kept)


def test_weights_are_respected():
    parts = {name: shift(0.0) for name in "abc"}
    clean = torch.zeros((4000, 3, 1, 1))
    for weights in ([1, 2, 5], [0.1, 0.2, 0.5], [0, 1, 0], [3, 0, 1]):
        part = Mixture(parts, weights)(clean, torch.Generator().manual_seed(2)).parameters["part"].long()
        share = torch.bincount(part, minlength=3) / 4000
        wanted = torch.tensor(weights) / sum(weights)
        torch.testing.assert_close(share, wanted.float(), atol=0.03, rtol=0)
        assert not share[wanted == 0].any()


def test_same_state_same_pairs():
    mixture = Mixture({"a": shift(0.1), "b": shift(0.2)}, [1, 1])
    clean = torch.zeros((50, 3, 2, 2))
    first, again, other = (mixture(clean, torch.Generator().manual_seed(s)).input for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, -1], [0, 0], [float("nan"), 1], [float("inf"), 1]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="wanted 2 numbers >= 0, not all zero"):
        Mixture({"a": shift(0), "b": shift(0)}, weights)


def test_uniform_fills_its_range():
    drawn = uniform((20_000,), -2, 3, torch.Generator().manual_seed(0))
    assert -2 <= drawn.min() < -1.99
    assert 2.99 < drawn.max() <= 3
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)


class FromSources:
    """Adds its layer's red channel, in place of the depth."""

    wants_layer = True
    wants_depth = True

    def __call__(self, background, generator, sources):
        noise = sources.layer[:, :1] * sources.depth
        return TensorPair(input=background + noise, background=background, noise=noise, parameters={})


def test_mixture_hands_each_part_its_images_sources():
    n = 40
    layer = torch.linspace(0.1, 0.5, n)[:, None, None, None].expand(n, 3, 2, 2)
    depth = torch.linspace(0.9, 0.2, n)[:, None, None, None].expand(n, 1, 2, 2)
    mixture = Mixture({"layer": FromSources(), "shift": shift(0.25)}, [1, 1])
    clean = torch.zeros((n, 3, 2, 2))
    pair = mixture(clean, torch.Generator().manual_seed(0), Sources(layer=layer, depth=depth))
    chosen = pair.parameters["part"] == 0
    assert 10 < chosen.sum() < 30
    torch.testing.assert_close(pair.noise[chosen], (layer * depth)[chosen])
    assert (pair.noise[~chosen] == 0.25).all()


def test_mixture_wants_what_a_part_in_use_wants():
    parts = {"layer": FromSources(), "clean": Clean(), "function": shift(0.1)}
    assert (Mixture(parts, [1, 1, 1]).wants_layer, Mixture(parts, [1, 1, 1]).wants_depth) == (True, True)
    assert (Mixture(parts, [0, 1, 1]).wants_layer, Mixture(parts, [0, 1, 1]).wants_depth) == (False, False)


def test_sources_of_another_shape_are_refused():
    clean = torch.zeros((2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"the layer is missing; wanted another picture for each, \(2, 3, 4, 5\)"):
        Sources().layer_for(clean)
    with pytest.raises(ValueError, match=r"the layer is of shape \(1, 3, 4, 5\)"):
        Sources(layer=clean[:1]).layer_for(clean)
    with pytest.raises(ValueError, match=r"depth has shape \(2, 3, 4, 5\); wanted \(2, 1, 4, 5\)"):
        Sources(depth=clean).depth_for(clean)
    assert Sources().depth_for(clean) is None
