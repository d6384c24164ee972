"""The named protocols: what is done to a pair of images before and while it is scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.metrics.colour import as_unit, centre_of_16, check_bytes, check_image, luma_of_bytes, pooled
from napari_dmgn.metrics.similarity import gaussian_ssim, local_error, normalised_correlation, uniform_ssim

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_OF_TASK",
    "Protocol",
    "find_protocol",
    "psnr",
    "psnr_y",
    "score",
    "ssim",
    "ssim_y",
]

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a pair of images is scored."""

    name: str
    summary: str
    """The steps, in a line for reports."""
    planes: Callable[[Array], Floats]
    """Turns a checked image into the (H, W, C) floats that are compared."""
    peak: float
    """Value of white in `planes`; of the PSNR and of SSIM's constants."""
    similarity: Callable[[Floats, Floats, float], float]
    """SSIM of two `planes`."""
    channel_mean: bool = False
    """PSNR of each channel, then their mean, in place of the PSNR of the error of all channels."""
    reduce: Callable[[Floats], Floats] | None = None
    """What happens to `planes` before SSIM alone."""
    more: dict[str, Callable[[Floats, Floats], float]] = field(default_factory=dict)
    """Further scores of two `planes`, by name."""

    def compare(self, image: Array, target: Array) -> tuple[Floats, Floats]:
        """Return both images' planes, checked.

        Raises
        ------
        ValueError
            The shapes differ, or an image is not (H, W, 3) uint8 or floats in [0, 1].
        """
        for each in (image, target):
            check_image(each)
        if image.shape != target.shape:
            raise ValueError(f"images differ in shape: {image.shape} and {target.shape}")
        return self.planes(image), self.planes(target)

    def psnr_of(self, a: Floats, b: Floats) -> float:
        """Return the PSNR of two planes in dB, infinite for equal ones.

        Where it is the channels' mean and only some of them are equal, these count as if one pixel were off by
        one level of 255, or as the best of the others: infinite, they would hide what happened to the others.
        """
        errors = np.asarray(np.mean((a - b) ** 2, axis=(0, 1) if self.channel_mean else None))
        if self.channel_mean and errors.any():
            least = (self.peak / 255) ** 2 / (a.shape[0] * a.shape[1])
            errors[errors == 0] = min(least, errors[errors > 0].min())
        with np.errstate(divide="ignore"):
            return float(np.mean(10 * np.log10(self.peak**2 / errors)))

    def ssim_of(self, a: Floats, b: Floats) -> float:
        """Return the SSIM of two planes."""
        if self.reduce is not None:
            a, b = self.reduce(a), self.reduce(b)
        return self.similarity(a, b, self.peak)


def _bright(image: Array) -> Floats:
    return as_unit(image) * 255


def _cropped(image: Array) -> Floats:
    return as_unit(centre_of_16(image))


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="rain-y",
            summary="8-bit rounding; luma Y (16-235) of MATLAB's rgb2ycbcr; PSNR with peak 255; "
            "SSIM 11x11 gaussian, sigma 1.5, valid region",
            planes=luma_of_bytes,
            peak=255,
            similarity=gaussian_ssim,
        ),
        Protocol(
            name="haze-rgb",
            summary="RGB in [0, 1]; PSNR of the error over all channels; "
            "SSIM 11x11 gaussian, sigma 1.5, per channel, valid region",
            planes=as_unit,
            peak=1,
            similarity=gaussian_ssim,
        ),
        Protocol(
            name="haze-rgb-pooled-ssim",
            summary="as haze-rgb, SSIM after average pooling by max(1, round(min(height, width) / 256))",
            planes=as_unit,
            peak=1,
            similarity=gaussian_ssim,
            reduce=pooled,
        ),
        Protocol(
            name="reflection-rgb",
            summary="RGB in [0, 255]; PSNR per channel, then the mean (a channel that alone is equal: as one level "
            "off in one pixel); SSIM 7x7 uniform per channel; LMSE in windows of 20, 10 apart; NCC",
            planes=_bright,
            peak=255,
            similarity=uniform_ssim,
            channel_mean=True,
            more={"lmse": local_error, "ncc": normalised_correlation},
        ),
        Protocol(
            name="allinone-rgb",
            summary="RGB in [0, 1], centre crop to multiples of 16; PSNR of the error over all channels; "
            "SSIM 7x7 uniform per channel",
            planes=_cropped,
            peak=1,
            similarity=uniform_ssim,
        ),
    )
}
"""The protocols by name."""

PROTOCOL_OF_TASK = {"rain": "rain-y", "haze": "haze-rgb", "reflection": "reflection-rgb"}
"""What a task's scores are given in, unless a benchmark says otherwise."""


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises
    ------
    ValueError
        There is none.
    """
    if isinstance(name, str) and name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(str(name), PROTOCOLS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown protocol {name!r}{hint} (there are: {', '.join(PROTOCOLS)})")


def psnr(image: Array, target: Array, protocol: str) -> float:
    """Return the PSNR in dB of an image to its target; infinite for equal ones.

    Parameters
    ----------
    image, target : (H, W, 3) uint8, or floats in [0, 1]
    protocol : a key of `PROTOCOLS`

    Raises
    ------
    ValueError
        The shapes differ, an image or the protocol is not one of these, or the image is too small.
    """
    rules = find_protocol(protocol)
    return rules.psnr_of(*rules.compare(image, target))


def ssim(image: Array, target: Array, protocol: str) -> float:
    """Return the SSIM of an image to its target; 1 for equal ones. The arguments are those of `psnr`."""
    rules = find_protocol(protocol)
    return rules.ssim_of(*rules.compare(image, target))


def score(image: Array, target: Array, protocol: str) -> dict[str, float]:
    """Return all of a protocol's scores of an image: "psnr", "ssim", and for reflections "lmse" and "ncc".

    The arguments and errors are those of `psnr`.
    """
    rules = find_protocol(protocol)
    a, b = rules.compare(image, target)
    scores = {"psnr": rules.psnr_of(a, b), "ssim": rules.ssim_of(a, b)}
    return scores | {name: function(a, b) for name, function in rules.more.items()}


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the PSNR in dB between two (H, W, 3) uint8 images, protocol `rain-y`."""
    check_bytes(image)
    check_bytes(reference)
    return psnr(image, reference, "rain-y")


def ssim_y(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the SSIM between two (H, W, 3) uint8 images of at least 11x11, protocol `rain-y`."""
    check_bytes(image)
    check_bytes(reference)
    return ssim(image, reference, "rain-y")
