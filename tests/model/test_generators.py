"""A branch and the refiner against their cells, run one by one."""

import pytest
import torch

from napari_dmgn.model.features import enlarge
from napari_dmgn.model.generators import Branch, Refiner


def enters(module):
    """Collect what a layer is given."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def branch(widths, *, skip, in_channels=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Branch(
            in_channels=in_channels,
            widths=widths,
            bottleneck_cells=2,
            out_channels=3,
            mask_reduction=2,
            skip=skip,
            output_scale=0.1,
        ).requires_grad_(False)


@pytest.mark.parametrize("skip", ["add", "concat"])
@pytest.mark.parametrize("in_channels", [4, 5])
def test_branch_of_two_levels_is_its_parts_in_order(skip, in_channels):
    net = branch((4, 6), skip=skip, in_channels=in_channels)
    x = torch.randn(2, in_channels, 8, 12, generator=torch.Generator().manual_seed(0))
    kept, masks, last = x.clone(), [], enters(net.out)
    found = net(x, masks)
    top, m1 = net.down_cells[0](net.enter(x))
    y = net.down[0](top).clamp(min=0)
    y, m2 = net.cells[0](y)
    y, m3 = net.cells[1](y)
    y = enlarge(net.narrow[0](y))
    y = net.merge[0](torch.cat([y, top], dim=1)).clamp(min=0) if skip == "concat" else y + top
    y, m4 = net.up_cells[0](y)
    torch.testing.assert_close(last[0], y)
    for mask, wanted in zip(masks, (m1, m2, m3, m4), strict=True):
        torch.testing.assert_close(mask, wanted)
    assert torch.equal(x, kept)
    assert torch.equal(net(x), found)  # keeping the masks changes nothing


@pytest.mark.parametrize("widths", [(4,), (4, 6), (4, 6, 8), (4, 4, 4, 4)])
def test_number_of_cells_and_resolutions(widths):
    masks = []
    out = branch(widths, skip="add")(torch.zeros(1, 4, 16, 16), masks)
    levels = len(widths)
    down = [16 // 2**i for i in range(levels - 1)]
    wanted = [*down, *[16 // 2 ** (levels - 1)] * 2, *reversed(down)]
    assert [mask.shape[2] for mask in masks] == wanted
    assert out.shape == (1, 3, 16, 16)


def test_refiner_weighs_the_background_map_by_eq_10():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = Refiner(
            in_channels=6,
            channels=4,
            dilations=(1, 2, 4),
            out_channels=3,
            alpha=0.4,
            decay=0.5,
            mask_reduction=2,
            kernel=3,
            output_scale=0.1,
        ).requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    source, background_map = torch.randn(2, 6, 9, 9, generator=random), torch.rand(2, 1, 9, 9, generator=random)
    masks, last = [], enters(net.out)
    found = net((source,), background_map, masks)
    x = net.enter(source).clamp(min=0)
    for n, cell in enumerate(net.cells, start=1):
        weight = 0.4 * 0.5 ** (n - 1)
        _, own = cell(x)
        y, fused = cell(x, background_map=background_map, weight=weight)
        torch.testing.assert_close(fused, (own + weight * background_map) / (1 + weight))
        torch.testing.assert_close(masks[n - 1], fused)
        x = y
    torch.testing.assert_close(last[0], net.hidden(x).clamp(min=0))
    assert found.abs().max() < 1
