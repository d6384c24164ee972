"""Can the network, its losses and the trainer's step fit one batch of each task to more than 40 dB?

    python benchmarks/overfit.py [--steps 1500] [--docs docs]

For each task a batch of three crops of scikit-image's photographs is degraded once and trained on for
so many steps by the trainer's own step (`training.run.Run`). It prints the PSNR at intervals and draws
loss and PSNR against the step into DOCS/overfit.svg. Exit status 1 if a task stays at 40 dB or below.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from skimage import data

from napari_dmgn.data import Batches, Extras, PicturePool, Source, array_pictures
from napari_dmgn.training import TrainConfig
from napari_dmgn.training.run import Run

TASKS = {"rain": "#2a78b5", "haze": "#c2571a", "reflection": "#3a8f4d"}
WANTED = 40.0  # dB
NETWORK = {
    "trunk_stride": 2,
    "width": 32,
    "head_levels": 2,
    "branch_widths": [32, 48],
    "bottleneck_cells": 2,
    "refine_dilations": [1, 2, 1],
}


def photographs():
    """Every second pixel of three photographs: more structure in a small crop."""
    arrays = [data.astronaut()[::2, ::2], data.coffee()[::2, ::2], data.chelsea()[::2, ::2]]
    return PicturePool([p for i, a in enumerate(arrays) for p in array_pictures(a.copy(), f"photograph {i}")])


def overfit(task, steps, crop, batch):
    """Train on one batch; return it as rows of (step, loss, PSNR in dB)."""
    config = TrainConfig(
        task=task,
        network=NETWORK,
        steps=steps,
        phases=[[1.0, crop, batch]],
        learning_rate=4e-3,
        charbonnier=[0.1, 0.003],
        losses={"balance": 0},
        weight_decay=0.0,
        precision="float32",
        device="cpu",
        seed=1,
    )
    run = Run(config)
    batches = Batches([Source(pool=photographs())], Extras(degrade=config.mixture(), task=task), run.device)
    fixed = run.pair(batches, crop, batch)
    run.pair = lambda *_: fixed
    rows = []
    for step in range(1, steps + 1):
        torch.set_flush_denormal(True)
        loss = run.advance(batches).loss
        if step == 1 or step % 25 == 0 or step == steps:
            with torch.no_grad():
                output = run.network(fixed.input).background
            rows.append((step, loss, psnr(output, fixed.background)))
    return psnr(fixed.input, fixed.background), rows


def psnr(image, wanted):
    """PSNR in dB over all pixels and channels, peak 1."""
    return -10 * math.log10(((image.clamp(0, 1) - wanted) ** 2).mean().item())


def draw(curves, path):
    """Draw both curves of every task as one SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 330" font-family="sans-serif" font-size="12">',
        '<rect width="860" height="330" fill="white"/>',
    ]
    last = max(row[0] for _, rows in curves.values() for row in rows)
    losses = [math.log10(row[1]) for _, rows in curves.values() for row in rows]
    decibels = [row[2] for _, rows in curves.values() for row in rows]
    panels = (
        ("loss (logarithmic)", 1, math.floor(min(losses)), math.ceil(max(losses)), 1, "1e{:g}"),
        ("PSNR in dB", 2, 10 * math.floor(min(decibels) / 10), 10 * math.ceil(max(decibels) / 10), 10, "{:g}"),
    )
    for panel, (title, column, low, high, tick, label) in enumerate(panels):
        left, top, width, height = 50 + 430 * panel, 30, 360, 240

        def x(step, left=left, width=width):
            return left + width * step / last

        def y(value, low=low, high=high, top=top, height=height):
            return top + height * (high - value) / (high - low)

        parts.append(f'<text x="{left}" y="18">{title}</text>')
        for i in range(round((high - low) / tick) + 1):
            value = low + i * tick
            parts.append(f'<path d="M{left} {y(value):.1f}h{width}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{label.format(value)}</text>')
        if column == 2:
            parts.append(f'<path d="M{left} {y(WANTED):.1f}h{width}" stroke="#666" stroke-dasharray="4 3"/>')
        parts += [
            f'<text x="{x(step):.1f}" y="{top + height + 18}" text-anchor="middle">{step}</text>'
            for step in (0, last // 2, last)
        ]
        for i, (task, (_, rows)) in enumerate(curves.items()):
            values = [math.log10(row[1]) if column == 1 else row[2] for row in rows]
            line = " ".join(f"{x(row[0]):.1f},{y(v):.1f}" for row, v in zip(rows, values, strict=True))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{TASKS[task]}" stroke-width="1.5"/>')
            parts.append(f'<text x="{left + 110 * i}" y="315" fill="{TASKS[task]}">{task}</text>')
        parts.append(f'<text x="{left + width}" y="{top + height + 34}" text-anchor="end">step</text>')
    Path(path).write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def main():
    """Overfit one batch of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder for overfit.svg")
    args = parser.parse_args()
    curves = {}
    for task in args.tasks:
        began = time.monotonic()
        before, rows = curves[task] = overfit(task, args.steps, args.crop, args.batch)
        for step, loss, decibels in rows[:: max(1, len(rows) // 6)]:
            print(f"{task:10s} step {step:5d}  loss {loss:.5f}  {decibels:.1f} dB")
        print(f"{task}: {before:.1f} -> {rows[-1][2]:.1f} dB in {time.monotonic() - began:.0f} s", flush=True)
    draw(curves, args.docs / "overfit.svg")
    return 0 if all(rows[-1][2] > WANTED for _, rows in curves.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
