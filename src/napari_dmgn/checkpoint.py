"""Model files: one .safetensors with the tensors, the configuration, the task and the card.

The header can be read without torch, nothing is ever unpickled, and whatever is wrong with a file
is told in one line.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn.files import replacing
from napari_dmgn.model.config import NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.model.network import DMGN

__all__ = ["FORMAT", "CheckpointError", "Header", "halve", "is_halved", "load", "read_header", "save", "write_tensors"]

FORMAT = "napari-dmgn/1"
_FIELDS = ("format", "config", "task", "card")
_ITEM_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
# A header describes a few hundred tensors; anything larger is not ours.
_LARGEST_HEADER = 4 << 20
_FEW = 256  # values of a tensor that is not worth halving


class CheckpointError(ValueError):
    """A model file that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says about itself.

    Attributes
    ----------
    format, task : str
    config : NetworkConfig
    card : dict
        The model card.
    tensors : dict of str to (str, tuple of int)
        Each tensor's type ("F16", "F32", ...) and shape.
    bytes : int
        Size of the file.
    """

    format: str
    task: str
    config: NetworkConfig
    card: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    bytes: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.tensors.values())


def read_header(path: str | Path) -> Header:
    """Read and check a model file's header, without torch.

    Raises
    ------
    CheckpointError
        The file is missing, truncated, oversized, not safetensors, or not of this format.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise CheckpointError(f"{path} is not a safetensors file, or is truncated")
            raw = file.read(length)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"cannot read model file {path}: {reason}") from error
    try:
        content = json.loads(raw)
        metadata = content.pop("__metadata__", {})
        tensors = {name: (str(t["dtype"]), tuple(int(n) for n in t["shape"])) for name, t in content.items()}
        end = max((int(t["data_offsets"][1]) for t in content.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is broken") from error
    if size != 8 + length + end:
        wrong = "truncated" if size < 8 + length + end else "longer than its header says"
        raise CheckpointError(f"{path} is {wrong}: {size} bytes, wanted {8 + length + end}")
    return _header(path, metadata, tensors, size)


def _header(
    path: Path,
    metadata: Mapping[str, str],
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    size: int,
) -> Header:
    found = metadata.get("format") if isinstance(metadata, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path} is no napari-dmgn model: its format is {found!r}, wanted {FORMAT!r}")
    if set(metadata) != set(_FIELDS):
        wrong = sorted(set(metadata) ^ set(_FIELDS))
        raise CheckpointError(f"{path} has missing or unknown metadata fields: {wrong}")
    try:
        config = NetworkConfig.from_dict(json.loads(metadata["config"]))
        task, card = json.loads(metadata["task"]), json.loads(metadata["card"])
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error
    if not isinstance(task, str) or not isinstance(card, dict):
        raise CheckpointError(f"{path} has broken metadata: task is no string or card no object")
    for name, (dtype, _) in tensors.items():
        if dtype not in _ITEM_BYTES:
            raise CheckpointError(f"{path}: tensor {name} is {dtype}, wanted {list(_ITEM_BYTES)}")
    return Header(format=FORMAT, task=task, config=config, card=card, tensors=tensors, bytes=size)


def load(path: str | Path) -> Model:
    """Load a model file strictly, as float32 on the CPU.

    Raises
    ------
    CheckpointError
        As `read_header`, or a tensor is missing, surplus, mis-shaped or not finite.
    """
    import safetensors
    import safetensors.torch
    import torch

    from napari_dmgn.model.descriptor import Metadata, Model
    from napari_dmgn.model.network import DMGN

    path = Path(path)
    header = read_header(path)
    content = path.read_bytes()  # read once, so that the hash is that of the tensors loaded
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    with torch.device("meta"):  # no memory yet: the settings may be those of a network of terabytes
        network = DMGN(header.config)
    wanted = network.state_dict()
    if missing := sorted(set(wanted) - set(tensors)):
        raise CheckpointError(f"{path} lacks {len(missing)} tensors, the first is {missing[0]}")
    if surplus := sorted(set(tensors) - set(wanted)):
        raise CheckpointError(f"{path} has {len(surplus)} unknown tensors, the first is {surplus[0]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, wanted {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds values that are not finite")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    metadata = Metadata(
        name=str(header.card.get("name", path.stem)),
        task=header.task,
        card=header.card,
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
    )
    return Model(network.eval().requires_grad_(False), metadata)


def halve(network: DMGN) -> DMGN:
    """Turn a network's large tensors into float16, in place; those of few values stay float32.

    These are biases and the last layers of masks: one value weighs on every position, and dense haze, which is
    multiplied, showed their rounding (by 0.6 levels of 8 bits; without, by 0.2). They are 0.2 % of the values.
    """
    for parameter in network.parameters():
        if parameter.numel() > _FEW:
            parameter.data = parameter.data.half()
    return network


def is_halved(header: Header) -> bool:
    """Return whether a file's large tensors are float16 (`halve`), or all of them."""
    return all(dtype == "F16" for dtype, shape in header.tensors.values() if math.prod(shape) > _FEW)


def save(path: str | Path, network: DMGN, *, task: str, card: Mapping[str, Any]) -> None:
    """Write a model file; it appears under its name complete, or not at all.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``.
    network : DMGN
        Its tensors are written in the type they have.
    task : str
    card : mapping
        JSON-ready values.

    Raises
    ------
    CheckpointError
        A weight is not finite.
    ValueError
        The task is no string.
    OSError
        The file cannot be written.
    """
    import torch

    if not isinstance(task, str):
        raise ValueError(f"a model's task is a string; got {task!r}")
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"not saved: tensor {name} holds values that are not finite")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(network.config.to_dict()),
        "task": json.dumps(task),
        "card": json.dumps(dict(card)),
    }
    write_tensors(path, tensors, metadata)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, flush it to disk and rename it."""
    import safetensors.torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(dict(tensors), metadata)
    with replacing(path) as file:
        file.write(content)
