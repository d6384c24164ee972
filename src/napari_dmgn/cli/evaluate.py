"""Score models on pairs with and without noise: a table a picture, a set and a model, and a sheet."""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_output_options,
    add_view_options,
    check_folder,
    halo,
    named,
    named_path,
    positive,
    print_json,
    seed,
    tile,
    written_together,
)
from napari_dmgn.cli.sheet import Row, write_sheet
from napari_dmgn.cli.sources import check_results
from napari_dmgn.files import replacing
from napari_dmgn.synthesis import KINDS
from napari_dmgn.zoo import TASKS

if TYPE_CHECKING:
    from napari_dmgn.evaluation import Evaluation, EvaluationEvent, PairSet

_RESULTS = ("report.json", "report.md", "sheet.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn evaluate``."""
    parser.add_argument(
        "data", type=named, nargs="+", metavar="[NAME=]DIR",
        help="a public test set (its folder's name or NAME says which: Rain100L, Rain100H, SOTS, O-HAZE, "
        "TestA, Real20, SIR2, CEILNet), a folder with folders of inputs and targets, or what synthesize wrote",
    )  # fmt: skip
    parser.add_argument(
        "--target", type=named_path, metavar="DIR", help="folder of the targets; the data is then that of the inputs"
    )
    parser.add_argument(
        "--clean", action="store_true", help="the data are clean pictures: how well are they left alone?"
    )
    parser.add_argument(
        "--synthetic", action="append", choices=KINDS, default=[], metavar="KIND",
        help=f"the data are clean pictures: put this on them, {', '.join(KINDS)} (may be given several times)",
    )  # fmt: skip
    parser.add_argument(
        "--depth",
        type=named_path,
        metavar="DIR",
        help="depth maps for synthetic haze, bright is far (default: random depth)",
    )
    parser.add_argument(
        "--parts", metavar="NAME[,NAME]", help="parts of the synthesis, light,heavy say (default: all of the task's)"
    )
    parser.add_argument("--pairs", type=positive, metavar="N", help="synthetic pairs (default: 48)")
    parser.add_argument("--seed", type=seed, metavar="N", help="of the synthetic pairs (default: 0)")
    parser.add_argument(
        "--crop", type=positive, metavar="N", help="of clean pictures take the central N x N (default: all)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="take N pairs of each part of a set (default: all)")
    parser.add_argument(
        "--model", action="append", metavar="NAME|PATH",
        help="a model's name or file (may be given several times; default: the task's own)",
    )  # fmt: skip
    parser.add_argument("--task", choices=TASKS, help="what to remove, where the data does not say it (default: rain)")
    parser.add_argument("--protocol", metavar="NAME", help="how to score (default: what the data is scored by)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto", help="default: auto")
    parser.add_argument("--tile", type=tile, default="auto", metavar="auto|none|N", help="as in restore")
    parser.add_argument("--halo", type=halo, default="exact", metavar="exact|N", help="as in restore")
    add_view_options(parser)
    parser.add_argument(
        "--rows", type=positive, default=6, metavar="N", help="pictures of each set on the sheet (default: 6)"
    )
    add_output_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the means, and write the reports; 1 where a pair had to be left out."""
    check_folder(args.output)
    results = {name: args.output / name for name in _RESULTS}
    check_results([(args.output, results.values())], inputs=[], overwrite=args.overwrite)
    from napari_dmgn.metrics import find_protocol

    if args.protocol is not None:
        _usage(find_protocol, args.protocol)
    sets = _sets(args)
    evaluation, sheet = _evaluate(sets, args)
    with written_together(args.output) as folder:
        for name, text in (("report.json", _json(evaluation)), ("report.md", evaluation.to_markdown())):
            with replacing(folder / name) as file:
                file.write(text.encode(errors="backslashreplace"))  # names need not be text
        write_sheet(folder / "sheet.png", sheet.rows(), sheet.columns())
    if args.json:
        print_json(evaluation.to_dict() | {"files": results})
    else:
        _print(evaluation, args.output)
    return 1 if evaluation.excluded else 0


def _usage(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function whose ValueError is the user's wrong argument."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _sets(args: argparse.Namespace) -> "list[PairSet]":
    from napari_dmgn.evaluation import benchmark_set, clean_set, folder_set, synthetic_set, told_apart

    clean = args.clean or bool(args.synthetic)
    if args.target is not None and (clean or len(args.data) > 1):
        raise UsageError("--target goes with one folder of inputs, without --clean and --synthetic")
    if args.crop is not None and not clean:
        raise UsageError("--crop goes with --clean or --synthetic")
    for name in ("parts", "pairs", "seed"):
        if getattr(args, name) is not None and not args.synthetic:
            raise UsageError(f"--{name} goes with --synthetic")
    others = [kind for kind in args.synthetic if kind not in TASKS]
    if args.task is not None and args.synthetic and not (args.clean or others):
        raise UsageError("--task goes without --synthetic, which says what to remove")
    if others and args.task is None and not args.model:
        raise UsageError(f"--synthetic {others[0]} goes with --model or --task: no model is of {others[0]} alone")
    if args.depth is not None and "haze" not in args.synthetic:
        raise UsageError("--depth goes with --synthetic haze")
    sets = []
    for data in args.data:
        name, equals, folder = data.partition("=")
        if Path(data).exists() or not equals:
            name, folder = "", data
        if name and (clean or args.target is not None):
            raise UsageError(
                f"{data!r} names a public test set, which has its targets; it goes without --target, "
                "--clean and --synthetic"
            )
        if name:
            sets.append(_usage(benchmark_set, folder, name))
        elif args.target is not None:
            sets.append(_usage(folder_set, folder, args.target, task=args.task))
        elif not clean:
            sets.append(_usage(benchmark_set, folder, task=args.task))
        else:
            for task in dict.fromkeys(args.synthetic):
                parts = None if args.parts is None else args.parts.split(",")
                options = {"parts": parts, "pairs": args.pairs or 48, "seed": args.seed or 0, "crop": args.crop}
                options |= {"depth": args.depth} if task == "haze" else {}
                options |= {} if task in TASKS else {"resembles": args.task}
                sets.append(_usage(synthetic_set, folder, task, **options))
            if args.clean:
                task = args.task or (None if args.model else "rain")
                sets.append(_usage(clean_set, folder, task=task, crop=args.crop))
    apart: list[PairSet] = _usage(told_apart, sets)
    return apart


def _evaluate(sets: "list[PairSet]", args: argparse.Namespace) -> "tuple[Evaluation, _Sheet]":
    from tqdm import tqdm

    from napari_dmgn.evaluation import iter_evaluate

    engine = {name: getattr(args, name) for name in ("device", "precision", "tile", "halo", "downscale", "ensemble")}
    events = iter_evaluate(sets, args.model, protocol=args.protocol, limit=args.limit, **engine)
    sheet = _Sheet({one.name: len(one.first(args.limit).items) for one in sets}, args.rows)
    bar = tqdm(desc="evaluate", unit="picture", leave=False, disable=not sys.stderr.isatty())
    with closing(events), bar:
        for event in events:
            bar.total, bar.n = event.total, event.done
            bar.refresh()
            if event.excluded is not None:
                left_out = event.excluded
                bar.clear()
                print(f"napari-dmgn: left out: {left_out.set}: {left_out.picture}: {left_out.reason}", file=sys.stderr)
            sheet.add(event)
            if event.evaluation is not None:
                return event.evaluation, sheet
    raise RuntimeError("the events ended without an evaluation")


class _Sheet:
    """Gathers a few pictures of each set, spread over it: input, each model's result, target."""

    def __init__(self, sizes: dict[str, int], rows: int) -> None:
        self._chosen = {
            name: {round(i) for i in np.linspace(0, size - 1, min(rows, size))} for name, size in sizes.items()
        }
        self._pictures: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        self._captions: dict[tuple[str, int], str] = {}

    def add(self, event: "EvaluationEvent") -> None:
        """Keep the pictures of a score if they are among the chosen ones."""
        score = event.score
        if score is None or event.pictures is None or event.index not in self._chosen[event.set]:
            return
        key = (event.set, event.index)
        image, restored, target = map(_small, event.pictures)
        pictures = self._pictures.setdefault(key, {"Input": image, "Target": target})
        pictures[score.method] = restored
        place = ", ".join(word for word in (score.set, score.part, score.picture) if word)
        caption = self._captions.get(key, f"{place}: PSNR ({score.protocol}) {score.before['psnr']:.1f} dB before")
        self._captions[key] = f"{caption}, {score.after['psnr']:.1f} dB {score.method}"

    def columns(self) -> list[str]:
        """Return the titles: input, every method, target."""
        names = dict.fromkeys(name for pictures in self._pictures.values() for name in pictures)
        return ["Input", *(name for name in names if name not in ("Input", "Target")), "Target"]

    def rows(self) -> list[Row]:
        """Return the rows in order; a method that did not take part in one leaves its place white."""
        rows = []
        for key, pictures in self._pictures.items():
            white = np.full_like(pictures["Input"], 255)
            rows.append(Row(self._captions[key], tuple(pictures.get(column, white) for column in self.columns())))
        return rows


def _small(picture: np.ndarray) -> np.ndarray:
    """Return 8 bits, thinned out where the sheet shrinks it more than that: all rows are held in memory."""
    from napari_dmgn.evaluation.reading import unit

    step = max(1, picture.shape[1] // 640)
    return np.rint(unit(picture[::step, ::step]) * 255).astype(np.uint8)


def _json(evaluation: "Evaluation") -> str:
    import json

    return json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n"


def _print(evaluation: "Evaluation", output: Path) -> None:
    for mean in evaluation.means():
        part = f", {mean.part}" if mean.part else ""
        before, after = mean.before["psnr"], mean.after["psnr"]
        gain = "" if np.isinf(before) else f" ({after - before:+.2f})"
        # One result equal to its target makes the mean infinite, and says nothing of the others.
        gain += f" (lowest {mean.least:.2f})" if np.isinf(after) else ""
        print(
            f"{mean.set}{part}: {mean.method}: PSNR {before:.2f} -> {after:.2f} dB{gain}, "
            f"SSIM {mean.before['ssim']:.4f} -> {mean.after['ssim']:.4f} "
            f"({mean.protocol}, {mean.pairs} pairs, {mean.seconds:.2f} s a picture)"
        )
    if evaluation.excluded:
        count = len(evaluation.excluded)
        print(f"{count} pair{'s' * (count > 1)} left out of the means")
    print(f"report: {output / 'report.md'}")
