"""Compare designs of the compact network: cost, speed on this machine and, with --data, quality.

    python benchmarks/designs.py                           # cost and speed
    python benchmarks/designs.py --data DIR --steps 300    # and a short training each, same seeds

Prints a Markdown table. Quality is PSNR (rain-y) on held-out pictures with synthetic rain.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_dmgn import devices
from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.model.network import DMGN
from napari_dmgn.training import TrainConfig, iter_train

HALF: dict[str, Any] = {"trunk_stride": 2, "width": 32, "bottleneck_cells": 4}
QUARTER: dict[str, Any] = {"trunk_stride": 4, "width": 64, "bottleneck_cells": 6}
SIX, FOUR, THREE = (1, 2, 4, 8, 16, 1), (1, 2, 4, 1), (1, 2, 1)
# Everything that the compact design saves beside resolution and width, undone.
PLAIN: dict[str, Any] = {"mask_reduction": 1, "attention_convolutions": 2, "refine_kernel": 3, "skip": "concat"}
DESIGNS: dict[str, dict[str, Any]] = {
    "1/2, 32-64-128, 6 refining cells, plain": HALF | PLAIN | {"branch_widths": (32, 64, 128), "refine_dilations": SIX},
    "1/2, 32-64-128, 6 refining cells": HALF | {"branch_widths": (32, 64, 128), "refine_dilations": SIX},
    "1/2, 32-64-96, 4 refining cells": HALF | {"branch_widths": (32, 64, 96), "refine_dilations": FOUR},
    "1/2, 32-64-64, 4 refining cells": HALF | {"branch_widths": (32, 64, 64), "refine_dilations": FOUR},
    "1/2, 32-64, 4 refining cells": HALF | {"branch_widths": (32, 64), "refine_dilations": FOUR},
    "1/4, 64-96, 4 refining cells (compact at first)": QUARTER | {"branch_widths": (64, 96), "refine_dilations": FOUR},
    "1/4, 64-96, 8 bottleneck and 6 refining cells (compact)": PRESETS["compact"].to_dict(),
    "1/4, 96-128, 3 refining cells": QUARTER
    | {"width": 96, "branch_widths": (96, 128), "bottleneck_cells": 4, "refine_dilations": THREE},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of clean pictures; without it nothing is trained")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", help="designs whose name contains this")
    parser.add_argument("--repeat", type=int, default=6)
    args = parser.parse_args()
    print("| design | parameters | GMAC at 256x256 | s per megapixel | reach | light dB | heavy dB | training s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, settings in DESIGNS.items():
        if args.only and args.only not in name:
            continue
        row = cost(NetworkConfig(**settings), args.repeat)
        row += quality(settings, args) if args.data else ["", "", ""]
        print("| " + " | ".join([name, *row]) + " |", flush=True)


@torch.inference_mode()
def cost(config: NetworkConfig, repeat: int) -> list[str]:
    network = DMGN(config).eval().place("cpu")
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, 256, 256))
    image = torch.rand(1, 3, 1024, 1024)
    bf16 = devices.resolve_precision("auto", "cpu") == "bf16"
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network(image)
        seconds.append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in network.parameters())
    gmac = counter.get_total_flops() / 2e9  # the counter counts a multiplication and an addition as two
    megapixel = min(seconds) / (1024 * 1024 / 1e6)
    return [f"{parameters / 1e6:.2f} M", f"{gmac:.2f}", f"{megapixel:.2f}", f"{config.receptive_radius} px"]


def quality(settings: Mapping[str, Any], args: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as run:
        config = TrainConfig(
            data=args.data,
            run=run,
            network=settings,
            steps=args.steps,
            phases=((1.0, args.crop, args.batch),),
            validate_every=args.steps,
        )
        *_, last = iter_train(config)
    if last.validation is None:
        raise RuntimeError("the last step was not validated")
    scores = last.validation
    return [f"{scores['light output']:.2f}", f"{scores['heavy output']:.2f}", f"{last.seconds:.0f}"]


if __name__ == "__main__":
    main()
