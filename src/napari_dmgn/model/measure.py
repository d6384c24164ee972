"""The receptive field as gradients show it, beside the one worked out in `reach`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.network import DMGN
from napari_dmgn.model.reach import VGG_CHANNELS, receptive_radius
from napari_dmgn.model.vgg import HypercolumnHead

__all__ = ["measured_radius"]

_CHANNELS = 4


def measured_radius(config: NetworkConfig, *, axis: int = 0) -> int:
    """Return how many pixels along an axis an input pixel may lie that some output has a gradient to.

    A network of the same assembly and few channels stands for the whole one: what reads what does
    not depend on their number. All its weights are positive and its input is a ramp, up and down,
    so that nothing cancels or falls silent and VGG's poolings hand on their farther end. The
    attention's gains, which see the whole image by design, are held fixed.

    Parameters
    ----------
    config : NetworkConfig
    axis : int
        0 measures along the height, 1 along the width.
    """
    network = _network(config)
    stride = config.stride
    length = 2 * (receptive_radius(config) + 2 * stride) // stride * stride
    across = config.working_size(stride, stride)[0]
    ramp = torch.linspace(0, 1, length, dtype=torch.float64)[:, None].expand(length, across)
    up = (ramp if axis == 0 else ramp.T).expand(1, 3, -1, -1)
    return max(_reach(network, up, axis), _reach(network, up.flip(2 + axis), axis))


def _reach(network: DMGN, image: Tensor, axis: int) -> int:
    image = image.clone().requires_grad_(True)
    outputs = _outputs(network, image)
    stride, trunk = network.config.stride, network.config.trunk_stride
    middle = image.shape[2 + axis] // 2
    farthest = 0
    # The grids repeat after one stride; the pixels of one position of the trunk read the same.
    for centre in range(middle - stride // 2, middle + stride // 2):
        if centre % trunk not in (0, trunk - 1):
            continue
        total = torch.stack([out.select(2 + axis, centre).sum() for out in outputs]).sum()
        (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1, 3 - axis)).nonzero()
        farthest = max(farthest, centre - int(seen.min()), int(seen.max()) - centre)
    return farthest


def _network(config: NetworkConfig) -> DMGN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DMGN(_narrow(config))
        if isinstance(network.head, HypercolumnHead):
            network.head = HypercolumnHead(
                image_channels=network.head.image_channels,
                channels=_CHANNELS,
                padding=config.padding,
                unit=network.head.unit,
                imagenet=network.head.imagenet,
                vgg_channels=(_CHANNELS,) * len(VGG_CHANNELS),
            )
    for parameter in network.parameters():
        parameter.data.abs_()
        if parameter.ndim == 4 and not parameter.data.any():  # gains start at 0
            parameter.data.fill_(1)
        if parameter.ndim == 4:  # a mean of the inputs: values neither vanish nor grow from layer to layer
            parameter.data /= parameter.data.sum(dim=(1, 2, 3), keepdim=True)
    # Images come to the head with zero in their middle, or ImageNet's mean; no value may be negative.
    first = network.head.vgg.convs[0] if isinstance(network.head, HypercolumnHead) else network.head.stem
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.bias.data.fill_(3.0)
    # A cell doubles its input at most; a dozen of them would saturate what comes behind them.
    for part in (network.background_branch, network.noise_branch, network.refiner):
        if part is not None:
            part.out.weight.data /= 1 << 12
    return network.double()


def _narrow(config: NetworkConfig) -> NetworkConfig:
    return replace(
        config,
        width=_CHANNELS,
        branch_widths=(_CHANNELS,) * len(config.branch_widths),
        attention_reduction=1,
        mask_reduction=1,
        map_normalised=False,  # the whole image's mean and maximum, too
    )


def _outputs(network: DMGN, image: Tensor) -> list[Tensor]:
    separated = network.separate(image)
    gains = network.attention(network.responses(separated).double().mean(dim=(2, 3)))
    out = network.refine(separated, tuple(g.detach() for g in gains))
    return [out.background, out.coarse, out.noise, out.noise_map]
