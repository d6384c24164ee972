"""Parameters and multiplications worked out without torch, against torch's own counts."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_dmgn.model.config import ABLATIONS, PRESETS, NetworkConfig
from napari_dmgn.model.cost import cost
from napari_dmgn.model.network import DMGN

VARIANTS = {
    **PRESETS,
    **{f"compact, {name}": NetworkConfig(**changes) for name, changes in ABLATIONS.items()},
    "narrowed": NetworkConfig(
        width=24,
        branch_widths=(16, 20, 24),
        skip="concat",
        head_levels=4,
        trunk_stride=2,
        background_gain=True,
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_cost_is_what_torch_counts(name):
    config = VARIANTS[name]
    with torch.device("meta"):
        network = DMGN(config)
        parameters = sum(p.numel() for p in network.parameters())
        for height, width in ((256, 256), (37, 151), (1, 70)):
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, height, width))
            found = cost(config, height, width)
            assert 2 * found.macs == counter.get_total_flops()
            assert found.parameters == parameters
            assert (found.plain_macs > found.macs) == (config.head == "vgg19")


def test_plain_form_is_that_of_the_release():
    """467 and 459 GMAC were counted in the authors' code."""
    for task, gmac in (("reflection", 467), ("rain", 459), ("haze", 459)):
        found = cost(PRESETS[f"official-{task}"], 256, 256)
        assert round(found.plain_macs / 1e9) == gmac
        assert found.macs < 0.72 * found.plain_macs


def test_no_torch_is_needed():
    code = "import sys; from napari_dmgn.model.cost import cost; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_refining_cell_costs_what_its_convolutions_say():
    small, large = (cost(NetworkConfig(refine_dilations=d), 64, 64) for d in ((1,), (1, 1)))
    # Two 3x3 convolutions of 64 channels and the mask, 64 -> 16 -> 1, on 16x16.
    assert large.macs - small.macs == 16 * 16 * (2 * 9 * 64 * 64 + 64 * 16 + 16)
