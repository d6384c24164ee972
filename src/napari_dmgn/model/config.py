"""The network's numbers, readable without torch."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from napari_dmgn.model.reach import VGG_CONVOLUTIONS, receptive_radius

__all__ = ["ABLATIONS", "PRESETS", "NetworkConfig", "Padding"]

Padding = Literal["zeros", "reflect"]
"""What a 3x3 convolution sees beyond the border."""

_VGG_LEVELS = len(VGG_CONVOLUTIONS)
_CHOICES = {
    "skip": ("add", "concat", "concat-wide"),
    "head": ("learned", "vgg19"),
    "cells": ("masking", "plain"),
    "image_range": ("unit", "signed"),
    "padding": ("zeros", "reflect"),
    "separator_on": ("features", "hidden"),
}
# Far above every network that is of use. Beyond, sizes are no integers of a machine any more, and there is no end to
# assembling what a broken or malicious file asks for.
_MOST = {
    "trunk_stride": 64,
    "width": 1 << 14,
    "head_levels": 12,
    "branch_widths": 1 << 14,
    "bottleneck_cells": 128,
    "refine_dilations": 1 << 10,
    "mask_reduction": 1 << 14,
    "attention_convolutions": 64,
}
_MOST_ENTRIES = {"branch_widths": 12, "refine_dilations": 128}
# A switch, and the one that it needs.
_NEEDS = {
    "noise_map": "noise_branch",
    "noise_in_source": "noise_branch",
    "map_normalised": "noise_map",
    "background_gain": "noise_in_source",
}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of one DMGN network; the same class assembles every preset.

    Equation numbers are those of Feng et al., "Deep-Masking Generative Network", IEEE TIP 2021.
    """

    trunk_stride: int = 4
    """Factor of the pixel-unshuffle in front of the trunk (1: the trunk works at full resolution)."""
    width: int = 64
    """Channels of the feature head's output F, of both separated parts and of the refining cells."""
    head_levels: int = 3
    """Levels of the learned hypercolumn, each at half the resolution of the one before."""
    branch_widths: tuple[int, ...] = (64, 96)
    """Channels of a branch from its finest to its coarsest level; one stride-2 step between two."""
    bottleneck_cells: int = 6
    """Deep-masking cells at the coarsest level of a branch."""
    refine_dilations: tuple[int, ...] = (1, 2, 4, 1)
    """One refining cell per entry: the dilation of its two 3x3 convolutions."""
    mask_alpha: float = 0.4
    """Alpha of Eq. 10, the weight of the background distribution map in the refining cells' masks."""
    mask_decay: float = 0.5
    """q of Eq. 10, the decay of that weight from one refining cell to the next."""
    attention_reduction: int = 4
    """Channel reduction inside the adapted channel-wise attention (Eq. 8). The paper's 16 leaves four
    hidden units of 64 channels, and with ReLU most of them dead from the start."""
    mask_reduction: int = 4
    """Channels of a cell over those of its mask's hidden layer (1 in the paper: C -> C -> 1)."""
    attention_convolutions: int = 1
    """3x3 convolutions of the separator and of the noise distribution map (2 in the paper)."""
    refine_kernel: int = 1
    """Kernel of the convolution that mixes the refining phase's source E (3 in the paper)."""
    skip: str = "add"
    """How a branch joins its skip connections: "add", "concat" and a 3x3 convolution, or
    "concat-wide": enlarged at its full width, concatenated, two 3x3 convolutions with ReLU (release)."""
    head: str = "learned"
    """The feature head: "learned", or "vgg19", the paper's hypercolumn of a frozen VGG-19."""
    imagenet_range: bool = False
    """Whether the frozen VGG-19 takes images with ImageNet's mean and spread at 0 and 1, as its training
    had them and torchvision's weights want; the release gives it the image as it is."""
    image_range: str = "unit"
    """Units of images inside the network: "unit" is [0, 1], "signed" is [-1, 1] (release)."""
    padding: Padding = "zeros"
    """How 3x3 convolutions outside VGG see beyond the border: "zeros" or "reflect" (release)."""
    align_corners: bool = False
    """Enlarge inside a branch to the skip's size with corners aligned (release): the result then
    depends on a pixel's position, and tiles are approximate."""
    cell_bias: bool = True
    """Biases in a branch's stride-2 convolutions and in the 3x3 convolutions of all cells."""
    attention_bias: bool = True
    """Biases in the adapted channel-wise attention (Eq. 7-8)."""
    map_bias: bool = True
    """Biases in the noise distribution map's 1x1 convolutions (Eq. 9)."""
    separator_on: str = "features"
    """What the separator's attention splits: the "features" F, one gate per channel (Eq. 2), or its
    own "hidden" maps, one gate per position (release)."""
    coarse_residual: bool = True
    """Whether the background branch adds to the image, or makes B_coarse as it is."""
    noise_residual: bool = False
    """Whether the noise branch adds to the image, or makes R as it is."""
    output_hidden: bool = False
    """End a branch in a 3x3 convolution, ReLU and a 1x1 convolution, not in one 3x3 convolution."""
    output_scale: float = 0.1
    """Factor on what the generators' last layers make. Residuals and noise are small beside the
    features, which are all >= 0: without it one step of Adam, equal for all weights of the last
    layer, shifts the whole image more than the noise is strong, and training stays on a plateau."""
    refine_tanh: bool = True
    """Whether the refinement passes tanh before it is added to the image."""
    noise_map: bool = True
    """Whether there is a noise distribution map and the refining masks heed it (Eq. 9-10)."""
    cells: str = "masking"
    """What the generators iterate: "masking", the paper's cell (Eq. 4-5), or "plain" convolutions (Table I)."""
    noise_branch: bool = True
    """Whether R is generated at all (Eq. 1; not in Table I's Base and RDMC)."""
    noise_in_source: bool = True
    """Whether the refining phase's source E has -ACA(F(R)) (Eq. 6; not in Table I's R-RDMC)."""
    background_gain: bool = False
    """Whether the generators of the background make a gain K of each value beside what they add:
    B = I + K (I - R) + residual. What haze weakens has to be multiplied, (I - R) / t with 1 + K = 1 / t;
    sums of convolutions learn that slowly."""
    map_normalised: bool = False
    """Shift and scale the map over the whole image: (A_r - mean) / (max - mean) (release, reflection)."""

    def __post_init__(self) -> None:
        """Check every number once, so that the blocks may trust them."""
        for name in (
            "trunk_stride",
            "width",
            "head_levels",
            "bottleneck_cells",
            "mask_reduction",
            "attention_convolutions",
        ):
            most = _MOST[name]
            _check(name, getattr(self, name), lambda v, m=most: _is_count(v, m), f"an integer from 1 to {most}")
        for name, entries in _MOST_ENTRIES.items():
            most = _MOST[name]
            _check(
                name,
                getattr(self, name),
                lambda v, n=entries, m=most: 0 < len(v) <= n and all(_is_count(i, m) for i in v),
                f"a list of up to {entries} integers from 1 to {most}",
            )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("mask_alpha", "mask_decay"):
            _check(name, getattr(self, name), lambda v: 0 <= v <= 1, "a number in [0, 1]")
        _check("refine_kernel", self.refine_kernel, lambda v: v in (1, 3), "1 or 3")
        for name, choices in _CHOICES.items():
            _check(name, getattr(self, name), lambda v, c=choices: isinstance(v, str) and v in c, f"one of {choices}")
        for name in [f.name for f in fields(self) if isinstance(f.default, bool)]:
            _check(name, getattr(self, name), lambda v: isinstance(v, bool), "true or false")
        for name, needed in _NEEDS.items():
            fine = getattr(self, needed) or not getattr(self, name)
            _check(name, getattr(self, name), lambda _, fine=fine: fine, f"false where {needed} is false")
        fine = self.head == "vgg19" or not self.imagenet_range
        _check("imagenet_range", self.imagenet_range, lambda _: fine, "false where the head is no vgg19")
        _check("output_scale", self.output_scale, lambda v: 0 < v <= 1, "a number above 0 and up to 1")
        _check(
            "attention_reduction",
            self.attention_reduction,
            lambda v: _is_count(v, self.width),
            f"an integer from 1 to the width ({self.width})",
        )

    @property
    def stride(self) -> int:
        """Input pixels per position of the network's coarsest grid; inputs are padded to a multiple.

        The coarsest grid is that of a branch's bottleneck, of the head's last level or of the
        attention's stride-4 convolution (Eq. 7), whichever is coarser.
        """
        head = _VGG_LEVELS if self.head == "vgg19" else self.head_levels
        steps = max(1 << (len(self.branch_widths) - 1), 1 << (head - 1), 4)
        return self.trunk_stride * steps

    @property
    def exact_tiles(self) -> bool:
        """Whether a tiled image equals a whole one; if not, nothing is padded to a multiple of `stride`."""
        return not self.align_corners

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image is padded to, at its right and bottom, before the network sees it.

        A multiple of `stride`; where tiles are approximate anyway, the image's own size unless it is
        too small for VGG's poolings or for a reflection at the border, or the learned head cannot halve
        it as often as it doubles what becomes of it.
        """
        unit, least = self.stride, 1
        if not self.exact_tiles:
            unit, least = self.trunk_stride, self.trunk_stride * self._smallest
            if self.head == "learned":
                unit <<= self.head_levels - 1
        return -(-max(height, least) // unit) * unit, -(-max(width, least) // unit) * unit

    @property
    def _smallest(self) -> int:
        """Positions of the trunk's grid that every operator needs at least."""
        least = max(3, (1 << (len(self.branch_widths) - 1)) + 1)
        if self.head == "vgg19":
            least = max(least, 1 << (_VGG_LEVELS - 1))
        if self.padding == "reflect":  # a reflection needs one more position than it shows
            least = max(least, max(self.refine_dilations) + 1)
        return least

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side of an output pixel that can influence it, rounded up to `stride`.

        The attention's averages, which see the whole image by design, are not counted.
        """
        return -(-receptive_radius(self) // self.stride) * self.stride

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Build a configuration from `to_dict`'s output.

        Raises
        ------
        ValueError
            A key that is no setting, or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown network settings {unknown}; known are {sorted(known)}")
        return cls(**values)


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _check(name: str, value: Any, good: Any, wanted: str) -> None:
    try:
        fine = bool(good(value))
    except TypeError:
        fine = False
    if not fine:
        raise ValueError(f"network setting {name} is {reprlib.repr(value)}; wanted {wanted}")


_OFFICIAL_DIRECT = NetworkConfig(
    trunk_stride=1,
    width=64,
    branch_widths=(64, 128, 256),
    bottleneck_cells=8,
    refine_dilations=(1, 2, 4, 8, 16, 1),
    attention_reduction=16,
    mask_reduction=1,
    attention_convolutions=2,
    refine_kernel=3,
    skip="concat-wide",
    head="vgg19",
    image_range="signed",
    padding="reflect",
    align_corners=True,
    cell_bias=False,
    attention_bias=False,
    map_bias=False,
    separator_on="hidden",
    coarse_residual=False,
    output_hidden=True,
    output_scale=1.0,
    refine_tanh=False,
    noise_map=False,
)

PRESETS: dict[str, NetworkConfig] = {
    "compact": NetworkConfig(background_gain=True, bottleneck_cells=8, refine_dilations=(1, 2, 4, 1, 2, 1)),
    "base": NetworkConfig(
        background_gain=True,
        trunk_stride=2,
        width=96,
        head_levels=4,
        branch_widths=(96, 128, 192),
        bottleneck_cells=8,
        refine_dilations=(1, 2, 4, 8, 1, 1),
        attention_convolutions=2,
        refine_kernel=3,
        skip="concat",
    ),
    "paper": NetworkConfig(
        trunk_stride=1,
        branch_widths=(64, 128, 256),
        bottleneck_cells=8,
        refine_dilations=(1, 1, 1, 1, 1, 1),
        attention_reduction=16,
        mask_reduction=1,
        attention_convolutions=2,
        refine_kernel=3,
        skip="concat-wide",
        head="vgg19",
        imagenet_range=True,
    ),
    "official-reflection": replace(
        _OFFICIAL_DIRECT,
        coarse_residual=True,
        noise_residual=True,
        refine_tanh=True,
        noise_map=True,
        map_normalised=True,
    ),
    "official-rain": _OFFICIAL_DIRECT,
    "official-haze": _OFFICIAL_DIRECT,
}
"""Ready-made configurations by name: `compact` is the shipped models', `base` is wider, `paper` is figure 2 with the
map (Eq. 9) for every task, and `official-*` are what the authors released (see `official`)."""

_WITHOUT_GAIN: dict[str, Any] = {"background_gain": False}
_NO_NOISE: dict[str, Any] = {**_WITHOUT_GAIN, "noise_branch": False, "noise_map": False, "noise_in_source": False}
ABLATIONS: dict[str, dict[str, Any]] = {
    "Base": {**_NO_NOISE, "cells": "plain"},
    "RDMC": _NO_NOISE,
    "R-RDMC": {**_WITHOUT_GAIN, "noise_in_source": False},
    "DMGN": _WITHOUT_GAIN,
}
"""Table I's variants as changes of any preset; its Coarse is the coarse background of DMGN."""
