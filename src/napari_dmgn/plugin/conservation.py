"""Conservation check: what of the input neither the background nor the noise accounts for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["balance", "conservation", "residual", "sentence"]

_BLOCK = 1 << 20  # pixels


def residual(image: NDArray[Any], background: NDArray[Any], noise: NDArray[Any], *, rgb: bool) -> NDArray[np.float32]:
    """Subtract background and noise from the input; the mean over colours, NaN and infinities as 0.

    Parameters
    ----------
    image, background : (..., H, W) or (..., H, W, 3 or 4) arrays in the same units
    noise : likewise, without alpha
    rgb : whether the last axis is colours

    Returns
    -------
    (..., H, W) float32 array in the units of the image
    """
    left = np.empty(noise.shape[:-1] if rgb else noise.shape, np.float32)
    for place in _blocks(left.shape):
        left[place] = _difference(image[place], background[place], noise[place], rgb)
    return left


def balance(
    image: NDArray[Any],
    background: NDArray[Any],
    noise: NDArray[Any],
    *,
    rgb: bool,
    left: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Sum up frames: intensities of input, background and noise, and the residual; balances add up.

    Parameters
    ----------
    image, background, noise, rgb : as in `residual`
    left : the residual, where it is there already
    """
    colours = slice(None, 3) if rgb else slice(None)
    total = dict.fromkeys(("values", "input", "background", "noise", "absolute", "largest"), 0.0)
    for place in _blocks(noise.shape[:-1] if rgb else noise.shape):
        one, two, three = image[place], background[place], noise[place]
        rest = _difference(one, two, three, rgb) if left is None else left[place]
        total["values"] += rest.size
        for name, values in (("input", one), ("background", two), ("noise", three)):
            total[name] += _sum(values[..., colours], rest.size)
        total["absolute"] += float(np.abs(rest).sum(dtype=np.float64))
        total["largest"] = max(total["largest"], float(np.abs(rest).max(initial=0)))
    return total


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Cut frames (..., H, W) into blocks of rows: a large picture is not there again in float64."""
    height, width = shape[-2:]
    rows = max(1, _BLOCK // max(width, 1))
    for frame in np.ndindex(*shape[:-2]):
        for top in range(0, height, rows):
            yield (*frame, slice(top, top + rows))


def _difference(image: NDArray[Any], background: NDArray[Any], noise: NDArray[Any], rgb: bool) -> NDArray[np.float32]:
    if rgb:
        image, background = image[..., :3], background[..., :3]
    # float64: uint8 would wrap, and float32 drops the last digits of 32-bit integers.
    with np.errstate(invalid="ignore", over="ignore"):
        left: NDArray[np.float64] = image.astype(np.float64) - background - noise
    left[~np.isfinite(left)] = 0
    return np.asarray(left.mean(axis=-1) if rgb else left, np.float32)


def conservation(balances: Iterable[Mapping[str, float]], span: float) -> dict[str, float]:
    """Join the balances of all frames.

    Parameters
    ----------
    balances : what `balance` gives
    span : intensities between the network's 0 and 1

    Returns
    -------
    dict
        Means of input, background and noise in the image's units, mean and greatest absolute residual, and
        the mean residual as a share of the intensity range.
    """
    found = list(balances)
    values = sum(b["values"] for b in found) or 1.0
    means = {key: sum(b[key] for b in found) / values for key in ("input", "background", "noise", "absolute")}
    return {
        "mean_input": means["input"],
        "mean_background": means["background"],
        "mean_noise": means["noise"],
        "mean_absolute_residual": means["absolute"],
        "largest_residual": max((b["largest"] for b in found), default=0.0),
        "residual_share": means["absolute"] / span if span else 0.0,
    }


def sentence(found: Mapping[str, float]) -> str:
    """Put the check into words."""
    rest = found["mean_input"] - found["mean_background"] - found["mean_noise"]
    return (
        f"Means: input {found['mean_input']:.3g} = background {found['mean_background']:.3g} "
        f"+ noise {found['mean_noise']:.3g} {'−' if rest < 0 else '+'} rest {abs(rest):.3g}. "
        f"|rest| is {found['mean_absolute_residual']:.2g} on average ({found['residual_share']:.1%} of the range), "
        f"{found['largest_residual']:.3g} at most."
    )


def _sum(values: NDArray[Any], pixels: int) -> float:
    """Sum over pixels of the mean over colours; what is not finite counts as 0."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values, 0)
    return float(values.sum(dtype=np.float64)) * pixels / max(values.size, 1)
