"""The authors' released checkpoints as our model files.

The names on their side are facts of the published files; what is computed with the tensors is ours.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn import checkpoint
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.model.config import PRESETS, NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dmgn.model.network import DMGN

__all__ = ["TASKS", "ImportReport", "MissingTensorsError", "convert", "import_official", "key_map", "read_pth"]

TASKS = tuple(name.removeprefix("official-") for name in PRESETS if name.startswith("official-"))
"""Tasks that the authors released a model for."""

_VGG = "head_feat.vgg.vgg_pretrained_features."
# VGG-19's convolutions in torchvision's numbering, up to the last that is used.
_VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
# A branch's bottleneck cells in order of execution.
_BOTTLENECK = ("2", "3", "4", "5", "21", "31", "41", "51")
# What the released files hold and no output depends on: a stride-2 convolution in every cell, of
# which a branch uses two, and VGG's convolutions behind the last level.
_DEAD = (
    re.compile(r"(r_branch\.|refine\.)?s_m\d+\.conv3\..*"),
    re.compile(re.escape(_VGG) + r"(30|32|34)\..*"),
)
_NO_MAP = re.compile(r"seperator2\..*")


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of every key of the authors' file.

    Attributes
    ----------
    used : dict of str to str
        Their key and our tensor.
    dropped : dict of str to str
        Their key and why no output depends on it.
    missing : tuple of str
        Keys that the network needs and the file lacks.
    """

    used: dict[str, str]
    dropped: dict[str, str]
    missing: tuple[str, ...]


class MissingTensorsError(CheckpointError):
    """The file lacks tensors that the network needs; `report` names all of them."""

    def __init__(self, message: str, report: ImportReport) -> None:
        super().__init__(message)
        self.report = report


def key_map(config: NetworkConfig) -> dict[str, str]:
    """Return their key of each of our tensors, for the settings of an official preset."""
    names: dict[str, str] = {}

    def layer(ours: str, theirs: str, *, bias: bool = True) -> None:
        for kind in ("weight", "bias") if bias else ("weight",):
            names[f"{ours}.{kind}"] = f"{theirs}.{kind}"

    for i, number in enumerate(_VGG_CONVOLUTIONS):
        layer(f"head.vgg.convs.{i}", f"{_VGG}{number}")
    layer("head.mix", "head_feat.conv.1")
    layer("head.out", "head_feat.conv.4")
    _map_attention(layer, "separator", "seperator", bias=True)
    _map_branch(layer, "background_branch", "", "outconv_B_coarse")
    _map_branch(layer, "noise_branch", "r_branch.", "outconv_R")
    layer("channel_attention.depthwise", "Channel_weight.Depthwise_conv.1", bias=False)
    names["channel_attention.sharpness"] = "Channel_weight.mask.0.weight"
    layer("channel_attention.squeeze", "Channel_weight.Channelwise_conv1.0", bias=False)
    layer("channel_attention.excite", "Channel_weight.Channelwise_conv1.2", bias=False)
    if config.noise_map:
        _map_attention(layer, "noise_attention", "seperator2", bias=False)
    layer("refiner.enter", "refine.conv.1")
    for i in range(len(config.refine_dilations)):
        _map_cell(layer, f"refiner.cells.{i}", f"refine.s_m{i}")
    layer("refiner.hidden", "refine.outconv.0")
    layer("refiner.out", "refine.outconv.2")
    return names


def _map_attention(layer: Any, ours: str, theirs: str, *, bias: bool) -> None:
    layer(f"{ours}.convs.0", f"{theirs}.conv.1")
    layer(f"{ours}.convs.1", f"{theirs}.conv.4")
    layer(f"{ours}.hidden", f"{theirs}.mask.0", bias=bias)
    layer(f"{ours}.out", f"{theirs}.mask.2", bias=bias)


def _map_cell(layer: Any, ours: str, theirs: str) -> None:
    layer(f"{ours}.conv1", f"{theirs}.conv1.1", bias=False)
    layer(f"{ours}.conv2", f"{theirs}.conv1.4", bias=False)
    layer(f"{ours}.hidden", f"{theirs}.mask_1.mask.0")
    layer(f"{ours}.gate", f"{theirs}.mask_1.mask.2")


def _map_branch(layer: Any, ours: str, prefix: str, output: str) -> None:
    for level in (0, 1):
        _map_cell(layer, f"{ours}.down_cells.{level}", f"{prefix}s_m{level}")
        layer(f"{ours}.down.{level}", f"{prefix}s_m{level}.conv3.conv.1", bias=False)
    for i, name in enumerate(_BOTTLENECK):
        _map_cell(layer, f"{ours}.cells.{i}", f"{prefix}s_m{name}")
    for level, up, cell in ((1, "up1", "s_m6"), (0, "up2", "s_m7")):
        layer(f"{ours}.merge.{level}", f"{prefix}{up}.up.1")
        layer(f"{ours}.merge_again.{level}", f"{prefix}{up}.up.4")
        _map_cell(layer, f"{ours}.up_cells.{level}", f"{prefix}{cell}")
    layer(f"{ours}.out_hidden", f"{output}.outconv.1")
    layer(f"{ours}.out", f"{output}.outconv.3")


def convert(state: Mapping[str, Tensor], task: str) -> tuple[DMGN, ImportReport]:
    """Build our network from the authors' state dict.

    Parameters
    ----------
    state : mapping of str to tensor
        Keys with or without a leading ``module.``; never modified.
    task : str
        One of `TASKS`. The keys of the three models are the same, so the file cannot tell.

    Raises
    ------
    MissingTensorsError
        Tensors are missing.
    CheckpointError
        A tensor is mis-shaped or not finite.
    """
    import torch

    from napari_dmgn.model.network import DMGN

    config = _preset(task)
    theirs = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    names = key_map(config)
    report = _report(theirs, names, config)
    if report.missing:
        raise MissingTensorsError(
            f"not a DMGN checkpoint of the authors: {len(report.missing)} of {len(names)} tensors are missing, "
            f"the first is {report.missing[0]}",
            report,
        )
    with torch.device("meta"):
        network = DMGN(config)
    tensors = {}
    for name, wanted in network.state_dict().items():
        key = names[name]
        tensor = theirs[key]
        if name == "channel_attention.sharpness" and tensor.shape == (*wanted.shape, 1):
            tensor = tensor[..., 0]  # theirs is a depth-wise 1x1 convolution
        if tensor.shape != wanted.shape:
            raise CheckpointError(f"tensor {key} has shape {tuple(tensor.shape)}, wanted {tuple(wanted.shape)}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {key} is {tensor.dtype}, wanted a float type")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"tensor {key} holds values that are not finite")
        tensors[name] = tensor.detach().float().clone()
    # Theirs concatenates E of Eq. 6 as F(B_coarse), ACA(F_b), -ACA(F(R)); ours has F(B_coarse) last.
    coarse, background, noise = tensors["refiner.enter.weight"].chunk(3, dim=1)
    tensors["refiner.enter.weight"] = torch.cat([background, noise, coarse], dim=1)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False), report


def _preset(task: str) -> NetworkConfig:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; the authors released {', '.join(TASKS)}")
    return PRESETS[f"official-{task}"]


def _report(theirs: Mapping[str, Any], names: Mapping[str, str], config: NetworkConfig) -> ImportReport:
    ours = {key: name for name, key in names.items()}
    dropped = {}
    for key in theirs:
        if key in ours:
            continue
        if any(pattern.fullmatch(key) for pattern in _DEAD):
            dropped[key] = "dead: no output depends on it"
        elif not config.noise_map and _NO_MAP.fullmatch(key):
            dropped[key] = "unused: this task's model has no noise distribution map"
        else:
            dropped[key] = "unknown to the published network"
    return ImportReport(
        used={key: name for key, name in ours.items() if key in theirs},
        dropped=dropped,
        missing=tuple(key for key in ours if key not in theirs),
    )


def import_official(path: str | Path, task: str, output: str | Path) -> ImportReport:
    """Turn the authors' ``.pth`` file into a model file.

    Parameters
    ----------
    path : path
        Read as weights only: nothing in it is executed.
    task : str
        One of `TASKS`.
    output : path
        Ends in ``.safetensors``; replaced where it exists.

    Raises
    ------
    CheckpointError
        The file is no PyTorch checkpoint, or not the authors' network (`MissingTensorsError`, where it lacks
        tensors); one line, nothing is written.
    """
    path, output = Path(path), Path(output)
    _preset(task)
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {str(output)!r}; wanted a name that ends in .safetensors")
    try:
        network, report = convert(read_pth(path), task)
    except MissingTensorsError as error:
        raise MissingTensorsError(f"{path}: {error}", error.report) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    card = {
        "name": f"official-{task}",
        "source": f"the authors' checkpoint {path.name}",
        "licence": "none stated by the authors: for your own use, not for redistribution",
        "tensors": {"used": len(report.used), "dropped": len(report.dropped)},
    }
    checkpoint.save(output, network, task=task, card=card)
    return report


def read_pth(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch checkpoint as weights only: nothing in it is executed.

    Raises
    ------
    CheckpointError
        It cannot be read, or holds anything else; the message does not name the file.
    """
    import torch

    try:
        with warnings.catch_warnings():  # of foreign pickles, which are refused just after
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # what a broken or foreign file raises inside the unpickler has no common base
        raise CheckpointError("not a PyTorch checkpoint that holds weights only") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"holds a {type(content).__name__}, wanted a dictionary of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"entry {key!r} is a {type(value).__name__}, wanted a tensor under a name")
    return content
