"""Table I on synthetic rain: what each part of the network is worth, at equal budget and seeds.

    python benchmarks/ablation.py --data DIR --runs DIR                   # 5 rows, 3 seeds
    python benchmarks/ablation.py --data DIR --runs DIR --steps 3000 --seeds 0 1 2 3

Rows are Base (plain convolutions, no noise image), RDMC (deep-masking cells), R-RDMC (the noise image
regularises the masks), DMGN (and enters the refining phase), and Coarse, the coarse background of DMGN.
All train on the same crops under the same rain; a variant without a noise image has no loss of it, nor of
its map, which would train its other outputs in their place. Finished trainings are kept in --runs and
not repeated; one that was stopped goes on. Prints a Markdown table of PSNR (rain-y) on held-out pictures:
mean over the seeds and, behind it, their standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from napari_dmgn import checkpoint, metrics
from napari_dmgn.data import SourceSpec, collect
from napari_dmgn.model.config import ABLATIONS, PRESETS
from napari_dmgn.synthesis.rain import HeavyRain, LightRain
from napari_dmgn.training import TrainConfig, iter_train

STRENGTHS = {"light": LightRain(), "heavy": HeavyRain()}
RAIN = {"light": 0.5, "heavy": 0.42, "none": 0.08}
NO_NOISE_LOSS = {"noise": 0.0, "noise_map": 0.0}
Scores = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of clean pictures")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the trainings and their scores")
    parser.add_argument("--preset", choices=PRESETS, default="compact")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--validation-pictures", type=int, default=24)
    parser.add_argument("--validation-crop", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    args = parser.parse_args()
    found: dict[str, list[Scores]] = {}
    for seed in args.seeds:  # seed by seed: a table of fewer seeds is there early
        for variant in args.only:
            found.setdefault(variant, []).append(scores(variant, seed, args))
        print_table(found, args)


def settings(variant: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return what a training is made with; nothing but variant and seed differs between two."""
    network = ABLATIONS[variant]
    return {
        "data": args.data,
        "preset": args.preset,
        "network": network,
        "optimiser": "muon",
        "degradation": RAIN,
        "losses": {} if network.get("noise_branch", True) else NO_NOISE_LOSS,
        "steps": args.steps,
        "phases": ((1.0, args.crop, args.batch),),
        "seed": seed,
        "validation_pictures": args.validation_pictures,
        "validation_crop": args.validation_crop,
        "validate_every": args.steps,
    }


def scores(variant: str, seed: int, args: argparse.Namespace) -> Scores:
    """Train one variant, or take what an earlier call found, and score its outputs."""
    wanted = settings(variant, seed, args)
    run = args.runs / f"{variant}-{seed}"
    config = TrainConfig(**wanted, run=str(run))
    facts = json.loads(json.dumps({k: v for k, v in wanted.items() if k != "data"}))
    kept, result = run / "settings.json", run / "scores.json"
    if kept.exists() and json.loads(kept.read_text()) != facts:
        raise SystemExit(f"{run} holds a training with other settings; name another folder with --runs")
    if result.exists():
        earlier: Scores = json.loads(result.read_text())
        return earlier
    run.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(facts))
    for event in iter_train(config, resume=True):
        if event.step % 100 == 0 or event.step == event.steps:
            print(f"{run.name}: {event.step}/{event.steps}, loss {event.loss:.4f}, {event.seconds:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    made = score(run / "model.safetensors", args)
    result.write_text(json.dumps(made))
    return made


@torch.inference_mode()
def score(model: Path, args: argparse.Namespace) -> Scores:
    """Return the PSNR of the input, the background and the coarse background under each strength of rain.

    In float32, on the pairs that the training was validated on.
    """
    network = checkpoint.load(model).network
    size = args.validation_crop
    gathered = collect(
        [SourceSpec(clean=str(args.data))], crop=size, validation=args.validation_pictures, validation_crop=size
    )
    clean = gathered.held.clean.centres(size)[:, 0]
    wanted, found = _bytes(clean), {}
    for strength, rain in STRENGTHS.items():
        pairs = rain(clean, torch.Generator().manual_seed(0))
        outputs = [network(image[None]) for image in pairs.input]
        images = {
            "input": pairs.input,
            "background": torch.cat([out.background for out in outputs]),
            "coarse": torch.cat([out.coarse for out in outputs]),
        }
        found[strength] = {
            name: statistics.fmean(metrics.psnr_y(a, b) for a, b in zip(_bytes(made), wanted, strict=True))
            for name, made in images.items()
        }
    return found


def _bytes(images: torch.Tensor) -> Any:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def print_table(found: Mapping[str, Sequence[Scores]], args: argparse.Namespace) -> None:
    seeds = len(next(iter(found.values())))
    print(f"\n{args.preset}, {args.steps} steps of {args.batch} crops of {args.crop} px, {seeds} seeds, PSNR in dB\n")
    print("| variant | " + " | ".join(f"{strength} rain" for strength in STRENGTHS) + " |")
    print("| --- |" + " --- |" * len(STRENGTHS))
    rows = {variant: (variant, "background") for variant in found}
    if "DMGN" in found:
        rows["Coarse"] = ("DMGN", "coarse")
    rows = {"input": (next(iter(found)), "input"), **rows}
    for name, (variant, output) in rows.items():
        cells = []
        for strength in STRENGTHS:
            values = [scores[strength][output] for scores in found[variant]]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 and output != "input" else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
