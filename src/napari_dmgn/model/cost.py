"""What a network costs: parameters and multiplications, worked out from its settings, without torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from napari_dmgn.model.bilinear import COLUMNS, ROWS, bands, samples_read
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.reach import VGG_CHANNELS, VGG_CONVOLUTIONS

__all__ = ["Cost", "cost"]

Size = tuple[int, int]
IMAGE_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Numbers of one network at one size of image.

    Attributes
    ----------
    parameters : int
        Weights and biases, frozen ones included.
    macs : int
        Multiplications, each with an addition, of all convolutions, linear layers and matrix products
        for one image, padded to the network's working size; those done, not those of the formulas.
    plain_macs : int
        The same if the hypercolumn of VGG-19 were built at full size, as the paper has it; equal to
        `macs` for other heads.
    """

    parameters: int
    macs: int
    plain_macs: int


class _Tally:
    """Adds up layers."""

    def __init__(self) -> None:
        self.parameters = 0
        self.macs = 0

    def conv(
        self, inputs: int, outputs: int, size: Size, *, kernel: int = 3, bias: bool = True, groups: int = 1,
        passes: int = 1,
    ) -> None:  # fmt: skip
        """Count a convolution whose output has `size`, used `passes` times."""
        weights = outputs * inputs // groups * kernel**2
        self.parameters += weights + (outputs if bias else 0)
        self.macs += passes * weights * size[0] * size[1]


def cost(config: NetworkConfig, height: int, width: int) -> Cost:
    """Return what a network costs on an image of `height` x `width` pixels."""
    height, width = config.working_size(height, width)
    size = height // config.trunk_stride, width // config.trunk_stride
    c, image = config.width, IMAGE_CHANNELS * config.trunk_stride**2
    passes = 2 + (config.noise_map or config.noise_in_source)  # of the head: I, B_coarse and, if used, R
    tally = _Tally()
    plain = _head(tally, config, image, size, passes)
    _attention(tally, config, c, c if config.separator_on == "features" else 1, size, bias=True)
    for _ in range(1 + config.noise_branch):
        _branch(tally, config, image, size)
    if config.background_gain:
        tally.conv(config.branch_widths[0], image, size, kernel=1)
        tally.conv(c, image, size, kernel=1)
    _channel_attention(tally, config, size)
    if config.noise_map:
        _attention(tally, config, 2 * c, config.trunk_stride**2, size, bias=config.map_bias)
    tally.conv((2 + config.noise_in_source) * c, c, size, kernel=config.refine_kernel)
    for _ in config.refine_dilations:
        _cell(tally, config, c, size)
    tally.conv(c, c, size, kernel=1)
    tally.conv(c, image, size, kernel=1)
    return Cost(parameters=tally.parameters, macs=tally.macs, plain_macs=tally.macs + plain)


def _half(size: Size) -> Size:
    """Return the size behind a 3x3 convolution of stride 2."""
    return -(-size[0] // 2), -(-size[1] // 2)


def _head(tally: _Tally, config: NetworkConfig, image: int, size: Size, passes: int) -> int:
    """Count the feature head; return how many multiplications its plain form takes more."""
    c = config.width
    if config.head == "vgg19":
        return passes * _hypercolumn(tally, config, image, size, passes)
    tally.conv(image, c, size, passes=passes)
    level = size
    for i in range(config.head_levels):
        if i:
            level = _half(level)
            tally.conv(c, c, level, passes=passes)
        tally.conv(c, c, level, kernel=1, bias=i == 0, passes=passes)
    tally.conv(c, c, size, passes=passes)
    return 0


def _hypercolumn(tally: _Tally, config: NetworkConfig, image: int, size: Size, passes: int) -> int:
    c, before, level = config.width, image, size
    for k, (channels, count) in enumerate(zip(VGG_CHANNELS, VGG_CONVOLUTIONS, strict=True)):
        level = (size[0] >> k, size[1] >> k)  # a pooling of 2x2 before each level
        for _ in range(count):
            tally.conv(before, channels, level, passes=passes)
            before = channels
    columns = image + sum(VGG_CHANNELS)
    tally.parameters += 9 * columns * c + c + 9 * c * c + c  # the two mixing convolutions
    done = sum(_band(config, image, size, band) for band in bands(size[0], ROWS))
    tally.macs += passes * done
    return 9 * c * (columns + c) * size[0] * size[1] - done


def _band(config: NetworkConfig, image: int, size: Size, band: tuple[int, int]) -> int:
    """Count the mixing of one band of the hypercolumn, as `vgg.HypercolumnHead` does it."""
    (height, width), c = size, config.width
    above, below = max(band[0] - 1, 0), min(band[1] + 1, height)
    own = min(below + 1, height) - max(above - 1, 0)
    macs = width * 9 * c * (own * (image + VGG_CHANNELS[0]) + (below - above) * c)
    for k, channels in enumerate(VGG_CHANNELS[1:], start=1):
        small, small_width = height >> k, width >> k
        first, last = samples_read(above, below, small, height, config.padding)
        read = last - first
        macs += read * small_width * channels * 9 * c
        for left, right in bands(width, COLUMNS):
            begin, end = samples_read(left, right, small_width, width, config.padding)
            macs += (right - left) * 3 * (end - begin) * 3 * c * read
        macs += (below - above) * 3 * read * width * c
    return macs


def _attention(tally: _Tally, config: NetworkConfig, inputs: int, outputs: int, size: Size, *, bias: bool) -> None:
    c = config.width
    for i in range(config.attention_convolutions):
        tally.conv(inputs if i == 0 else c, c, size)
    tally.conv(c, c, size, kernel=1, bias=bias)
    tally.conv(c, outputs, size, kernel=1, bias=bias)


def _cell(tally: _Tally, config: NetworkConfig, channels: int, size: Size) -> None:
    for _ in range(2):
        tally.conv(channels, channels, size, bias=config.cell_bias)
    if config.cells == "masking":
        hidden = max(channels // config.mask_reduction, 1)
        tally.conv(channels, hidden, size, kernel=1)
        tally.conv(hidden, 1, size, kernel=1)


def _branch(tally: _Tally, config: NetworkConfig, image: int, size: Size) -> None:
    widths, wide = config.branch_widths, config.skip == "concat-wide"
    if config.width != widths[0]:
        tally.conv(config.width, widths[0], size, kernel=1)
    level = size
    for a, b in itertools.pairwise(widths):
        fine, level = level, _half(level)
        for _ in range(2):  # on the way down and on the way up
            _cell(tally, config, a, fine)
        tally.conv(a, b, level, bias=config.cell_bias)
        if not wide:
            tally.conv(b, a, level, kernel=1)
        if config.skip != "add":
            tally.conv(a + (b if wide else a), a, fine)
        if wide:
            tally.conv(a, a, fine)
    for _ in range(config.bottleneck_cells):
        _cell(tally, config, widths[-1], level)
    if config.output_hidden:
        tally.conv(widths[0], widths[0], size)
    tally.conv(widths[0], image, size, kernel=1 if config.output_hidden else 3)


def _channel_attention(tally: _Tally, config: NetworkConfig, size: Size) -> None:
    c, hidden, bias = config.width, max(config.width // config.attention_reduction, 1), config.attention_bias
    passes = 1 + config.noise_in_source  # F_b and F(R)
    coarse = (size[0] - 3) // 4 + 1, (size[1] - 3) // 4 + 1
    tally.conv(c, c, coarse, kernel=5, groups=c, bias=bias, passes=passes)
    tally.parameters += c  # w of Eq. 7
    tally.conv(c, hidden, (1, 1), kernel=1, bias=bias, passes=passes)
    tally.conv(hidden, c, (1, 1), kernel=1, bias=bias, passes=passes)
