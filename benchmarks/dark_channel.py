"""Dehazing by the dark channel prior, the baseline that needs no training, beside the haze models.

    python benchmarks/dark_channel.py DIR                      # pairs, or a test set by its folder's name
    python benchmarks/dark_channel.py DIR --synthetic          # haze on the clean pictures of DIR
    python benchmarks/dark_channel.py DIR --model haze         # and a model beside it

Prints the Markdown report. He, Sun, Tang, "Single image haze removal using dark channel prior", 2011,
with the guided filter of the same authors, 2013, in place of the closed-form matting.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter

from napari_dmgn.evaluation import Method, benchmark_set, evaluate, synthetic_set

Floats = NDArray[np.float64]

PATCH = 15  # pixels a side, the paper's
OMEGA = 0.95  # share of the haze that is taken away (Eq. 12)
LEAST_TRANSMISSION = 0.1  # t_0 of Eq. 22
BRIGHTEST = 0.001  # share of the pixels that the airlight is sought among
RADIUS, SMOOTHNESS = 60, 1e-4  # of the guided filter


def dark_channel(image: Floats) -> Floats:
    """Return the least value over colours and patch of a (H, W, 3) image (Eq. 5)."""
    return np.asarray(minimum_filter(image.min(axis=2), size=PATCH, mode="nearest"))


def airlight(image: Floats, dark: Floats) -> Floats:
    """Return the colour of the haze: the brightest of the pixels with the brightest dark channel."""
    count = max(1, round(BRIGHTEST * dark.size))
    candidates = np.argpartition(dark.ravel(), -count)[-count:]
    colours = image.reshape(-1, 3)[candidates]
    return np.asarray(colours[colours.sum(axis=1).argmax()])


def guided_filter(guide: Floats, image: Floats, radius: int, smoothness: float) -> Floats:
    """Smooth a (H, W) image along the edges of a (H, W, 3) guide: a local linear model of its colours."""

    def mean(x: Floats) -> Floats:
        size = (2 * radius + 1, 2 * radius + 1) + (1,) * (x.ndim - 2)
        return np.asarray(uniform_filter(x, size=size, mode="reflect"))

    mean_guide, mean_image = mean(guide), mean(image)
    covariance = mean(guide * image[..., None]) - mean_guide * mean_image[..., None]
    products = mean(guide[..., :, None] * guide[..., None, :])
    spread = products - mean_guide[..., :, None] * mean_guide[..., None, :] + smoothness * np.eye(3)
    slope = np.linalg.solve(spread, covariance[..., None])[..., 0]
    offset = mean_image - (slope * mean_guide).sum(axis=2)
    return (mean(slope) * guide).sum(axis=2) + mean(offset)


def transmission(image: Floats, light: Floats) -> Floats:
    """Return how much of the scene shines through the haze, in [t_0, 1] (Eq. 12, refined)."""
    coarse = 1 - OMEGA * dark_channel(image / np.maximum(light, 1e-3))
    refined = guided_filter(image, coarse, RADIUS, SMOOTHNESS)
    return refined.clip(LEAST_TRANSMISSION, 1)


def dehaze(image: Floats) -> Floats:
    """Return the scene J = (I - A) / t + A (Eq. 22) of a (H, W, 3) image in [0, 1]."""
    light = airlight(image, dark_channel(image))
    return ((image - light) / transmission(image, light)[..., None] + light).clip(0, 1)


def run(picture: NDArray[Any]) -> NDArray[Any]:
    """Dehaze a uint8 or uint16 picture, or floats in [0, 1], into the same type."""
    if picture.dtype.kind == "f":
        return dehaze(picture.astype(np.float64)).astype(picture.dtype)
    top = np.iinfo(picture.dtype).max
    return np.rint(dehaze(picture / top) * top).astype(picture.dtype)


METHOD = Method(name="dark channel prior", task="haze", run=run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR")
    parser.add_argument("--synthetic", action="store_true", help="DIR holds clean pictures; haze is put on them")
    parser.add_argument("--parts", help="of the synthesis, thin,dense say (default: all)")
    parser.add_argument("--depth", help="folder of depth maps for the synthesis (default: random depth)")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="pairs to take of each part (default: all)")
    parser.add_argument("--model", action="append", default=[], help="a model to stand beside it")
    args = parser.parse_args()
    if args.synthetic:
        parts = args.parts.split(",") if args.parts else None
        data = synthetic_set(args.data, "haze", parts=parts, pairs=args.pairs, seed=args.seed, depth=args.depth)
    else:
        data = benchmark_set(args.data, task="haze")
    print(evaluate(data, [METHOD, *args.model], limit=args.limit).to_markdown())


if __name__ == "__main__":
    main()
