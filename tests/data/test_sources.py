"""Batches from weighted sources: shares, layers, and independence of groups."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from napari_dmgn.data import Batches, Extras, PicturePool, Source, array_pictures, noise_of_pair
from napari_dmgn.synthesis.degradation import Sources, TensorPair
from napari_dmgn.synthesis.variation import Variation

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recorder:
    """A degradation that shows what it was given."""

    wants_layer: bool = False
    wants_depth: bool = False

    def __call__(self, background, generator, sources=Sources()):  # noqa: B008
        noise = torch.rand(background.shape, generator=generator) / 2
        parameters = {k: v for k, v in vars(sources).items() if v is not None}
        return TensorPair(
            input=(background + noise).clamp(0, 1), background=background, noise=noise, parameters=parameters
        )


def flat(value, count=3):
    return PicturePool([p for i in range(count) for p in array_pictures(np.full((12, 14), value, np.uint8), f"{i}")])


def pairs(image, background):
    return PicturePool(array_pictures(np.full((12, 14), image, np.uint8), "p", np.full((12, 14), background, np.uint8)))


def batches(*sources, **extras):
    return Batches(sources, Extras(**{"degrade": Recorder(), "task": "rain", **extras}), CPU)


def test_weights_are_shares():
    both = batches(Source(pool=flat(50), weight=3), Source(pool=pairs(200, 100)))
    counts = np.array([[len(c.clean) if c.clean is not None else 0, len(c.pairs) if c.pairs is not None else 0]
                       for c in (both.crops(8, 6, seed) for seed in range(300))])  # fmt: skip
    assert (counts.sum(axis=1) == 8).all()
    np.testing.assert_allclose(counts.mean(axis=0) / 8, [0.75, 0.25], atol=0.03)
    assert counts[:, 0].min() < 6


def test_pairs_of_pictures_stand_beside_degraded_ones():
    both = batches(Source(pool=flat(50)), Source(pool=pairs(200, 100)))
    crops = next(
        c for c in (both.crops(6, 8, seed) for seed in range(9)) if c.clean is not None and c.pairs is not None
    )
    pair = both.pair(crops, 3)
    n = len(crops.clean)
    assert pair.input.shape == pair.background.shape == pair.noise.shape == (6, 3, 8, 8)
    assert pair.background[:n].unique() == torch.tensor(50 / 255)
    torch.testing.assert_close(pair.input[n:], torch.full((6 - n, 3, 8, 8), 200 / 255))
    torch.testing.assert_close(pair.noise[n:], torch.full((6 - n, 3, 8, 8), 100 / 255))
    assert pair.noise[:n].std() > 0.1


@pytest.mark.parametrize(("task", "darker"), [("rain", 0), ("reflection", 0), ("haze", 0.3)])
def test_noise_of_pairs_has_the_tasks_sign(task, darker):
    image = torch.tensor([0.8, 0.2])[None, None, None].expand(1, 3, 1, 2)
    background = torch.full((1, 3, 1, 2), 0.5)
    torch.testing.assert_close(noise_of_pair(image, background, task)[0, 0, 0], torch.tensor([0.3, darker]))


def test_layer_and_depth_are_given_only_where_wanted():
    pool, depth = flat(50), flat(255, count=1)
    for layer, deep in ((False, False), (True, False), (False, True), (True, True)):
        made = batches(Source(pool=pool), degrade=Recorder(layer, deep), depth=depth)
        given = made.pair(made.crops(4, 8, 1), 1).parameters
        assert set(given) == {n for n, wanted in (("layer", layer), ("depth", deep)) if wanted}
        if layer:
            assert given["layer"].shape == (4, 3, 8, 8)
        if deep:
            assert torch.equal(given["depth"], torch.ones(4, 1, 8, 8))


def test_reflected_pictures_are_of_all_sources_by_their_weights():
    made = batches(Source(pool=flat(0), weight=3), Source(pool=flat(255)), degrade=Recorder(wants_layer=True))
    crops = [made.crops(8, 6, seed) for seed in range(300)]
    layer, clean = (torch.stack([getattr(c, n)[:, 0, 0, 0] for c in crops]) for n in ("layer", "clean"))
    assert layer.mean().item() == pytest.approx(0.25, abs=0.03)
    # Of whichever source the picture is that it falls on.
    assert layer[clean == 1].mean().item() == pytest.approx(0.25, abs=0.05)


def test_variation_changes_pictures_and_layers_but_not_what_else_is_drawn():
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    source, wants = Source(pool=PicturePool(array_pictures(noise, "a"))), Recorder(wants_layer=True)
    plain = batches(source, degrade=wants)
    varied = batches(source, degrade=wants, variation=Variation(colour_jitter=1))
    crops = varied.crops(4, 8, 7)
    assert torch.equal(crops.clean, plain.crops(4, 8, 7).clean)
    before, after, again = (b.pair(crops, 7) for b in (plain, varied, varied))
    assert torch.equal(before.noise, after.noise)
    assert torch.equal(after.input, again.input)
    for picture, changed in ((before.background, after.background), (crops.layer, after.parameters["layer"])):
        assert ((picture - changed).abs().mean((1, 2, 3)) > 0.01).all()
    same = varied.pair(replace(crops, layer=crops.clean), 7)
    assert not torch.equal(same.background, same.parameters["layer"])  # what is drawn for them is not the same


def test_wanting_a_layer_changes_neither_the_pictures_nor_their_noise():
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    source = Source(pool=PicturePool(array_pictures(noise, "a")))
    plain, wanting = batches(source), batches(source, degrade=Recorder(wants_layer=True))
    first, second = (b.pair(b.crops(4, 8, 7), 7) for b in (plain, wanting))
    assert torch.equal(first.input, second.input)
    assert not torch.equal(second.parameters["layer"], second.background)


def test_what_is_put_on_a_picture_does_not_depend_on_which_it_is():
    """The first number that the degradation draws, beside the picture that was drawn first: 0 or 1."""
    values = np.stack([np.zeros((12, 14), np.uint8), np.full((12, 14), 255, np.uint8)])
    made = batches(Source(pool=PicturePool([p for v in values for p in array_pictures(v, "a")])))
    picture, drawn = [], []
    for seed in range(400):
        pair = made.pair(made.crops(1, 8, seed), seed)
        picture.append(pair.background[0, 0, 0, 0].item())
        drawn.append(pair.noise[0, 0, 0, :8].tolist())
    assert 0.4 < np.mean(picture) < 0.6
    correlations = [np.corrcoef(picture, numbers)[0, 1] for numbers in zip(*drawn, strict=True)]
    assert max(abs(c) for c in correlations) < 0.2  # four standard deviations


def test_groups_and_seeds_draw_apart():
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    made = batches(Source(pool=PicturePool(array_pictures(noise, "a"))))
    seen = [
        made.pair(made.crops(2, 8, seed, group=group), seed, group=group).input.sum().item()
        for seed in (0, 1, 10**15)
        for group in (0, 1, 255)
    ]
    assert len(set(seen)) == len(seen)
    assert made.crops(2, 8, 5).clean.equal(made.crops(2, 8, 5, group=0).clean)
