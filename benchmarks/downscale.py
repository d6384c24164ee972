"""What it brings that the network sees a smaller copy of a large photograph (`restore(..., downscale=N)`).

    python benchmarks/downscale.py DIR --task reflection --side 1200 --factors 1 2 3 4

Every photograph of DIR, at least as large as `--side`, is shrunk to that shorter side. Haze is put on it at this
size, where its depth is as large as the picture. A reflection, of the photograph before it, is put on a copy of 400
pixels, and what it changes is enlarged: it is as blurred as in a small picture, over as much of the scene. Prints the
mean PSNR (all channels pooled) to the clean photographs by part and factor, as a Markdown table; at most 50 dB count.
"clean" are the photographs themselves.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import napari_dmgn as dmgn
from napari_dmgn.data.pictures import find_pictures
from napari_dmgn.metrics import psnr

PARTS = {"haze": ("outdoor", "medium"), "reflection": ("linear", "gamma")}
COPY = 400  # pixels of the shorter side at which reflections are made
BEST = 50.0  # dB

Pixels = NDArray[np.uint8]


def shrunk(picture: Pixels, side: int) -> Pixels:
    """Return a picture whose shorter side is `side`."""
    factor = side / min(picture.shape[:2])
    height, width = (round(n * factor) for n in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def reflected(clean: Pixels, other: Pixels, part: str, seed: int) -> Pixels:
    """Return a picture in which another one is reflected as it would be in a small one."""
    small = shrunk(clean, COPY)
    noisy = dmgn.synthesize(small, "reflection", seed=seed, strength=part, layer=other).input
    change = noisy - small.astype(np.float32)
    height, width = clean.shape[:2]
    planes = [Image.fromarray(change[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
    return np.rint(np.clip(clean + np.stack(planes, axis=-1), 0, 255)).astype(np.uint8)


def pairs(photographs: list[Pixels], task: str, part: str) -> list[tuple[Pixels, Pixels]]:
    """Return (input, background) of every photograph."""
    if part == "clean":
        return [(clean, clean) for clean in photographs]
    if task == "haze":
        return [(dmgn.synthesize(p, task, seed=i, strength=part).input, p) for i, p in enumerate(photographs)]
    others = [shrunk(p, COPY) for p in photographs]
    return [(reflected(p, others[i - 1], part, i), p) for i, p in enumerate(photographs)]


def score(image: NDArray[Any], clean: Pixels) -> float:
    """Return decibels, at most `BEST`."""
    return min(BEST, psnr(image, clean, "haze-rgb"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--task", choices=PARTS, default="haze")
    parser.add_argument("--model", help="a model's name or file (default: the task's own)")
    parser.add_argument("--side", type=int, default=1200)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--ensemble", action="store_true", help="restore each mirrored, too")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # a model apart is trained for what its card says
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in find_pictures(args.folder)]
    photographs = [shrunk(picture, args.side) for picture in photographs if min(picture.shape[:2]) >= args.side]
    model = dmgn.load_model(args.model or args.task)
    settings = {"model": model, "ensemble": args.ensemble}
    print(f"{len(photographs)} photographs, shorter side {args.side} px, model {model.metadata.sha256[:8]}\n")
    print("| part | input | " + " | ".join(f"1/{n}" for n in args.factors) + " |")
    print("| --- " * (2 + len(args.factors)) + "|")
    for part in (*PARTS[args.task], "clean"):
        made = pairs(photographs, args.task, part)
        scores = [np.mean([score(noisy, clean) for noisy, clean in made])]
        for factor in args.factors:
            restored = [
                score(dmgn.restore(noisy, args.task, downscale=factor, **settings).background, clean)
                for noisy, clean in made
            ]
            scores.append(np.mean(restored))
        print(f"| {part} | " + " | ".join(f"{score:.2f}" for score in scores) + " |", flush=True)


if __name__ == "__main__":
    main()
