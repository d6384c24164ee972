"""Put synthetic noise on clean images: input, background, noise and what was drawn, for training and tests."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_output_options,
    check_folder,
    named,
    one_line,
    print_json,
    seed,
    written_together,
)
from napari_dmgn.cli.sources import check_results, input_files, result_path
from napari_dmgn.files import ImageFile, read_image, write_image
from napari_dmgn.synthesis import KINDS

_PARTS = ("input", "background", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn synthesize``."""
    parser.add_argument(
        "inputs",
        type=named,
        nargs="+",
        metavar="IN",
        help="clean pictures (PNG, JPEG, WebP, BMP, TIFF), or folders",
    )
    add_output_options(parser)
    parser.add_argument("--task", choices=KINDS, default="rain", help="what to add (default: %(default)s)")
    parser.add_argument(
        "--strength", default="mixed", metavar="PART",
        help="part of the task, such as light or heavy for rain; a wrong one lists all "
        "(default: mixed, one is drawn for each image)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=named, nargs="+", metavar="IN",
        help="pictures to reflect, or other planes for a veil, taken in turn "
        "(default: a photograph that is reflected; the image itself as other plane)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the first image; the next takes the next (default: 0)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Degrade every file; one that fails is told, the others go on, and the status is 1."""
    sources = input_files(args.inputs)
    layers = input_files(args.layer) if args.layer else [None]
    check_folder(args.output)
    _check_part(args.task, args.strength)
    _check_layer(args)
    results = {source: _targets(args.output, source) for source in sources}
    check_results(
        ((source, paths.values()) for source, paths in results.items()),
        inputs=[*sources, *(layer for layer in layers if layer)],
        overwrite=args.overwrite,
    )
    reports: list[dict[str, Any]] = []
    for i, source in enumerate(sources):
        try:
            reports.append(_synthesize(source, results[source], layers[i % len(layers)], args.seed + i, args))
        except (ValueError, OSError) as error:
            if len(sources) == 1:
                raise
            reports.append({"input": source, "error": one_line(error)})
            print(f"napari-dmgn: error: {reports[-1]['error']}", file=sys.stderr)
    if args.json:
        print_json(reports)
    return 1 if any("error" in report for report in reports) else 0


def _synthesize(
    source: Path, results: dict[str, Path], layer: Path | None, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    from napari_dmgn.synthesis import synthesize

    image, other = _picture(source), None if layer is None else _picture(layer).array
    try:
        pair = synthesize(image.array, task=args.task, seed=seed, strength=args.strength, layer=other)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    parameters = {"image": source.name, **pair.parameters} | ({"layer": layer.name} if layer else {})
    with written_together(args.output) as folder:
        for part in _PARTS:
            write_image(folder / results[part].name, np.asarray(getattr(pair, part)), like=image)
        told = json.dumps(parameters, indent=2) + "\n"
        (folder / results["parameters"].name).write_text(told, encoding="utf-8")
    if not args.json:
        print(f"{source} -> {results['input']} ({args.task}: {pair.parameters['part']})")
    return {"input": source, "seed": seed, "outputs": results, "parameters": parameters}


def _picture(path: Path) -> ImageFile:
    """Read one picture; its alpha, if it has one, is no part of what is degraded."""
    image = read_image(path)
    array = image.array
    colours = array.ndim == 3 and array.shape[2] in (3, 4) and image.rgb is not False
    if array.ndim > (3 if colours else 2):
        raise ValueError(f"{path} is a stack of shape {array.shape}; wanted one picture, (H, W) or (H, W, 3)")
    return replace(image, array=array[..., :3]) if colours else image


def _targets(folder: Path, source: Path) -> dict[str, Path]:
    paths = {part: result_path(folder, source, part) for part in _PARTS}
    stem = paths["input"].name.rpartition("_input")[0]
    return {**paths, "parameters": folder / f"{stem}_parameters.json"}


def _check_part(task: str, strength: str) -> None:
    from napari_dmgn.synthesis.mixtures import TASK_PARTS

    known = [*TASK_PARTS[task], "mixed"]
    if strength not in known:
        raise UsageError(f"{task} has no strength {strength!r}; wanted one of {', '.join(known)}")


def _check_layer(args: argparse.Namespace) -> None:
    from napari_dmgn.synthesis.mixtures import mixture

    if args.layer and not mixture(args.task).wants_layer:
        raise UsageError(f"{args.task} has no use for --layer; it goes with --task reflection or veil")
