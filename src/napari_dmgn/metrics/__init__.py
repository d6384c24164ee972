"""Image quality under named protocols; a number means nothing without its protocol's name.

`PROTOCOLS` says what each of them does. The same pair of images differs by more than a decibel
between two of them, so scores of different protocols are never compared.
"""

from napari_dmgn.metrics.colour import luma
from napari_dmgn.metrics.protocols import (
    PROTOCOL_OF_TASK,
    PROTOCOLS,
    Protocol,
    find_protocol,
    psnr,
    psnr_y,
    score,
    ssim,
    ssim_y,
)

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_OF_TASK",
    "Protocol",
    "find_protocol",
    "luma",
    "psnr",
    "psnr_y",
    "score",
    "ssim",
    "ssim_y",
]
