"""Features for the perceptual loss: VGG-19 or a small distillation of it, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.vgg import Vgg19
from napari_dmgn.paths import expanded

__all__ = ["DistilledFeatures", "Features", "VggFeatures", "load_features"]

# torchvision's normalisation of VGG-19's input.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Convolutions of VGG-19 up to relu5_1 in torchvision's numbering of layers.
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
_PER_LEVEL = (2, 2, 4, 4, 1)
_CHANNELS = (64, 128, 256, 512, 512)


class Features(Protocol):
    """What the perceptual loss compares images by; `smallest`, where it has one, is the least H and W that it takes."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) images in [0, 1] to feature maps, one (N, C, h, w) tensor a level."""
        ...


class VggFeatures(nn.Module):
    """VGG-19's relu1_1, relu2_1, ... relu5_1, its input normalised as it was in its own training.

    Parameters
    ----------
    vgg : Vgg19
    """

    mean: Tensor
    std: Tensor
    smallest = 16
    """Least height and width of an image: four poolings leave one pixel."""

    def __init__(self, vgg: Vgg19) -> None:
        super().__init__()
        self.vgg = vgg
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) images in [0, 1], H and W at least `smallest`, to five levels."""
        levels: list[Tensor] = self.vgg((image - self.mean) / self.std)
        return levels


class DistilledFeatures(nn.Module):
    """VGG-19's levels by a network of a sixteenth of the parameters (Collaborative Distillation, CVPR 2020).

    `conv0` (1x1) turns RGB in [0, 1] into VGG's input; 3x3 convolutions with reflection, ReLU, and a
    pooling behind each level; 1x1 convolutions bring relu K_1 to VGG-19's own number of channels.

    Parameters
    ----------
    widths : tuple of int
        Channels of the five levels.
    """

    smallest = 32
    """Least height and width of an image: four poolings leave the two pixels that are reflected."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 3, 1)
        before = 3
        for level, (width, count) in enumerate(zip(widths, _PER_LEVEL, strict=True), start=1):
            for i in range(1, count + 1):
                self.add_module(f"conv{level}{i}", nn.Conv2d(before, width, 3))
                before = width
            self.add_module(f"conv{level}1_aux", nn.Conv2d(width, _CHANNELS[level - 1], 1))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) images in [0, 1], H and W at least `smallest`, to five levels."""
        x = self.conv0(image)
        levels = []
        for level, count in enumerate(_PER_LEVEL, start=1):
            if level > 1:
                x = F.max_pool2d(x, 2)  # half the resolution
            for i in range(1, count + 1):
                conv = self.get_submodule(f"conv{level}{i}")
                x = torch.relu(conv(_reflected_by_one(x)))
                if i == 1:
                    levels.append(self.get_submodule(f"conv{level}1_aux")(x))
        return levels


def _reflected_by_one(x: Tensor) -> Tensor:
    """Reflect (N, C, h, w) maps beyond their border by one position, h and w at least 2."""
    if x.is_cuda and x.is_contiguous(memory_format=torch.channels_last):
        padded: Tensor = _ReflectedByOne.apply(x)  # type: ignore[no-untyped-call]
        return padded
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


class _ReflectedByOne(torch.autograd.Function):
    """F.pad(x, (1, 1, 1, 1), mode="reflect") in channels_last memory.

    CUDA's own pads and their gradients come in the other layout, and every convolution between two then turns its
    maps over and back: a fifth of a GPU's work in a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        padded = torch.empty((n, c, h + 2, w + 2), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        padded[:, :, 1:-1, 1:-1] = x
        padded[:, :, 0, 1:-1] = x[:, :, 1]
        padded[:, :, -1, 1:-1] = x[:, :, -2]
        padded[:, :, :, 0] = padded[:, :, :, 2]
        padded[:, :, :, -1] = padded[:, :, :, -3]
        return padded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        columns = gradients[0][:, :, :, 1:-1].clone(memory_format=torch.channels_last)
        columns[:, :, :, 1] += gradients[0][:, :, :, 0]
        columns[:, :, :, -2] += gradients[0][:, :, :, -1]
        whole = columns[:, :, 1:-1].clone(memory_format=torch.channels_last)
        whole[:, :, 1] += columns[:, :, 0]
        whole[:, :, -2] += columns[:, :, -1]
        return whole


def load_features(path: str | Path) -> nn.Module:
    """Load features from a safetensors file: VGG-19 in torchvision's numbering, or the distillation.

    Parameters
    ----------
    path : path
        Keys such as ``features.0.weight`` (what torchvision names them; layers behind relu5_1 are
        not read), or ``conv0.weight``, ``conv11.weight``, ``conv11_aux.weight``, ...

    Raises
    ------
    ValueError
        The file cannot be read, or is neither.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = expanded(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read features file {path}: {error}") from error
    if "conv0.weight" in tensors:
        return _distilled(path, tensors)
    return VggFeatures(_vgg19(path, tensors))


def _distilled(path: Path, tensors: Mapping[str, Tensor]) -> DistilledFeatures:
    try:
        widths = tuple(len(tensors[f"conv{level}1.bias"]) for level in range(1, 6))
        features = DistilledFeatures(widths)
        features.load_state_dict({name: t.float() for name, t in tensors.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"features file {path} is no distillation of VGG-19: {_first_line(error)}") from error
    return features


def _vgg19(path: Path, tensors: Mapping[str, Tensor]) -> Vgg19:
    vgg = Vgg19(image_channels=3)
    renamed = {}
    for ours, theirs in enumerate(_TORCHVISION):
        for kind in ("weight", "bias"):
            name = f"features.{theirs}.{kind}"
            if name not in tensors:
                raise ValueError(f"features file {path} lacks {name}; wanted VGG-19 as torchvision names it")
            renamed[f"convs.{ours}.{kind}"] = tensors[name].float()
    try:
        vgg.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"features file {path} is not VGG-19: {_first_line(error)}") from error
    return vgg


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
