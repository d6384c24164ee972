"""Make rainy versions of known pictures, restore them, show the gain in PSNR and a before/after sheet."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_model_options,
    check_folder,
    model_arguments,
    print_json,
    run_restore,
)
from napari_dmgn.cli.sheet import Row, write_sheet
from napari_dmgn.files import write_image
from napari_dmgn.images import saturate, unit_to_dtype
from napari_dmgn.metrics import psnr_y
from napari_dmgn.samples import rainy_sample, sample_names

_STRENGTHS = ("light", "heavy")
_SHEET = "before_after.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn demo``."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="DIR",
        help="folder for the pictures; an earlier demo there is replaced (default: demo)",
    )  # fmt: skip
    parser.add_argument("--samples", nargs="+", metavar="NAME", help="pictures to use (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="the rain's seed (default: 0)")
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Restore each picture in light and in heavy rain."""
    check_folder(args.output)
    names = args.samples or sample_names()
    for name in names:
        if name not in sample_names():
            raise UsageError(f"unknown sample {name!r}; expected one of {', '.join(sample_names())}")
    results, rows = [], []
    for name in names:
        for strength in _STRENGTHS:
            result, row = _one(name, strength, args)
            results.append(result)
            rows.append(row)
            if not args.json:
                print(_line(result), flush=True)
    sheet = args.output / _SHEET
    write_sheet(sheet, rows)
    means = [_mean(results, strength) for strength in _STRENGTHS]
    if args.json:
        print_json({"pictures": results, "means": means, "sheet": sheet})
    else:
        for mean in means:
            print(_line(mean))
        print(f"before/after sheet: {sheet}")
    return 0


def _one(name: str, strength: str, args: argparse.Namespace) -> tuple[dict[str, Any], Row]:
    """Restore one picture and write what went in and what came out."""
    sample = rainy_sample(name, strength, args.seed)
    restoration = run_restore(f"{name} {strength}", sample.input, **model_arguments(args))
    args.output.mkdir(parents=True, exist_ok=True)
    noise = saturate(restoration.noise, np.uint8)[0]
    noise_map = unit_to_dtype(restoration.noise_map, np.uint8)
    pictures = {
        "clean": sample.clean,
        "input": sample.input,
        "background": restoration.background,
        "noise": noise,
        "noise_map": noise_map,
    }
    for part, picture in pictures.items():
        write_image(args.output / f"{name}_{strength}_{part}.png", picture)
    before, after = psnr_y(sample.input, sample.clean), psnr_y(restoration.background, sample.clean)
    result = {"picture": name, "rain": strength, "psnr_input": before, "psnr_output": after}
    caption = f"{name}, {strength} rain: PSNR {before:.1f} dB before, {after:.1f} dB after"
    return result, Row(caption, (sample.input, restoration.background, noise, noise_map))


def _mean(results: list[dict[str, Any]], strength: str) -> dict[str, Any]:
    chosen = [result for result in results if result["rain"] == strength]
    numbers = {key: float(np.mean([result[key] for result in chosen])) for key in ("psnr_input", "psnr_output")}
    return {"picture": "mean", "rain": strength} | numbers


def _line(result: dict[str, Any]) -> str:
    before, after = result["psnr_input"], result["psnr_output"]
    return (
        f"{result['picture']:<12} {result['rain']:<6} rain   "
        f"PSNR {before:6.2f} -> {after:6.2f} dB  ({after - before:+.2f})"
    )
