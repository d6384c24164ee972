"""The authors' network: our assembly against numbers computed by theirs, and the import of their files.

`data/official.npz` holds what the released code computed in float64 from the weights that `weights`
below makes up (stored as float32): an input in [0, 1], outputs in [-1, 1] units. Its haze arrays are
equal to its rain arrays, and the input and the separator's mask are the same for all tasks.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_dmgn import official
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
