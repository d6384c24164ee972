"""Models averaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_dmgn import checkpoint
from napari_dmgn.averaging import average_models
from napari_dmgn.cli import main
from napari_dmgn.model.network import DMGN


@pytest.fixture
def stages(tmp_path, tiny_network):
    """Two stages of a training and a model of another network."""

    def save(name, network, task="rain", **card):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, network, task=task, card={"name": "mine", **card})
        return path

    moved = DMGN(tiny_network.config)
    moved.load_state_dict({name: t + 0.5 for name, t in tiny_network.state_dict().items()})
    first = save("first", tiny_network, licence="MIT", scores={"light": 1})
    second = save("second", moved, licence="BSD-3-Clause", scores={"light": 2}, comparison="better")
    torch.manual_seed(0)
    other = save("other", DMGN(replace(tiny_network.config, width=16)))
    return first, second, other, save("hazy", moved, task="haze")


def test_an_average_is_the_weighted_mean_of_every_tensor(stages, tmp_path, tiny_network):
    out = tmp_path / "mean.safetensors"
    used = average_models(stages[:2], out, shares=[1, 3])
    assert [one["share"] for one in used] == [0.25, 0.75]
    model = checkpoint.load(out)
    for name, tensor in tiny_network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], tensor + 0.375)
    # Whose weights they were, not how well those did.
    assert model.metadata.card == {"name": "mine", "licence": "BSD-3-Clause", "averaged": used}
    assert used[1]["sha256"] == checkpoint.load(stages[1]).metadata.sha256
    assert average_models(stages[:2], out, shares=np.float32([1, 3])) == used
    average_models([stages[0], stages[0]], out)
    same = checkpoint.load(out).network.state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in tiny_network.state_dict().items())


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_further_cells_are_averaged_over_the_files_that_have_them(order, stages, tmp_path, tiny_network):
    deeper = DMGN(replace(tiny_network.config, bottleneck_cells=2))
    with torch.no_grad():
        for tensor in deeper.state_dict().values():
            tensor.fill_(2.0)
    path, out = tmp_path / "deeper.safetensors", tmp_path / "mean.safetensors"
    checkpoint.save(path, deeper, task="rain", card={"name": "deeper"})
    files, shares = [stages[0], stages[1], path], [1, 1, 2]
    average_models([files[i] for i in order], out, shares=[shares[i] for i in order])
    mean = checkpoint.load(out)
    assert mean.config == deeper.config
    for name, tensor in mean.network.state_dict().items():
        before = tiny_network.state_dict().get(name)
        wanted = torch.full_like(tensor, 2.0) if before is None else before / 2 + 0.125 + 1
        torch.testing.assert_close(tensor, wanted)


def test_a_file_without_gains_has_gains_of_nothing(stages, tmp_path, tiny_network):
    gained = DMGN(replace(tiny_network.config, background_gain=True))
    path, out = tmp_path / "gained.safetensors", tmp_path / "mean.safetensors"
    checkpoint.save(path, gained, task="rain", card={"name": "gained"})
    average_models([stages[0], path], out, shares=[3, 1])
    mean = checkpoint.load(out).network
    for name in ("background_branch", "refiner"):
        ours, theirs = (network.get_submodule(name).gain.bias for network in (mean, gained))
        torch.testing.assert_close(ours, theirs / 4)
        ours, theirs = (network.get_submodule(name).gain.weight for network in (mean, gained))
        torch.testing.assert_close(ours, theirs / 4)


def test_an_average_of_halves_is_half(stages, tmp_path):
    halves = []
    for path in stages[:2]:
        model = checkpoint.load(path)
        halves.append(tmp_path / f"half_{path.name}")
        checkpoint.save(halves[-1], checkpoint.halve(model.network), task="rain", card={})
    out = tmp_path / "mean.safetensors"
    for files, kinds in ((halves, {"F16", "F32"}), ([halves[0], stages[1]], {"F32"})):
        average_models(files, out)
        assert {dtype for dtype, _ in checkpoint.read_header(out).tensors.values()} == kinds


def test_what_cannot_be_averaged_is_refused_and_nothing_written(stages, tmp_path):
    first, second, other, hazy = stages
    out = tmp_path / "mean.safetensors"
    for files, shares, message in (
        ([first], None, "1 models to average; wanted two or more"),
        ([first, other], None, "has another network"),
        ([first, hazy], None, "is for haze; wanted rain"),
        ([first, second], [1.0], "wanted 2 numbers above 0"),
        ([first, second], [1.0, 0.0], "wanted 2 numbers above 0"),
        ([first, second], ["a", 1], r"shares are \['a', 1\]; wanted 2 numbers above 0"),
        ([first, second], [True, None], "wanted 2 numbers above 0"),
        ([first, second], "12", "shares are '12'; wanted 2 numbers above 0"),
        ([first, second], 5, "shares are 5; wanted 2 numbers above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            average_models(files, out, shares=shares)
        assert not out.exists()


def test_the_command_averages(stages, tmp_path, capsys):
    out = tmp_path / "mean.safetensors"
    command = ["models", "average", str(stages[0]), str(stages[1]), "-o", str(out)]
    assert main([*command, "--shares", "1", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["averaged"] == checkpoint.read_header(out).card["averaged"]
    before = out.read_bytes()
    assert main(command) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--overwrite"]) == 0
    assert f"{out}: 0.5 {stages[0]} + 0.5 {stages[1]}" in capsys.readouterr().out
    assert out.read_bytes() != before
