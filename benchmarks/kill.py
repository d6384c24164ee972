"""Kill a training at random moments, again and again: every file that it leaves must load.

    python benchmarks/kill.py [--kills 20] [--seed 0]

Each round starts or resumes the same small run in a process of its own, which saves its state after
every step and validates after every second, and sends it SIGKILL after a random time from its first
step on. After each kill state and models are read back. At the end the state is compared, bit
for bit, with that of a run that nobody killed. Exit status 1 if a file did not load or differs.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from paper_recipe import random_features
from safetensors.torch import load_file
from skimage import data

from napari_dmgn import checkpoint
from napari_dmgn.training import TrainConfig, iter_train
from napari_dmgn.training.loop import BEST, MODEL
from napari_dmgn.training.state import STATE


def settings(folder, steps):
    """A run with every loss, and with every file that there is: state, discriminator, best model."""
    return TrainConfig(
        network={"width": 16, "head_levels": 2, "branch_widths": [16, 24], "bottleneck_cells": 1,
                 "refine_dilations": [1]},
        recipe="paper",
        losses={"background_fft": 0.1, "noise": 0.2, "noise_map": 0.05, "balance": 0.02},
        discriminator_width=8,
        degradation={"light": 1, "heavy": 1},
        phases=[[1.0, 32, 1]],
        steps=steps,
        validation_pictures=1,
        validation_crop=32,
        validate_every=2,
        save_minutes=0,
        precision="float32",
        device="cpu",
        run=str(folder),
    )  # fmt: skip


def start(config, **options):
    """Train on four photographs."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    return iter_train(config, arrays=pictures, features=random_features(), **options)


def child(values):
    """Train until somebody kills this process."""
    for event in start(TrainConfig(**json.loads(values)), resume=True):
        print(event.step, flush=True)


def killed(config, seconds):
    """Run a child, kill it some seconds after its first step, and return its last; None if it had ended."""
    command = [sys.executable, __file__, "--child", json.dumps(config.to_dict())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        step = child.stdout.readline().strip()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    return int((rest or [step])[-1]) if step and child.returncode == -signal.SIGKILL else None


def main():
    """Kill, look, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in another number of parts round otherwise
    if args.child:
        return child(args.child)
    draw = random.Random(args.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as base:
        config = settings(Path(base) / "run", args.steps)
        for kill in range(1, args.kills + 1):
            step = killed(config, draw.uniform(0, 1.5))
            left = sorted(p.name for p in Path(config.run).iterdir())
            for name in (STATE, BEST, MODEL):
                path = Path(config.run) / name
                if not path.exists():
                    continue
                try:
                    load_file(path) if name == STATE else checkpoint.load(path)
                except Exception as error:
                    print(f"{name} does not load: {error}")
                    bad += 1
            print(f"kill {kill:2d} after step {step}: {', '.join(left)}", flush=True)
        done = load_file(Path(config.run) / STATE)
        print(f"{args.kills} kills, {bad} files that do not load")
        bad += compare(Path(base), config, done)
    return int(bad > 0)


def compare(base, config, done):
    """Train as far in one go, and count tensors that differ."""
    step = int(done["optimiser/0/step"])
    straight = replace(config, run=str(base / "straight"), save_minutes=60)
    for event in (events := start(straight)):
        if event.step == step:
            events.close()
    wanted = load_file(base / "straight" / STATE)
    differing = [name for name in wanted if not wanted[name].equal(done[name])]
    print(f"step {step}: {len(differing)} of {len(wanted)} tensors differ from those of a run that nobody killed")
    return len(differing)


if __name__ == "__main__":
    sys.exit(main())
