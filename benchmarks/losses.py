"""What perceptual and adversarial losses, and a wider network, bring to a task, at equal steps.

    python benchmarks/losses.py --data DIR --features FILE --runs DIR
    python benchmarks/losses.py --data DIR --features FILE --runs DIR --task haze --depth DIR
    python benchmarks/losses.py --data DIR --runs DIR --rows compact base --steps 300 --crop 96

The rows of losses go on from the task's shipped model: "pixel" with the default losses, "perceptual" with Eq. 12
too at the paper's weights, "slight" at a tenth of them, "adversarial" with Eq. 12-14. "compact" and "base" are
those presets from random weights, with the losses of "pixel". All see the same crops under the same noise.
--features is a file of VGG-19 or of a distillation. Finished trainings and their scores are kept in --runs and not
repeated: other --pairs, --size, --held-out or --features want another folder. Prints a
Markdown table: PSNR and SSIM under the task's protocol on held-out pictures, central squares, 8-bit; the mean
distance of the features; PSNR of clean pictures to themselves, mean and worst; and seconds of training.
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

ROWS: dict[str, dict[str, Any]] = {
    "pixel": {},
    "slight": {"losses": {"perceptual": 0.01, "coarse_perceptual": 0.005}},
    "perceptual": {"losses": {"perceptual": 0.1, "coarse_perceptual": 0.05}},
    "adversarial": {"losses": {"perceptual": 0.1, "coarse_perceptual": 0.05, "adversarial": 0.01}},
    "compact": {"preset": "compact"},
    "base": {"preset": "base"},
}
PARTS = {
    "rain": ("light", "heavy", "veiled", "photo"),
    "haze": ("thin", "medium", "dense", "coloured"),
    "reflection": ("linear", "gamma", "screen", "ghost"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean pictures")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the trainings and their scores")
    parser.add_argument("--task", choices=PARTS, default="reflection")
    parser.add_argument("--depth", help="folder of depth maps, for haze")
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
    run = args.runs / f"{args.task}-{row}-{args.steps}x{args.batch}x{args.crop}"
    result = run / "scores.json"
    from_shipped = {} if "preset" in ROWS[row] else {"start": args.task, "learning_rate": 4e-4}
    config = TrainConfig(
        task=args.task,
        data=str(args.data),
        depth=args.depth,
        run=str(run),
        optimiser="muon",
        features=args.features,
        upright=args.task != "rain",
        rescale=(0.4, 1.0),
        steps=args.steps,
        phases=((1.0, args.crop, args.batch),),
        charbonnier=(0.05, 0.03),
        ema=0.99,
        validation_pictures=args.held_out,
        validation_crop=args.size,
        validate_every=args.steps,
        **from_shipped,
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
    """Return PSNR and SSIM of input and result a part, PSNR of clean pictures to themselves, features' distances."""
    features = None if args.features is None else load_features(args.features)
    items = synthetic_set(
        args.data, args.task, parts=PARTS[args.task], pairs=args.pairs, crop=args.size, depth=args.depth
    ).items
    loaded, protocol = load_model(str(model)), metrics.PROTOCOL_OF_TASK[args.task]
    found: dict[str, list[tuple[float, ...]]] = {}
    for item in items:
        given, target = item.load()
        result = restore(given, task=args.task, model=loaded).background
        for kind, image in (("input", given), ("result", result)):
            scores = metrics.score(image, target, protocol)
            apart = 0.0 if features is None else float(perceptual(features(_tensor(image)), features(_tensor(target))))
            found.setdefault(f"{item.part} {kind}", []).append((scores["psnr"], scores["ssim"], apart))
    clean = [item.load()[0] for item in clean_set(args.data, crop=args.size).items[: args.held_out]]
    kept = []
    for picture in clean:
        result = restore(picture, task=args.task, model=loaded).background
        kept.append(metrics.psnr(result, picture, protocol))
    means = {name: [statistics.fmean(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return {"means": means, "clean": statistics.fmean(min(value, 60.0) for value in kept), "worst": min(kept)}


def _tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


def print_table(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    print(f"\n{args.steps} steps of {args.batch} crops of {args.crop} px; {args.pairs} pairs, central {args.size} px\n")
    parts = PARTS[args.task]
    print("| row | " + " | ".join(parts) + " | all | features | clean, worst | seconds |")
    print("| --- |" + " --- |" * (len(parts) + 4))
    lines = [("input", next(iter(found.values())), "input"), *((row, made, "result") for row, made in found.items())]
    for name, made, kind in lines:
        rows = [made["means"][f"{part} {kind}"] for part in parts]
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
