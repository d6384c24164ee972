"""A network that continues a smaller one: what is added does next to nothing at first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.network import DMGN

__all__ = ["can_grow", "grow"]

# Of a further cell's H, whose convolutions are drawn as in a new network. At 0 its ReLU would be dead.
_FAINT = 0.1


def can_grow(small: NetworkConfig, large: NetworkConfig) -> bool:
    """Tell whether `grow` makes the one network of the other.

    The larger one may have further cells in the bottleneck and behind those of the refiner, and gains.
    """
    first = large.refine_dilations[: len(small.refine_dilations)]
    as_deep = small.bottleneck_cells == large.bottleneck_cells and small.refine_dilations == large.refine_dilations
    return (
        (as_deep or large.cells == "masking")  # which adds to what comes in; plain cells replace it
        and small.bottleneck_cells <= large.bottleneck_cells
        and small.background_gain <= large.background_gain
        and small
        == replace(
            large,
            bottleneck_cells=small.bottleneck_cells,
            refine_dilations=first,
            background_gain=small.background_gain,
        )
    )


@torch.no_grad()
def grow(small: DMGN, large: DMGN) -> None:
    """Give a network the weights of a smaller one: nearly the same function, and the same where only gains are added.

    Gains become 0. Further cells keep what they were drawn as, but for the last convolution, whose weights are
    multiplied by 0.1.

    Parameters
    ----------
    small : DMGN
    large : DMGN
        With weights as they are drawn for a new network; changed in place.

    Raises
    ------
    ValueError
        The larger network differs in anything but what `can_grow` allows.
    """
    if not can_grow(small.config, large.config):
        raise ValueError(
            "a network cannot continue one of another kind; wanted the same settings, but for background_gain, and, of "
            "masking cells, for more bottleneck_cells and further refine_dilations"
        )
    known = small.state_dict()
    state: dict[str, Tensor] = {}
    for name, drawn in large.state_dict().items():
        if name in known:
            state[name] = known[name]
        elif ".gain." in name:
            state[name] = torch.zeros_like(drawn)
        else:
            state[name] = drawn * _FAINT if name.endswith(".conv2.weight") else drawn
    large.load_state_dict(state)
