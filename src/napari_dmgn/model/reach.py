"""Which input pixels an output pixel depends on: intervals followed backwards through the network.

Along one axis, the outputs first..last of an operation depend on an interval of its inputs. Followed
through every operation, the interval is exact; where paths join, the hull of theirs is taken. Whole
images, which the attention's averages see by design, are not counted. An enlargement with its
corners aligned drifts against this grid over a large image; it is taken for one that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dmgn.model.config import NetworkConfig

__all__ = ["VGG_CHANNELS", "VGG_CONVOLUTIONS", "receptive_radius"]

Interval = tuple[int, int]

VGG_CONVOLUTIONS = (2, 2, 4, 4, 1)
"""VGG-19's convolutions at each resolution, up to the last whose features are read."""
VGG_CHANNELS = (64, 128, 256, 512, 512)
"""Their channels; the features read are those of the first at each resolution."""


def receptive_radius(config: NetworkConfig) -> int:
    """Return how many pixels away an input pixel may lie that influences an output pixel."""
    radius = 0
    # The grids repeat after one position of the coarsest; between its positions the reach differs.
    for position in range(config.stride // config.trunk_stride):
        first, last = _image(config, (position, position))
        radius = max(radius, position - first, last - position)
    # From the far end of one trunk position to the far end of another.
    return (radius + 1) * config.trunk_stride - 1


def _image(config: NetworkConfig, out: Interval) -> Interval:
    """What the outputs need of the image, both in positions of the trunk (pixel-unshuffled)."""
    first, *others = (2 * dilation for dilation in config.refine_dilations)
    # Into the first refining cell lead its source E and the noise distribution map (Eq. 6 and 10).
    longest = max(first + config.refine_kernel // 2, config.attention_convolutions)
    features = _wider(out, sum(others) + longest)  # F(R) and F(B_coarse)
    layers = _head(config, features)  # R and B_coarse
    separated = _branch(config, layers)  # F_b and F_r
    return _head(config, _wider(separated, config.attention_convolutions))


def _head(config: NetworkConfig, out: Interval) -> Interval:
    if config.head == "vgg19":
        return _hypercolumn(out)
    level = _wider(out, 1)  # the last convolution
    stem = level
    for steps in range(1, config.head_levels):
        level = _before_enlarging(level)
        finest = level
        for _ in range(steps):
            finest = _before_halving(finest)
        stem = _hull(stem, finest)
    return _wider(stem, 1)


def _hypercolumn(out: Interval) -> Interval:
    mixed = _wider(out, 2)  # both mixing convolutions
    image = mixed
    for level in range(len(VGG_CONVOLUTIONS)):
        x = _wider(_before_enlarging(mixed, 2**level) if level else mixed, 1)  # the convolution behind the pooling
        for convolutions in reversed(VGG_CONVOLUTIONS[:level]):
            x = _wider((2 * x[0], 2 * x[1] + 1), convolutions)  # a pooling of 2x2, and what leads to it
        image = _hull(image, x)
    return image


def _branch(config: NetworkConfig, out: Interval) -> Interval:
    x = _wider(out, 1)  # the last convolution
    skips = []
    for _ in config.branch_widths[1:]:
        x = _wider(x, 2 + {"add": 0, "concat": 1, "concat-wide": 2}[config.skip])  # a cell, and what merges
        skips.append(x)
        x = _before_enlarging(x)
    x = _wider(x, 2 * config.bottleneck_cells)
    for skip in reversed(skips):
        x = _wider(_hull(_before_halving(x), skip), 2)  # a cell
    return x


def _wider(x: Interval, reach: int) -> Interval:
    """Through convolutions that reach so many positions to each side."""
    return x[0] - reach, x[1] + reach


def _before_halving(x: Interval) -> Interval:
    """Through a 3x3 convolution of stride 2: position i reads 2 i - 1 to 2 i + 1."""
    return 2 * x[0] - 1, 2 * x[1] + 1


def _before_enlarging(x: Interval, factor: int = 2) -> Interval:
    """Through a bilinear enlargement: position i reads the two around (i + 1/2) / factor - 1/2."""
    return (2 * x[0] + 1 - factor) // (2 * factor), (2 * x[1] + 1 - factor) // (2 * factor) + 1


def _hull(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])
