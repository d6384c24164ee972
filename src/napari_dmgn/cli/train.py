"""Train a model on a folder of clean images, as a settings file says."""

import argparse
import dataclasses
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dmgn.cli.common import positive

if TYPE_CHECKING:
    from napari_dmgn.training import TrainEvent

_STEPS_BETWEEN_LINES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn train``."""
    parser.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="settings; the options below replace its own"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of clean images")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the run: its state, log and model")
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of the whole run")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--minutes", type=_minutes, metavar="M", help="stop after so many minutes; --resume goes on"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the run was stopped")
    parser.add_argument("--overwrite", action="store_true", help="start anew although the folder holds a run")
    parser.add_argument("--json", action="store_true", help="print each step as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Train until the steps or the minutes are over."""
    from tqdm import tqdm

    from napari_dmgn.training import TrainConfig, iter_train

    options = {"data": args.data, "run": args.output, "steps": args.steps, "device": args.device}
    changes = {name: value for name, value in options.items() if value is not None}
    config = TrainConfig.from_file(args.config, **changes)
    stop = time.monotonic() + 60 * (args.minutes or float("inf"))
    show = not args.json and sys.stderr.isatty()
    # Closed in any case: that is when the generator saves the state of a run that is not done.
    with (
        closing(iter_train(config, resume=args.resume, overwrite=args.overwrite)) as events,
        tqdm(total=config.steps, unit="step", disable=not show) as bar,
    ):
        for event in events:
            bar.update(event.step - bar.n)
            if args.json:
                print(json.dumps(dataclasses.asdict(event), default=str), flush=True)
            elif event.validation or (not show and event.step % _STEPS_BETWEEN_LINES == 0):
                bar.write(_line(event), file=sys.stdout)
                sys.stdout.flush()
            if event.step < event.steps and time.monotonic() > stop:
                if not args.json:
                    bar.write(f"stopped at step {event.step}; go on with --resume", file=sys.stdout)
                break
    return 0


def _line(event: "TrainEvent") -> str:
    text = f"step {event.step}/{event.steps}  loss {event.loss:.4f}  {event.seconds:.0f} s"
    for name, value in (event.validation or {}).items():
        text += f"  {name} {value:.2f}"
    return text + (f"  -> {event.model}" if event.model else "")


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected minutes > 0, got {text!r}")
    return value
