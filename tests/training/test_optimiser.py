import copy
import math

import pytest
import torch

from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.network import DMGN
from napari_dmgn.training import optimiser as optimiser_module
from napari_dmgn.training.optimiser import MuonAdamW, build_optimiser

SMALL = NetworkConfig(
    trunk_stride=2, width=8, head_levels=2, branch_widths=(8, 16), bottleneck_cells=1, refine_dilations=(1,)
)
SETTINGS = {"rate": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DMGN(SMALL).place("cpu")


def step(network, optimiser, seed):
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    out = network(image)
    optimiser.zero_grad()
    ((out.background - 0.5).square().mean() + (out.noise - 0.1).square().mean() + out.noise_map.mean()).backward()
    optimiser.step()


def test_every_parameter_is_updated_by_one_optimiser(network):
    optimiser = build_optimiser(network, "muon", **SETTINGS)
    assert isinstance(optimiser, MuonAdamW)
    sizes = sum(p.numel() for g in optimiser.param_groups for p in g["params"])
    assert sizes == sum(p.numel() for p in network.parameters())
    before = copy.deepcopy(network.state_dict())
    for seed in range(2):  # the attention's gains start where their first step may round away
        step(network, optimiser, seed)
    unchanged = [k for k, v in network.state_dict().items() if torch.equal(v, before[k])]
    assert unchanged == []


def test_muon_takes_steps_of_equal_size_in_all_directions(network):
    optimiser = build_optimiser(network, "muon", rate=1e-3, betas=(0.9, 0.95), weight_decay=0.0, muon_rate=4.0)
    weight = network.background_branch.cells[0].conv2.weight  # 16 outputs of 16 channels, 3x3
    before = weight.detach().clone()
    step(network, optimiser, 0)
    change = (weight.detach() - before).permute(0, 2, 3, 1).reshape(16, -1)
    # Newton-Schulz brings all singular values near 1; AdamW's size is 0.2 sqrt(larger side).
    values = torch.linalg.svdvals(change) / (4e-3 * 0.2 * math.sqrt(144))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_weight_decay_spares_biases(network):
    for kind in ("adamw", "muon"):
        optimiser = build_optimiser(network, kind, **SETTINGS)
        decay = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
        for parameter in network.parameters():
            if id(parameter) in decay:
                assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0)


def test_rates_keep_their_ratio(network):
    optimiser = build_optimiser(network, "muon", **SETTINGS, muon_rate=3.0)
    assert [g["lr"] / g["rate_scale"] for g in optimiser.param_groups] == pytest.approx([1e-3] * 3)


def test_state_goes_on_where_it_was(network):
    twin = copy.deepcopy(network).place("cpu")
    first = build_optimiser(network, "muon", **SETTINGS)
    step(network, first, 0)
    twin.load_state_dict(network.state_dict())
    second = build_optimiser(twin, "muon", **SETTINGS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(network, first, 1)
    step(twin, second, 1)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_frozen_parameters_stay(network):
    network.head.requires_grad_(False)
    optimiser = build_optimiser(network, "muon", **SETTINGS)
    before = copy.deepcopy(network.head.state_dict())
    step(network, optimiser, 0)
    assert all(torch.equal(v, before[k]) for k, v in network.head.state_dict().items())


def test_unknown_optimiser(network):
    with pytest.raises(ValueError, match="unknown optimiser 'sgd'; wanted one of adamw, muon"):
        build_optimiser(network, "sgd", **SETTINGS)


def test_weights_in_another_memory_format_are_refused():
    with pytest.raises(ValueError, match="channels-last"):
        build_optimiser(DMGN(SMALL), "muon", **SETTINGS)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_matrices_that_are_updated_together_become_what_torchs_muon_makes_of_them():
    shapes = [(8, 72), (12, 72), (8, 72), (40, 9), (8, 72), (40, 9)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [torch.randn(4, *shape) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(x[0].clone()) for x in drawn] for _ in range(2))
    options = {"lr": 1e-2, "weight_decay": 0.1}
    together = optimiser_module._Muon(ours, **options)
    apart = torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    for step in range(1, 4):
        for parameters in (ours, theirs):
            for i, p in enumerate(parameters):
                p.grad = None if i == 4 and step == 2 else drawn[i][step].clone()  # frozen for once
        together.step()
        apart.step()
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        moved = (b - drawn[i][0]).norm()
        assert (a - b).norm() < 0.01 * moved  # both round to bfloat16
        torch.testing.assert_close(together.state[a]["momentum_buffer"], apart.state[b]["momentum_buffer"])
