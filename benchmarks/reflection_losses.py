"""What perceptual and adversarial losses, and a wider network, bring to reflection removal, at equal steps.

    python benchmarks/reflection_losses.py --data DIR --features FILE --runs DIR
    python benchmarks/reflection_losses.py --data DIR --runs DIR --rows compact base --steps 300 --crop 96

The rows of losses go on from the shipped model: "pixel" with the losses it was made with, "perceptual" with
Eq. 12 too at the paper's weights, "slight" at a tenth of them, "adversarial" with Eq. 12-14. "compact" and "base"
are those presets from random weights, with the losses of "pixel". All see the same crops under the same
reflections. --features is a file of VGG-19 or of a distillation. Finished trainings are kept in --runs and not
repeated. Prints a Markdown table: PSNR and SSIM (reflection-rgb) on held-out pictures, central squares, 8-bit, the
same pictures without reflections to themselves, the distance of the features, and seconds of training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_dmgn import load_model, metrics, restore
from napari_dmgn.evaluation import clean_set, synthetic_set
from napari_dmgn.losses import perceptual
from napari_dmgn.perceptual import load_features
from napari_dmgn.training import TrainConfig, iter_train

START = {"start": "reflection", "learning_rate": 4e-4}
ROWS: dict[str, dict[str, Any]] = {
    "pixel": START,
    "slight": {**START, "losses": {"perceptual": 0.01, "coarse_perceptual": 0.005}},
    "perceptual": {**START, "losses": {"perceptual": 0.1, "coarse_perceptual": 0.05}},
    "adversarial": {**START, "losses": {"perceptual": 0.1, "coarse_perceptual": 0.05, "adversarial": 0.01}},
    "compact": {"preset": "compact"},
    "base": {"preset": "base"},
}  # fmt: skip
PROTOCOL = "reflection-rgb"
PARTS = ("linear", "gamma", "screen", "ghost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean pictures")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the trainings and their scores")
    parser.add_argument("--features", help="features file")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["pixel", "slight", "perceptual", "adversarial"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--held-out", type=int, default=24, help="pictures that no row trains on")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--size", type=int, default=256, help="side of the central squares")
    args = parser.parse_args()
    found = {}
    for row in args.rows:
        found[row] = train_and_score(row, args)
        print_table(found, args)


def train_and_score(row: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one row, or go on with it, and score its model."""
    run = args.runs / row
    result = run / "scores.json"
    config = TrainConfig(
        task="reflection",
        data=str(args.data),
        run=str(run),
        optimiser="muon",
        features=args.features,
        upright=True,
        rescale=(0.4, 1.0),
        steps=args.steps,
        phases=((1.0, args.crop, args.batch),),
        charbonnier=(0.05, 0.03),
        ema=0.99,
        validation_pictures=args.held_out,
        validation_crop=args.size,
        validate_every=args.steps,
        **ROWS[row],
    )
    if not result.exists():
        seconds = 0.0
        for event in iter_train(config, resume=True):
            seconds = event.seconds
            if event.step % 100 == 0 or event.step == event.steps:
                print(f"{row}: {event.step}/{event.steps}, loss {event.loss:.4f}, {seconds:.0f} s",
                      file=sys.stderr, flush=True)  # fmt: skip
        scores = score(run / "model.safetensors", args)
        result.write_text(json.dumps({**scores, "seconds": seconds}))
    kept: dict[str, Any] = json.loads(result.read_text())
    return kept


@torch.inference_mode()
def score(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return PSNR and SSIM of input and result a recipe, PSNR of clean pictures to themselves, features' distances."""
    features = None if args.features is None else load_features(args.features)
    items = synthetic_set(args.data, "reflection", parts=PARTS, pairs=args.pairs, crop=args.size).items
    loaded = load_model(str(model))
    found: dict[str, list[tuple[float, ...]]] = {}
    for item in items:
        given, target = item.load()
        result = restore(given, task="reflection", model=loaded).background
        for kind, image in (("input", given), ("result", result)):
            scores = metrics.score(image, target, PROTOCOL)
            apart = 0.0 if features is None else float(perceptual(features(_tensor(image)), features(_tensor(target))))
            found.setdefault(f"{item.part} {kind}", []).append((scores["psnr"], scores["ssim"], apart))
    clean = [item.load()[0] for item in clean_set(args.data, crop=args.size).items[: args.held_out]]
    kept = []
    for picture in clean:
        result = restore(picture, task="reflection", model=loaded).background
        kept.append(metrics.psnr(result, picture, PROTOCOL))
    means = {name: [statistics.fmean(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return {"means": means, "clean": statistics.fmean(min(value, 60.0) for value in kept), "worst": min(kept)}


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


def print_table(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    print(f"\n{args.steps} steps of {args.batch} crops of {args.crop} px; {args.pairs} pairs, central {args.size} px\n")
    print("| row | " + " | ".join(PARTS) + " | all | features | clean, worst | seconds |")
    print("| --- |" + " --- |" * (len(PARTS) + 4))
    lines = [("input", next(iter(found.values())), "input"), *((row, made, "result") for row, made in found.items())]
    for name, made, kind in lines:
        rows = [made["means"][f"{part} {kind}"] for part in PARTS]
        rows.append([statistics.fmean(column) for column in zip(*rows, strict=True)])
        cells = [f"{psnr:.2f}, {ssim:.3f}" for psnr, ssim, _ in rows]
        cells.append(f"{rows[-1][2]:.3f}")
        if kind == "input":
            cells += ["", ""]
        else:
            cells += [f"{made['clean']:.1f}, {made['worst']:.1f}", f"{made['seconds']:.0f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
