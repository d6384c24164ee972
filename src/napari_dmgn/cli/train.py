"""Train or fine-tune a model: on clean images, or on pairs."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn.cli.common import UsageError, named_path, positive, print_json
from napari_dmgn.synthesis import KINDS
from napari_dmgn.zoo import TASKS

if TYPE_CHECKING:
    from napari_dmgn.training import TrainConfig, TrainEvent

_STEPS_BETWEEN_LINES = 100
# Of a batch, where --crop says its crops: as many as the first phase has by default.
_PIXELS = 16 * 128**2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn train``."""
    parser.add_argument(
        "config", type=named_path, nargs="?", metavar="CONFIG.toml",
        help="settings; the options below replace its own, and do without it in simple cases",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="folder of clean images")
    parser.add_argument(
        "--pairs",
        nargs=2,
        metavar=("INPUT", "BACKGROUND"),
        help="folders of images with noise, and of the same without",
    )
    parser.add_argument(
        "--match", metavar="RULE",
        help="how --pairs are matched: auto, name, stem, number, 'last number', or two patterns of file names "
        "without suffix such as 'rain-{} norain-{}' (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--depth",
        metavar="DIR",
        help="folder of depth maps for haze, dark is near: its files named *_depth, or else all (default: drawn ones)",
    )
    parser.add_argument("--task", choices=TASKS, help="what is removed (default: that of --start, else rain)")
    parser.add_argument(
        "--kind", choices=KINDS,
        help="what is put on --data (default: the task's own)",
    )  # fmt: skip
    parser.add_argument(
        "--validation", type=positive, metavar="N", help="pictures or pairs held out to validate on (default: 24)"
    )
    parser.add_argument(
        "--crop", type=positive, metavar="N",
        help="side of the crops that are trained on, in pixels; smaller pictures are left out (default: 128, then 192)",
    )  # fmt: skip
    parser.add_argument(
        "--validation-crop", type=positive, metavar="N",
        help="side of the central crops that are validated on, in pixels (default: 256)",
    )  # fmt: skip
    parser.add_argument("--start", metavar="MODEL", help="fine-tune this model: a name or a file")
    parser.add_argument(
        "--freeze", nargs="+", metavar="PART", help="parts of the network that stay as they are, such as head"
    )
    parser.add_argument(
        "--rate", type=_above_zero, metavar="R",
        help="highest learning rate (default: 1e-3, and 3e-4 from a trained model)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder of the run: its state, log and models (default: runs/rain)"
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of the whole run (default: 10000)")
    parser.add_argument(
        "--minutes", type=_above_zero, metavar="M", help="time for the whole run; its steps are fitted to it"
    )
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument(
        "--stop-after", type=_above_zero, metavar="M", help="pause after so many minutes; --resume goes on"
    )
    parser.add_argument("--check", action="store_true", help="look at the data, report, and do not train")
    parser.add_argument(
        "--resume", action="store_true", help="go on where the run was stopped; -o DIR --resume alone does"
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew although the folder holds a run")
    parser.add_argument("--json", action="store_true", help="print each step, or the report, as JSON")


def run(args: argparse.Namespace) -> int:
    """Train until the steps or the minutes are over, or report on the data."""
    config = _config(args)
    return _check(config, args) if args.check else _train(config, args)


def _config(args: argparse.Namespace) -> "TrainConfig":
    from napari_dmgn import zoo
    from napari_dmgn.training import TrainConfig
    from napari_dmgn.training.checks import read_settings
    from napari_dmgn.training.finetuning import fine_tuning_settings
    from napari_dmgn.training.state import read_config

    changes = _changes(args)
    stated = {} if args.config is None else read_settings(args.config)
    given = {**stated, **changes}
    saved = read_config(given.get("run", TrainConfig.run)) if args.resume else None
    if args.config is None and saved is not None:
        return TrainConfig.from_dict({**saved, **changes})
    if not (args.config or args.data or args.pairs):
        raise UsageError(_nothing(args))
    if args.start and not args.task and "task" not in stated:
        changes["task"] = zoo.find_model(args.start).task
    start = given.get("start")
    trained = start is not None and not zoo.find_model(start).card.get("untrained")
    changes |= fine_tuning_settings(given, started=trained, saved=saved)
    if saved is not None:  # a run keeps its network when its preset gets another
        stated_network = given.get("network", {})
        if isinstance(stated_network, Mapping):  # if not, it is refused in a moment
            changes["network"] = {**(saved.get("network") or {}), **stated_network}
    if args.config is not None:
        return TrainConfig.from_file(args.config, **changes)
    if args.start:
        changes["preset"] = "start"
    return TrainConfig(**changes)


def _nothing(args: argparse.Namespace) -> str:
    if args.resume and args.output:
        return f"{args.output} holds no run to resume; expected CONFIG.toml, --data or --pairs"
    return "nothing to train on; expected CONFIG.toml, --data or --pairs, or -o DIR --resume of a run"


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that options name."""
    options: dict[str, Any] = {
        "data": args.data,
        "depth": args.depth,
        "task": args.task,
        "degradation_kind": args.kind,
        "validation_pictures": args.validation,
        "validation_crop": args.validation_crop,
        "phases": args.crop and [[1.0, args.crop, max(1, _PIXELS // args.crop**2)]],
        "start": args.start,
        "freeze": args.freeze,
        "learning_rate": args.rate,
        "run": args.output,
        "steps": args.steps,
        "minutes": args.minutes,
        "device": args.device,
    }
    if args.match and not args.pairs:
        raise UsageError("--match is for --pairs, which is missing")
    if args.kind and not (args.data or args.config):
        raise UsageError("--kind is for --data, which is missing")
    if args.pairs:
        options["sources"] = [{"input": args.pairs[0], "background": args.pairs[1], "match": args.match or "auto"}]
    return {name: value for name, value in options.items() if value is not None}


def _check(config: "TrainConfig", args: argparse.Namespace) -> int:
    from napari_dmgn.training import check_data

    report = check_data(config)
    if args.json:
        print_json(report.to_dict())
    else:
        print("\n".join(report.lines()))
    return 0 if report.training and report.validation else 1


def _train(config: "TrainConfig", args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from napari_dmgn.training import iter_train
    from napari_dmgn.training.loop import MODEL
    from napari_dmgn.training.processes import are_several, rank_of_environment

    if args.stop_after and are_several():  # each would stop by its own clock, and wait for the others
        raise UsageError("--stop-after is for a single process; stop torchrun itself, states are saved meanwhile")
    stop = time.monotonic() + 60 * (args.stop_after or float("inf"))
    speaks = rank_of_environment() == 0  # of several processes one
    show = speaks and not args.json and sys.stderr.isatty()
    # Closed in any case: that is when the generator saves the state of a run that is not done.
    with (
        closing(iter_train(config, resume=args.resume, overwrite=args.overwrite)) as events,
        tqdm(total=config.steps, unit="step", disable=not show) as bar,
    ):
        event = None
        for event in events:
            bar.total = event.steps
            bar.update(event.step - bar.n)
            if not speaks:
                pass
            elif args.json:
                print(json.dumps(event.to_dict()), flush=True)
            elif event.validation or (not show and event.step % _STEPS_BETWEEN_LINES == 0):
                bar.write(_lines(event), file=sys.stdout)
                sys.stdout.flush()
            if not event.model and time.monotonic() > stop:
                if speaks and not args.json:
                    bar.write(f"stopped at step {event.step}; go on with --resume", file=sys.stdout)
                break
    if event is None and speaks and not args.json:  # a run that was resumed after its end
        more = "; a run that stopped early goes on with more patience, or 0" if config.patience else ""
        print(f"nothing left to do{more}\n-> {Path(config.run) / MODEL}")
    return 0


def _lines(event: "TrainEvent") -> str:
    text = f"step {event.step}/{event.steps}  loss {event.loss:.4f}  {event.seconds:.0f} s"
    text += f"  network {event.timing.busy:.0%} of the time"
    for name, value in (event.validation or {}).items():
        text += f"  {name} {value:.2f}"
    if event.best:
        text += "  (best so far)"
    if event.stopped:
        text += f"\nstopped early: {event.stopped}"
    if event.model:
        text += f"\n-> {event.model}"
    return text + (f"\n{event.comparison.verdict}" if event.comparison else "")


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value
