"""Streak layers from sparse drops, smeared along the direction of fall."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

__all__ = ["RainLayers", "streak_layer"]

# Up to so many pixels, over images and layers, are rendered in one go; what is more, layer by layer.
_AT_ONCE = 2**24
# Side of the windows in which a large layer is rendered: a product of small primes, for the FFT.
_TRANSFORM = 1280


@dataclass(frozen=True, kw_only=True)
class RainLayers:
    """Parameters of K superimposed streak layers for N images; (N, K) float tensors.

    Attributes
    ----------
    mean : tensor
        Expected mean of the layer, in units of the image; 0 switches the layer off.
    angle : tensor
        Direction of fall from the vertical, in radians.
    length, width : tensor
        Length of a streak and full width at half maximum across it, in pixels.
    density : tensor
        Drops per pixel.
    """

    mean: Tensor
    angle: Tensor
    length: Tensor
    width: Tensor
    density: Tensor


def streak_layer(layers: RainLayers, size: tuple[int, int], generator: Generator) -> Tensor:
    """Render the sum of the layers' streaks.

    Each drop is a point of random brightness; convolved with a line of the layer's length and a
    gaussian profile across, it becomes a streak. The convolution is periodic, which leaves no border
    effect. Large pictures are rendered layer by layer and window by window: beside the result, the
    drops of one layer are all that is held at full size.

    Parameters
    ----------
    layers : RainLayers
        N images of K layers, on the device where the work is done.
    size : (H, W)
    generator : torch.Generator
        Places the drops.

    Returns
    -------
    (N, 1, H, W) float32 tensor, >= 0
    """
    n, k = layers.mean.shape
    if n * k * size[0] * size[1] <= _AT_ONCE:
        drops = _drops(layers.density, size, generator, generator)
        return _smeared(drops, layers).sum(dim=1, keepdim=True)
    # The same numbers as at once: first all positions, then all brightnesses.
    positions = torch.Generator(device=generator.device)
    positions.set_state(generator.get_state())
    for _ in range(n * k):
        torch.rand(size, generator=generator, dtype=torch.float32, device=generator.device)
    streaks = torch.zeros((n, 1, *size), dtype=torch.float32, device=layers.mean.device)
    for image in range(n):
        for layer in range(k):
            at = (slice(image, image + 1), slice(layer, layer + 1))
            one = RainLayers(**{name: value[at] for name, value in vars(layers).items()})
            drops = _drops(one.density, size, positions, generator)
            if one.mean.item() > 0:
                _add_smeared(streaks[image, 0], drops[0, 0], one)
    return streaks


def _drops(density: Tensor, size: tuple[int, int], positions: Generator, brightnesses: Generator) -> Tensor:
    """Return (N, K, H, W) points of random brightness, on the density's device."""
    shape = (*density.shape, *size)
    chance = torch.rand(shape, generator=positions, dtype=torch.float32, device=positions.device)
    brightness = torch.rand(shape, generator=brightnesses, dtype=torch.float32, device=brightnesses.device)
    # Squared: few bright streaks among many faint ones. Its mean is 1/3.
    present = chance.to(density.device) < density[:, :, None, None]
    return brightness.to(density.device).square_().mul_(present)


def _smeared(drops: Tensor, layers: RainLayers) -> Tensor:
    """Turn (N, K, H, W) drops into streaks, periodically."""
    size = (drops.shape[2], drops.shape[3])
    line = _line(layers, _centred(size[0], drops.device), _centred(size[1], drops.device))
    spectrum = torch.fft.rfft2(drops) * torch.fft.rfft2(line)
    streaks: Tensor = torch.fft.irfft2(spectrum * _gain(layers), s=size)
    return streaks.clamp_min_(0)


def _add_smeared(streaks: Tensor, drops: Tensor, layer: RainLayers) -> None:
    """Add one layer's (H, W) drops, as streaks, window by window; the same sum as `_smeared`."""
    h, w = drops.shape
    # Beyond this the line is below a millionth of its middle.
    reach = math.ceil(layer.length.item() / 2 + 7 + 2.3 * layer.width.item())
    rows, columns = (min(_TRANSFORM - 2 * reach, side) for side in (h, w))
    size = (rows + 2 * reach, columns + 2 * reach)
    line = _line(layer, _centred(size[0], drops.device), _centred(size[1], drops.device))
    spectrum = torch.fft.rfft2(line) * _gain(layer)
    for top in range(0, h, rows):
        y = torch.arange(top - reach, top + rows + reach, device=drops.device) % h
        for left in range(0, w, columns):
            x = torch.arange(left - reach, left + columns + reach, device=drops.device) % w
            window = torch.fft.irfft2(torch.fft.rfft2(drops[y[:, None], x]) * spectrum[0, 0], s=size)
            target = streaks[top : top + rows, left : left + columns]
            inner = window[reach : reach + target.shape[0], reach : reach + target.shape[1]]
            target += inner.clamp_min(0)


def _line(layers: RainLayers, dy: Tensor, dx: Tensor) -> Tensor:
    """Return each layer's streak of sum 1, (N, K, H, W), over pixel offsets (H,) and (W,)."""
    angle, length, width = (v[:, :, None, None] for v in (layers.angle, layers.length, layers.width))
    dy = dy[:, None]
    along = dy * torch.cos(angle) + dx * torch.sin(angle)
    across = dx * torch.cos(angle) - dy * torch.sin(angle)
    sigma = width / (2 * math.sqrt(2 * math.log(2)))
    # Ends fade over two pixels: a hard end would ring on the pixel grid.
    line = torch.sigmoid((length / 2 - along.abs()) * 2) * torch.exp(-0.5 * (across / sigma) ** 2)
    result: Tensor = line / line.sum(dim=(-2, -1), keepdim=True)
    return result


def _gain(layers: RainLayers) -> Tensor:
    # The expected mean of the smeared drops is density / 3.
    return (layers.mean * 3 / layers.density)[:, :, None, None]


def _centred(size: int, device: torch.device) -> Tensor:
    i = torch.arange(size, device=device, dtype=torch.float32)
    return torch.where(i < size / 2, i, i - size)
