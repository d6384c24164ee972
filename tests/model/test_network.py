"""Laws of the assembled network."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_dmgn.model import bands
from napari_dmgn.model.blocks import DeepMaskingCell
from napari_dmgn.model.config import ABLATIONS, PRESETS, NetworkConfig
from napari_dmgn.model.cost import cost
from napari_dmgn.model.measure import measured_radius
from napari_dmgn.model.network import DMGN
from napari_dmgn.model.reach import receptive_radius
from napari_dmgn.model.vgg import HypercolumnHead

IMAGES = ("background", "coarse", "noise", "noise_map")


def build(config: NetworkConfig, seed: int = 1) -> DMGN:
    """A network whose last layers count: the product starts near the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DMGN(config)
        if config.head == "vgg19" and config.width < 64:  # VGG as narrow as the rest: a hundred times quicker
            network.head = HypercolumnHead(
                image_channels=3,
                channels=config.width,
                padding=config.padding,
                unit=config.image_range == "unit",
                imagenet=config.imagenet_range,
                vgg_channels=(8, 8, 12, 12, 12),
            )
            for convolution in network.head.modules():
                if isinstance(convolution, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        for part in (network.background_branch, network.noise_branch, network.refiner):
            if part is not None:
                torch.nn.init.normal_(part.out.weight, std=0.05)
                if part.gain is not None:
                    torch.nn.init.normal_(part.gain.weight, std=0.5)
    return network


def images(n: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, 3, h, w), generator=torch.Generator().manual_seed(seed))


def narrow(preset: str) -> NetworkConfig:
    """A preset's way of assembly with few channels; the compact one as it is."""
    if preset == "compact":
        return PRESETS[preset]
    small = {"width": 8, "branch_widths": (8, 8, 12), "bottleneck_cells": 1, "attention_reduction": 4}
    return replace(PRESETS[preset], **small)


@pytest.fixture(scope="module")
def tiny_config(tiny_network):
    return tiny_network.config


@pytest.fixture(scope="module")
def variants(tiny_config):
    """Networks that take every branch of the assembly."""
    changes = [
        {},
        {"trunk_stride": 1, "skip": "concat", "refine_kernel": 3, "attention_convolutions": 2},
        {"trunk_stride": 4, "head_levels": 4, "branch_widths": (12,), "mask_reduction": 1},
        {"head_levels": 1, "branch_widths": (8, 8, 12), "background_gain": True},
        # A map that sees farther than the refining phase's source.
        {"trunk_stride": 1, "attention_convolutions": 4, "refine_dilations": (1,)},
    ]
    return [build(NetworkConfig(**{**tiny_config.to_dict(), **change})).eval() for change in changes]


@torch.inference_mode()
def test_images_of_a_batch_do_not_see_each_other(variants):
    for network in (*variants, build(PRESETS["compact"]).eval()):
        a, b = images(1, 40, 24, seed=1), 1 - images(1, 40, 24, seed=2) ** 3
        together = network(torch.cat([a, b]), masks=True)
        for index, alone in enumerate((network(a, masks=True), network(b, masks=True))):
            for name in IMAGES:
                found = getattr(together, name)[index : index + 1]
                torch.testing.assert_close(found, getattr(alone, name), atol=1e-5, rtol=0)
            for name, mask in alone.masks.items():
                torch.testing.assert_close(together.masks[name][index : index + 1], mask, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_any_size_is_the_padded_image_cropped(tiny_network):
    stride = tiny_network.config.stride
    for h, w in product(range(1, 21), repeat=2):
        image = images(1, h, w)
        padded = np.pad(image.numpy(), [(0, 0), (0, 0), (0, -h % stride), (0, -w % stride)], mode="edge")
        out, whole = tiny_network(image), tiny_network(torch.from_numpy(padded))
        for name in IMAGES:
            found = getattr(out, name)
            assert found.shape == (1, 1 if name == "noise_map" else 3, h, w)
            torch.testing.assert_close(found, getattr(whole, name)[..., :h, :w])


@pytest.mark.parametrize("variant", ABLATIONS)
def test_each_variant_of_table_one_is_the_paper_without_what_it_lacks(variant, tiny_config):
    network = build(replace(tiny_config, attention_reduction=1, **ABLATIONS[variant]))
    image = images(2, 17, 24)
    out = network(image, masks=True)
    (out.background - 0.5).square().sum().backward()  # the background alone reaches every part that there is
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    parts = {"Base": [], "RDMC": ["background", "refine"]}.get(variant, ["background", "noise", "refine"])
    assert list(dict.fromkeys(name.split("/")[0] for name in out.masks)) == parts
    whole = dict(build(replace(tiny_config, attention_reduction=1)).named_parameters())
    own = dict(network.named_parameters())
    assert set(own) <= set(whole)
    assert (set(own) == set(whole)) == (variant in ("R-RDMC", "DMGN"))
    assert (own["refiner.enter.weight"].shape == whole["refiner.enter.weight"].shape) == (variant == "DMGN")
    if network.noise_branch is None:
        torch.testing.assert_close(out.noise, image - out.coarse)
    assert out.noise_map.shape == (2, 1, 17, 24)
    with torch.no_grad():
        alone = network(image[1:]).background
    torch.testing.assert_close(out.background[1:], alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_gains_multiply_what_the_noise_leaves(tiny_config):
    """Without residuals, a gain of K everywhere is B = I + K (I - R), and so for B_coarse."""
    network = build(replace(tiny_config, background_gain=True)).eval()
    for part, gain in ((network.background_branch, 0.5), (network.refiner, 2.0)):
        for layer in (part.out, part.gain):
            layer.weight.zero_()
            layer.bias.zero_()
        part.gain.bias.fill_(gain / part.output_scale)
    image = images(2, 24, 40)
    out = network(image)
    torch.testing.assert_close(out.coarse, image + 0.5 * (image - out.noise))
    torch.testing.assert_close(out.background, image + 2 * (image - out.noise))
    assert out.noise.std() > 0.01


@torch.inference_mode()
def test_the_papers_network_names_thirty_masks():
    network = build(replace(PRESETS["paper"], width=8, branch_widths=(8, 8, 12), attention_reduction=4)).eval()
    masks = network(images(1, 16, 32), masks=True).masks
    wanted = [f"{part}/{i}" for part, n in (("background", 12), ("noise", 12), ("refine", 6)) for i in range(1, n + 1)]
    assert list(masks) == wanted
    assert masks["background/1"].shape == (1, 1, 16, 32)
    assert masks["noise/7"].shape == (1, 1, 4, 8)  # the bottleneck's cells are 3 to 10
    assert all(0 <= mask.min() < mask.max() <= 1 for mask in masks.values())


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode()
def test_every_preset_takes_any_size_keeps_images_apart_and_masks_in_range(preset):
    network = build(narrow(preset)).eval()
    for h, w in ((1, 1), (1, 40), (16, 17), (18, 31)):
        a, b = images(1, h, w, seed=1), 1 - images(1, h, w, seed=2) ** 3
        together = network(torch.cat([a, b]), masks=True)
        for index, alone in enumerate((network(a), network(b))):
            for name in IMAGES:
                found = getattr(together, name)[index : index + 1]
                assert found.shape == (1, 1 if name == "noise_map" else 3, h, w)
                torch.testing.assert_close(found, getattr(alone, name), atol=1e-4, rtol=1e-4)
        for values in (together.noise_map, *together.masks.values()):
            assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode()
def test_cells_of_every_preset_are_the_identity_where_their_mask_is_nought(preset):
    network = build(narrow(preset)).eval()
    cells = [cell for cell in network.modules() if isinstance(cell, DeepMaskingCell)]
    assert cells
    for cell in cells:
        cell.gate.weight.zero_()
        cell.gate.bias.fill_(-200)  # sigmoid(-200) is 0 in float32
        x = torch.randn((1, cell.conv1.in_channels, 20, 20), generator=torch.Generator().manual_seed(0))
        y, mask = cell(x)
        assert not mask.any()
        assert torch.equal(x, y)


@torch.inference_mode()
def test_maps_and_masks_lie_between_zero_and_one(variants):
    for network in variants:
        bright = images(2, 32, 32) * 40 - 20  # far outside what it was made for
        out = network(bright, masks=True)
        for values in (out.noise_map, *out.masks.values()):
            assert 0 <= values.min() <= values.max() <= 1
        assert out.noise_map.std() > 0
        assert all(mask.std() > 0 for mask in out.masks.values())


@torch.inference_mode()
def test_masks_are_named_by_part_and_order_and_change_nothing(variants):
    for network in variants:
        image, config = images(1, 32, 48), network.config
        plain, kept = network(image), network(image, masks=True)
        assert plain.masks == {}
        for name in IMAGES:
            assert torch.equal(getattr(plain, name), getattr(kept, name))
        levels = len(config.branch_widths)
        cells = 2 * (levels - 1) + config.bottleneck_cells
        wanted = [f"{part}/{i}" for part in ("background", "noise") for i in range(1, cells + 1)]
        wanted += [f"refine/{i}" for i in range(1, len(config.refine_dilations) + 1)]
        assert list(kept.masks) == wanted


@pytest.mark.parametrize("preset", ["tiny", *PRESETS])
def test_one_backward_pass_reaches_every_parameter(preset, tiny_config):
    unreached = []
    for seed in (1, 2, 3):
        network = build(tiny_config if preset == "tiny" else narrow(preset), seed)
        out = network(images(2, 32, 32))
        random = torch.Generator().manual_seed(3)
        loss = sum((getattr(out, n) * torch.randn(getattr(out, n).shape, generator=random)).sum() for n in IMAGES)
        loss.backward()
        trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        unreached.append({name for name, p in trainable.items() if p.grad is None or not p.grad.any()})
    # A narrow network's attention has few hidden units, which ReLU may switch off by chance.
    assert (set.union(*unreached) if preset == "compact" else set.intersection(*unreached)) == set()


def test_background_alone_trains_everything():
    """The paper has no loss of the map and ours of the noise are small: B must reach all of it."""
    network = build(PRESETS["compact"])
    (network(images(2, 32, 32)).background - 0.5).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@torch.inference_mode()
def test_untrained_network_nearly_returns_its_input():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DMGN(PRESETS["compact"]).eval()
    image = images(1, 64, 64)
    out = network(image)
    for restored in (out.background, out.coarse):
        torch.testing.assert_close(restored, image, atol=0.1, rtol=0)
    assert out.noise.abs().max() < 0.1


@torch.inference_mode()
def test_forward_is_the_papers_equations_step_by_step(variants):
    for network in variants:
        image = images(2, 32, 64)
        x = F.pixel_unshuffle(image, network.config.trunk_stride)
        features = network.head(x)
        attention = torch.sigmoid(network.separator(features))
        f_b = features * attention  # Eq. 2
        f_r = features - f_b
        made, noise = network.background_branch(f_b), network.noise_branch(f_r)  # Eq. 1

        def added(made, gained=network.config.background_gain, x=x, noise=noise):
            if not gained:
                return x + made
            residual, gain = made.chunk(2, dim=1)
            return x + residual + gain * (x - noise)

        coarse = added(made)
        f_noise = network.head(noise)

        def aca(f, network=network):  # Eq. 7-8
            means = network.channel_attention.response(f).mean(dim=(2, 3))
            return network.channel_attention.gains(means) * f

        source = torch.cat([aca(f_b), -aca(f_noise), network.head(coarse)], dim=1)  # Eq. 6
        a_r = torch.sigmoid(network.noise_attention(torch.cat([features, f_noise], dim=1)))  # Eq. 9
        background = added(network.refiner((source,), 1 - a_r.mean(dim=1, keepdim=True)))  # Eq. 3, 10
        out = network(image)
        wanted = {"background": background, "coarse": coarse, "noise": noise, "noise_map": a_r}
        for name, value in wanted.items():
            full = F.pixel_shuffle(value, network.config.trunk_stride)
            torch.testing.assert_close(getattr(out, name), full, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gain", [True, False])
@torch.inference_mode()
def test_in_bf16_images_keep_the_digits_of_the_input(tiny_config, gain):
    network = build(replace(tiny_config, background_gain=gain)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(images(1, 16, 24))
    assert out.coarse.dtype == out.background.dtype == torch.float32


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode()
def test_large_maps_in_bands_make_the_same_image(preset, monkeypatch):
    network, image = build(narrow(preset)).eval(), images(2, 97, 40)
    whole = network(image, masks=True)
    monkeypatch.setattr(bands, "LARGE", 1)
    monkeypatch.setattr(bands, "BAND", 1)
    banded = network(image, masks=True)
    for name in IMAGES:
        torch.testing.assert_close(getattr(banded, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert list(banded.masks) == list(whole.masks)
    for name, mask in whole.masks.items():
        torch.testing.assert_close(banded.masks[name], mask, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_receptive_radius_is_what_gradients_show(axis, variants):
    presets = ("compact", "base", "paper") if axis == 0 else ("compact", "official-reflection")
    for config in (*(network.config for network in variants), *(PRESETS[name] for name in presets)):
        found = measured_radius(config, axis=axis)
        assert found == receptive_radius(config)
        assert config.receptive_radius == -(-found // config.stride) * config.stride


def test_compact_is_small_and_fast_enough():
    found = cost(PRESETS["compact"], 256, 256)
    assert found.parameters <= 4e6
    assert found.macs <= 12e9


def test_a_step_of_every_size_of_batch_leaves_the_input_alone(tiny_config):
    network = build(tiny_config)
    for n, h, w in ((1, 8, 8), (3, 5, 16), (2, 16, 9)):
        image = images(n, h, w)
        kept = image.clone()
        network(image).background.sum().backward()
        assert torch.equal(image, kept)


@torch.inference_mode()
def test_placing_changes_the_memory_format_only(tiny_config):
    network = build(tiny_config).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    image = images(1, 24, 24)
    out = network(image).background
    assert network.place("cpu") is network
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    torch.testing.assert_close(network(image).background, out, atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_learned_head_with_aligned_corners_takes_every_size(levels):
    config = NetworkConfig(
        align_corners=True, head_levels=levels, width=8, branch_widths=(8, 8, 8), bottleneck_cells=1, trunk_stride=2
    )
    network = build(config).eval()
    for size in ((40, 41), (5, 5), (1, 19), (32, 32)):
        with torch.inference_mode():
            assert network(images(1, *size)).background.shape == (1, 3, *size)
