"""Train a model on your own clean images, as a configuration file says."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from napari_dmgn.cli.common import UsageError, positive

# Option of the command line -> field of TrainConfig.
_FIELDS = {
    "data": "data",
    "output": "output",
    "steps": "steps",
    "minutes": "minutes",
    "resume": "resume",
    "overwrite": "overwrite",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn train``."""
    parser.add_argument(
        "config", type=Path, metavar="CONFIG.toml", help="settings; the options below replace its own"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of clean images")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the run's files")
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of the whole run")
    parser.add_argument(
        "--minutes", type=_minutes, metavar="M", help="stop, resumable, after so many minutes"
    )
    parser.add_argument("--resume", action="store_true", default=None, help="go on where the run was stopped")
    parser.add_argument("--overwrite", action="store_true", default=None, help="replace an existing run")
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Train, with a line for each event."""
    if not args.config.is_file():
        raise UsageError(f"no such file: {str(args.config)!r}")
    from napari_dmgn.training import TrainConfig, iter_train

    changes = {
        field: getattr(args, option) for option, field in _FIELDS.items() if getattr(args, option) is not None
    }
    config = dataclasses.replace(TrainConfig.from_file(args.config), **changes)
    for event in iter_train(config):
        facts = dataclasses.asdict(event)
        print(json.dumps(facts) if args.json else _line(facts), flush=True)
    return 0


def _line(facts: dict[str, Any]) -> str:
    text = (
        f"step {facts['step']}/{facts['steps']}  loss {facts['loss']:.4f}  "
        f"rate {facts['lr']:.2e}  {facts['seconds']:.0f} s"
    )
    for name, value in (facts["validation"] or {}).items():
        text += f"  {name} {value:.2f}" if isinstance(value, float) else f"  {name} {value}"
    return text + (f"  -> {facts['checkpoint']}" if facts["checkpoint"] else "")


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected minutes > 0, got {text!r}")
    return value
