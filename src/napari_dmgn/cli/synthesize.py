"""Put synthetic noise on clean images: input, background, noise and what was drawn, for training and tests."""

import argparse
import json
from pathlib import Path

import numpy as np

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_output_options,
    check_folder,
    print_json,
    written_together,
)
from napari_dmgn.cli.sources import check_results, input_files, result_path
from napari_dmgn.files import read_image, write_image
from napari_dmgn.synthesis import KINDS

_PARTS = ("input", "background", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn synthesize``."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="IN", help="clean PNG, JPEG or TIFF files, or folders of them"
    )
    add_output_options(parser)
    parser.add_argument("--task", choices=KINDS, default="rain", help="what to add (default: %(default)s)")
    parser.add_argument(
        "--strength", default="mixed", metavar="PART",
        help="part of the task, such as light or heavy for rain; a wrong one lists all "
        "(default: mixed, one is drawn for each image)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", type=Path, nargs="+", metavar="IN",
        help="pictures to reflect, or other planes for a veil, taken in turn "
        "(default: a photograph that is reflected; the image itself as other plane)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first image; the next takes the next (default: 0)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Degrade every file."""
    from napari_dmgn.synthesis import synthesize

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
    reports = []
    for i, source in enumerate(sources):
        image, layer, seed = read_image(source), layers[i % len(layers)], args.seed + i
        pair = synthesize(
            image.array,
            task=args.task,
            seed=seed,
            strength=args.strength,
            layer=read_image(layer).array if layer else None,
        )
        parameters = {"image": source.name, **pair.parameters} | ({"layer": layer.name} if layer else {})
        with written_together(args.output) as folder:
            for part in _PARTS:
                name = results[source][part].name
                write_image(folder / name, np.asarray(getattr(pair, part)), like=image)
            told = json.dumps(parameters, indent=2) + "\n"
            (folder / results[source]["parameters"].name).write_text(told, encoding="utf-8")
        reports.append({"input": source, "seed": seed, "outputs": results[source], "parameters": parameters})
        if not args.json:
            print(f"{source} -> {results[source]['input']} ({args.task}: {pair.parameters['part']})")
    if args.json:
        print_json(reports)
    return 0


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
