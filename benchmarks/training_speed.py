"""Steps per second of the trainer, and the share of the time in which its network works.

    python benchmarks/training_speed.py [--steps 40] [--crop 128] [--batch 8] [--precision auto] [--threads N]

Trains the preset "compact" on crops of scikit-image's photographs for each task, with the fast losses and
the trainer's own steps (`training.run.Run`), and prints a Markdown table: steps per second, and the shares
of the time that crops, synthesis and networks take. The first steps, in which memory is taken and kernels
are chosen, are not counted; nor are validations and saved states, which a run does now and then.
Exit status 1 where crops and synthesis together take 10 % of a task's time or more.
"""

import argparse
import platform
import sys
import time

import torch
from skimage import data

from napari_dmgn.data import Batches, PicturePool, Source, array_pictures
from napari_dmgn.training import TrainConfig
from napari_dmgn.training.card import hardware
from napari_dmgn.training.run import Run
from napari_dmgn.zoo import TASKS

WANTED = 0.10  # crops and synthesis take less than this
WARM_UP = 3


def photographs():
    """Four photographs, decoded once, as a run keeps them."""
    arrays = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    return [p for i, array in enumerate(arrays) for p in array_pictures(array, f"photograph {i}")]


def measure(task, args):
    """Train some steps; return steps per second, and seconds of crops, synthesis and networks a step."""
    config = TrainConfig(
        task=task,
        steps=WARM_UP + args.steps,
        phases=[[1.0, args.crop, args.batch]],
        device=args.device,
        precision=args.precision,
    )
    run = Run(config)
    batches = Batches([Source(pool=PicturePool(photographs(), run.device))], config.extras(), run.device)
    torch.set_flush_denormal(True)  # as the training loop does
    for _ in range(WARM_UP):
        run.advance(batches)
    began, parts = time.monotonic(), []
    for _ in range(args.steps):
        timing = run.advance(batches).timing
        parts.append((timing.data, timing.synthesis, timing.network))
    rate = args.steps / (time.monotonic() - began)
    torch.set_flush_denormal(False)
    return run, rate, [sum(column) / args.steps for column in zip(*parts, strict=True)]


def main():
    """Measure each task and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    lines, busy = [], True
    for task in args.tasks:
        run, rate, (crops, synthesis, network) = measure(task, args)
        total = crops + synthesis + network
        shares = [part / total for part in (crops, synthesis, network)]
        busy &= shares[0] + shares[1] < WANTED
        lines.append(f"| {task} | {rate:.2f} | {1000 / rate:.0f} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    threads = f", threads: {torch.get_num_threads()}" if run.device.type == "cpu" else ""
    print(
        f"Crops of {args.crop} px, batches of {args.batch}, {run.precision}, {args.steps} steps a task; "
        f"{hardware(run.device)}{threads}, torch {torch.__version__}, Python {platform.python_version()}.\n"
    )
    print("| task | steps/s | ms/step | crops | synthesis | network |\n|---|---|---|---|---|---|")
    print("\n".join(lines))
    return int(not busy)


if __name__ == "__main__":
    sys.exit(main())
