"""The authors' network: our assembly against numbers computed by theirs, and the import of their files.

`data/official.npz` holds what the released code computed in float64 from the weights that `weights`
below makes up (stored as float32): an input in [0, 1], outputs in [-1, 1] units. Its haze arrays are
equal to its rain arrays, and the input and the separator's mask are the same for all tasks.
"""

import io
import json
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_dmgn import checkpoint, official
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.cli import main
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.network import DMGN

GOLDEN = Path(__file__).parent / "data" / "official.npz"

_VGG = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
_VGG |= {19: (256, 512), **dict.fromkeys((12, 14, 16), (256, 256))}
_VGG |= dict.fromkeys((21, 23, 25, 28, 30, 32, 34), (512, 512))
_CELLS = {"0": 64, "1": 128, "6": 128, "7": 64, **dict.fromkeys(("2", "3", "4", "5", "21", "31", "41", "51"), 256)}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key of a released model and its shape, dead ones included."""
    for i, (a, b) in _VGG.items():
        yield from _layer(f"head_feat.vgg.vgg_pretrained_features.{i}", a, b)
    yield from _layer("head_feat.conv.1", 3 + 64 + 128 + 256 + 512 + 512, 64)
    yield from _layer("head_feat.conv.4", 64, 64)
    for name, entering, bias in (("seperator", 64, True), ("seperator2", 128, False)):
        yield from _layer(f"{name}.conv.1", entering, 64)
        yield from _layer(f"{name}.conv.4", 64, 64)
        yield from _layer(f"{name}.mask.0", 64, 64, 1, bias=bias)
        yield from _layer(f"{name}.mask.2", 64, 1, 1, bias=bias)
    for prefix in ("", "r_branch."):
        for name, c in _CELLS.items():
            yield from _cell(f"{prefix}s_m{name}", c)
        for name, a, b in (("up1", 256 + 128, 128), ("up2", 128 + 64, 64)):
            yield from _layer(f"{prefix}{name}.up.1", a, b)
            yield from _layer(f"{prefix}{name}.up.4", b, b)
    for name in ("outconv_B_coarse", "outconv_R"):
        yield from _layer(f"{name}.outconv.1", 64, 64)
        yield from _layer(f"{name}.outconv.3", 64, 3, 1)
    yield "Channel_weight.Depthwise_conv.1.weight", (64, 1, 5, 5)
    yield "Channel_weight.mask.0.weight", (64, 1, 1, 1)
    yield "Channel_weight.Channelwise_conv1.0.weight", (4, 64)
    yield "Channel_weight.Channelwise_conv1.2.weight", (64, 4)
    yield from _layer("refine.conv.1", 192, 64)
    for i in range(6):
        yield from _cell(f"refine.s_m{i}", 64)
    yield from _layer("refine.outconv.0", 64, 64, 1)
    yield from _layer("refine.outconv.2", 64, 3, 1)


def _layer(name: str, a: int, b: int, kernel: int = 3, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (b, a, kernel, kernel)
    if bias:
        yield f"{name}.bias", (b,)


def _cell(name: str, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _layer(f"{name}.conv1.1", c, c, bias=False)
    yield from _layer(f"{name}.conv1.4", c, c, bias=False)
    yield from _layer(f"{name}.mask_1.mask.0", c, c, 1)
    yield from _layer(f"{name}.mask_1.mask.2", c, 1, 1)
    yield from _layer(f"{name}.conv3.conv.1", c, 2 * c, bias=False)


def weights(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights of one key, from nothing but its name and shape."""
    g = np.random.default_rng(zlib.crc32(key.encode()) + 0).standard_normal(shape)
    if len(shape) == 1:
        g *= 0.05
    else:
        g *= np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
        if "mask" in key or "Channelwise" in key:
            g *= 1.5
    return torch.from_numpy(g.astype(np.float32))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A released file's content; what no output depends on is left at nought, which is quicker."""
    return {f"module.{k}": torch.zeros(1).expand(n) if dead(k) else weights(k, n) for k, n in shapes()}


def dead(key: str) -> bool:
    used = re.fullmatch(r"(r_branch\.)?s_m[01]\.conv3.*", key)
    return (".conv3." in key and not used) or re.search(r"features\.3\d", key) is not None


@pytest.fixture(scope="module")
def networks(state) -> dict[str, DMGN]:
    return {task: official.convert(state, task)[0] for task in official.TASKS}


def signed(image: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) in [0, 1] to (H, W, C) in [-1, 1], as the golden arrays are."""
    return (2 * image - 1)[0].permute(1, 2, 0).double()


def deviation(found: torch.Tensor, wanted: np.ndarray) -> float:
    """Largest difference in units of the wanted array's standard deviation."""
    assert found.shape == wanted.shape
    return float((found - torch.from_numpy(wanted).double()).abs().max() / wanted.std())


@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("task", official.TASKS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
@torch.inference_mode()
def test_outputs_are_those_of_the_released_code(networks, task, size, dtype, bound):
    golden = np.load(GOLDEN)
    model = "rain" if task == "haze" else task
    network = networks[task].to(dtype)
    image = torch.from_numpy(golden[f"{size}/input"]).permute(2, 0, 1)[None].to(dtype)
    separated = network.separate(image)
    output = network(image)
    found = {f"{model}/{size}/{name}": signed(getattr(output, name)) for name in ("noise", "coarse", "background")}
    found[f"{size}/separator_mask"] = separated.background_share[0].permute(1, 2, 0).double()
    if task == "reflection":
        raw = separated.noise_map
        normalised = (raw - raw.mean()) / (raw.max() - raw.mean())
        found[f"{model}/{size}/background_map"] = (1 - normalised)[0].permute(1, 2, 0).double()
        torch.testing.assert_close(output.noise_map, normalised.clamp(0, 1))
    else:
        torch.testing.assert_close(output.noise_map, 1 - separated.background_share)
    deviations = {name: deviation(value, golden[name]) for name, value in found.items()}
    network.float()
    assert max(deviations.values()) <= bound, deviations
    held = {name for name in golden if name.startswith((f"{model}/{size}/", f"{size}/"))}
    assert set(found) == held - {f"{size}/input"}


def test_every_key_is_accounted_for(state):
    for task in official.TASKS:
        network, report = official.convert(state, task)
        keys = {key.removeprefix("module.") for key in state}
        assert set(report.used) | set(report.dropped) == keys
        assert not set(report.used) & set(report.dropped)
        assert sorted(report.used.values()) == sorted(network.state_dict())
        assert report.missing == ()
        unused = {key for key in report.dropped if key.startswith("seperator2")}
        assert {key for key in report.dropped if dead(key)} == set(report.dropped) - unused
        assert len(unused) == (0 if task == "reflection" else 6)


def test_prefix_and_unknown_keys_change_nothing(state, networks):
    bare = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    network, report = official.convert(bare | {"extra.weight": torch.ones(2)}, "rain")
    assert report.dropped["extra.weight"] == "unknown to the published network"
    for name, tensor in networks["rain"].state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_wrong_state_dicts_are_refused_in_one_line(state):
    seperator = "module.seperator.mask.2.weight"
    wrong = {
        "tensors are missing, the first is seperator.mask.2.weight": {k: t for k, t in state.items() if k != seperator},
        r"seperator.mask.2.weight has shape \(64, 64, 1, 1\), wanted \(1, 64, 1, 1\)": {
            **state, seperator: torch.zeros(64, 64, 1, 1)
        },
        "seperator.mask.2.weight holds values that are not finite": {
            **state, seperator: torch.full((1, 64, 1, 1), torch.nan)
        },
        "seperator.mask.2.weight is torch.int64, wanted a float": {
            **state, seperator: torch.zeros((1, 64, 1, 1), dtype=torch.int64)
        },
        "not a DMGN checkpoint of the authors": {"conv.weight": torch.zeros(1)},
    }  # fmt: skip
    for message, changed in wrong.items():
        with pytest.raises(CheckpointError, match=message) as raised:
            official.convert(changed, "rain")
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="unknown task 'snow'; the authors released reflection, rain, haze"):
        official.convert(state, "snow")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"some text", "not a PyTorch checkpoint"),
        (b"PK\x03\x04 broken", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "not a PyTorch checkpoint"),
        ({"seperator.conv.1.weight": Bomb()}, "not a PyTorch checkpoint that holds weights only"),
        ([torch.zeros(1)], "holds a list, wanted a dictionary of tensors"),
        ({}, "wanted a dictionary of tensors"),
        ({"epoch": 3}, "entry 'epoch' is a int, wanted a tensor under a name"),
        ({"state_dict": {"a": torch.zeros(1)}}, "294|tensors are missing"),
    ],
)
def test_wrong_files_are_refused_in_one_line_and_nothing_is_written(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, output = tmp_path / "wrong.pth", tmp_path / "out.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as raised:
        official.import_official(path, "rain", output)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.pth"]


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    """Of both formats of PyTorch's checkpoints, and safetensors under another name."""
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, whole, _use_new_zipfile_serialization=False)
    old = whole.getvalue()
    torch.save({"a": torch.zeros(3)}, whole := io.BytesIO())
    cuts = [old[:n] for n in range(len(old))] + [whole.getvalue()[:n] for n in range(0, len(whole.getvalue()), 97)]
    path = tmp_path / "cut.pth"
    for content in [*cuts, b"\x08" + bytes(7) + b"{}"]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            official.read_pth(path)


def test_missing_tensors_are_all_named(state, tmp_path, capsys):
    gone = ["module.seperator.conv.1.weight", "module.up2.up.4.bias"]
    gone = [key for key in gone if key in state] or [key.removeprefix("module.") for key in gone]
    torch.save({key: tensor for key, tensor in state.items() if key not in gone}, tmp_path / "net.pth")
    command = ["models", "import-official", str(tmp_path / "net.pth"), "--task", "rain"]
    command += ["-o", str(tmp_path / "out.safetensors")]
    assert main(command) == 1
    told = capsys.readouterr()
    for key in gone:
        assert f"missing  {key.removeprefix('module.')}\n" in told.out
    assert told.err.count("\n") == 1
    assert main([*command, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == [key.removeprefix("module.") for key in gone]
    assert answer["path"] is None
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_file_and_wrong_output_name(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        official.import_official(tmp_path / "none.pth", "rain", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.safetensors"):
        official.import_official(tmp_path / "none.pth", "rain", tmp_path / "out.pth")


def test_command_line_imports_a_file_that_then_loads_and_restores(state, networks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(tmp_path / "models"))
    file, output = tmp_path / "net.pth", tmp_path / "models" / "official-reflection.safetensors"
    torch.save(state, file)
    command = ["models", "import-official", str(file), "--task", "reflection"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "used     seperator.conv.1.weight -> separator.convs.0.weight" in told
    assert "dropped  refine.s_m0.conv3.conv.1.weight: dead" in told
    unused = sum(dead(key.removeprefix("module.")) for key in state)
    assert f"{len(state) - unused} tensors used, {unused} dropped, none missing: {output}" in told
    header = checkpoint.read_header(output)
    assert header.task == "reflection"
    assert header.config == PRESETS["official-reflection"]
    model = checkpoint.load(output)
    for name, tensor in networks["reflection"].state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    assert main(command) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["used"]["refine.conv.1.weight"] == "refiner.enter.weight"
    other = tmp_path / "x.safetensors"
    assert main(["models", "import-official", str(output), "--task", "rain", "-o", str(other)]) == 1
    assert not other.exists()
    assert main(["models", "import-official", str(tmp_path / "models"), "--task", "rain", "-o", str(other)]) == 1
    capsys.readouterr()
    assert main(["models", "import-official", str(output), "--task", "rain", "-o", str(other)]) == 1
    listed, error = capsys.readouterr()
    assert listed == ""  # where no tensor is of use, none is named
    assert error.startswith("napari-dmgn: error: ")
    assert error.count("\n") == 1
