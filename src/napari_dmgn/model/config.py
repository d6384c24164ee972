"""The network's numbers, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from napari_dmgn.model.reach import receptive_radius

__all__ = ["PRESETS", "NetworkConfig"]


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
    """How a branch joins its skip connections: "add", or "concat" and a 3x3 convolution (paper)."""

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
            _check(name, getattr(self, name), _is_count, "an integer of at least 1")
        for name in ("branch_widths", "refine_dilations"):
            _check(
                name,
                getattr(self, name),
                lambda v: len(v) > 0 and all(_is_count(i) for i in v),
                "a list of integers of at least 1",
            )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("mask_alpha", "mask_decay"):
            _check(name, getattr(self, name), lambda v: 0 <= v <= 1, "a number in [0, 1]")
        _check("refine_kernel", self.refine_kernel, lambda v: v in (1, 3), "1 or 3")
        _check("skip", self.skip, lambda v: v in ("add", "concat"), '"add" or "concat"')
        _check(
            "attention_reduction",
            self.attention_reduction,
            lambda v: _is_count(v) and v <= self.width,
            f"an integer from 1 to the width ({self.width})",
        )

    @property
    def stride(self) -> int:
        """Input pixels per position of the network's coarsest grid; inputs are padded to a multiple.

        The coarsest grid is that of a branch's bottleneck, of the head's last level or of the
        attention's stride-4 convolution (Eq. 7), whichever is coarser.
        """
        steps: int = max(2 ** (len(self.branch_widths) - 1), 2 ** (self.head_levels - 1), 4)
        return self.trunk_stride * steps

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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check(name: str, value: Any, good: Any, wanted: str) -> None:
    try:
        fine = bool(good(value))
    except TypeError:
        fine = False
    if not fine:
        raise ValueError(f"network setting {name} is {value!r}; wanted {wanted}")


PRESETS: dict[str, NetworkConfig] = {"compact": NetworkConfig()}
"""Ready-made configurations by name."""
