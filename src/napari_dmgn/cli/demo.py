"""Put rain, haze or reflections on known pictures, restore them, show the gain in PSNR and a before/after sheet."""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_model_options,
    check_folder,
    model_arguments,
    named_path,
    print_json,
    run_restore,
    seed,
    task_of,
)
from napari_dmgn.cli.sheet import Row, write_sheet
from napari_dmgn.files import write_image
from napari_dmgn.images import saturate, unit_to_dtype
from napari_dmgn.metrics import PROTOCOL_OF_TASK, psnr
from napari_dmgn.samples import made_sample, sample_names

_STRENGTHS = {"rain": ("light", "heavy"), "haze": ("thin", "dense"), "reflection": ("linear", "gamma")}
_PARTS = ("clean", "input", "background", "noise", "noise_map")
_SHEET = "before_after.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn demo``."""
    parser.add_argument(
        "-o", "--output", type=named_path, default=Path("demo"), metavar="DIR",
        help="folder for the pictures; an earlier demo there is replaced (default: demo)",
    )  # fmt: skip
    parser.add_argument("--samples", nargs="+", metavar="NAME", help="pictures to use (default: all)")
    parser.add_argument("--seed", type=seed, default=0, help="what the noise is drawn from (default: 0)")
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Restore each picture in two strengths of the task's noise."""
    check_folder(args.output)
    task = task_of(args)
    names = args.samples or sample_names()
    for name in names:
        if name not in sample_names():
            raise UsageError(f"unknown sample {name!r}; expected one of {', '.join(sample_names())}")
    results: list[dict[str, Any]] = []
    rows: list[Row] = []
    for name in names:
        for strength in _STRENGTHS[task]:
            result, row = _one(task, name, strength, args)
            if not rows:  # nothing has failed: what an earlier demo made makes way
                _remove_earlier(args.output)
            _write(args.output, name, strength, row)
            results.append(result)
            rows.append(row)
            if not args.json:
                print(_line(result), flush=True)
    sheet = args.output / _SHEET
    write_sheet(sheet, [Row(row.caption, row.pictures[1:]) for row in rows])
    means = [_mean(results, strength) for strength in _STRENGTHS[task]]
    if args.json:
        print_json({"pictures": results, "means": means, "sheet": sheet})
    else:
        for mean in means:
            print(_line(mean))
        print(f"before/after sheet: {sheet}")
    return 0


def _one(task: str, name: str, strength: str, args: argparse.Namespace) -> tuple[dict[str, Any], Row]:
    """Restore one picture; return its numbers and, as a row, all of `_PARTS`."""
    sample = made_sample(task, name, strength, args.seed)
    restoration = run_restore(f"{name} {strength}", sample.input, **model_arguments(args))
    noise = saturate(restoration.noise, np.uint8)[0]
    noise_map = unit_to_dtype(restoration.noise_map, np.uint8)
    protocol = PROTOCOL_OF_TASK[task]
    before, after = (psnr(image, sample.clean, protocol) for image in (sample.input, restoration.background))
    result = {
        "picture": name,
        "task": task,
        "strength": strength,
        "protocol": protocol,
        "psnr_input": before,
        "psnr_output": after,
    }
    caption = f"{name}, {strength} {task}: PSNR {before:.1f} dB before, {after:.1f} dB after ({protocol})"
    return result, Row(caption, (sample.clean, sample.input, restoration.background, noise, noise_map))


def _write(folder: Path, name: str, strength: str, row: Row) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, picture in zip(_PARTS, row.pictures, strict=True):
        write_image(folder / f"{name}_{strength}_{part}.png", picture)


def _remove_earlier(folder: Path) -> None:
    (folder / _SHEET).unlink(missing_ok=True)
    for name, strengths in itertools.product(sample_names(), _STRENGTHS.values()):
        for strength, part in itertools.product(strengths, _PARTS):
            (folder / f"{name}_{strength}_{part}.png").unlink(missing_ok=True)


def _mean(results: list[dict[str, Any]], strength: str) -> dict[str, Any]:
    chosen = [result for result in results if result["strength"] == strength]
    numbers = {key: float(np.mean([result[key] for result in chosen])) for key in ("psnr_input", "psnr_output")}
    return chosen[0] | {"picture": "mean"} | numbers


def _line(result: dict[str, Any]) -> str:
    before, after = result["psnr_input"], result["psnr_output"]
    noise = f"{result['strength']} {result['task']}"
    return (
        f"{result['picture']:<12} {noise:<18} PSNR {before:6.2f} -> {after:6.2f} dB  ({after - before:+.2f}, "
        f"{result['protocol']})"
    )
