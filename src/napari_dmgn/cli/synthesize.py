"""Put synthetic rain on clean images: input, background and noise, for training and tests."""

import argparse
from pathlib import Path

import numpy as np

from napari_dmgn.cli.common import (
    add_json_option,
    add_output_options,
    check_folder,
    check_results,
    input_files,
    print_json,
    result_path,
    written_together,
)
from napari_dmgn.files import read_image, write_image
from napari_dmgn.zoo import TASKS

_PARTS = ("input", "background", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn synthesize``."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="IN", help="clean PNG, JPEG or TIFF files, or folders of them"
    )
    add_output_options(parser)
    parser.add_argument("--task", choices=TASKS, default="rain", help="what to add (default: %(default)s)")
    parser.add_argument(
        "--strength", choices=("light", "heavy", "mixed"), default="mixed", help="default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first image; the next takes the next (default: 0)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Degrade every file."""
    from napari_dmgn.synthesis import synthesize

    sources = input_files(args.inputs)
    check_folder(args.output)
    results = {
        source: {part: result_path(args.output, source, part) for part in _PARTS} for source in sources
    }
    check_results(
        ((source, paths.values()) for source, paths in results.items()),
        inputs=sources,
        overwrite=args.overwrite,
    )
    reports = []
    for seed, source in enumerate(sources, start=args.seed):
        image = read_image(source)
        pair = synthesize(image.array, task=args.task, seed=seed, strength=args.strength)
        with written_together(args.output) as folder:
            for part, path in results[source].items():
                write_image(folder / path.name, np.asarray(getattr(pair, part)), like=image)
        reports.append(
            {"input": source, "seed": seed, "outputs": results[source], "parameters": pair.parameters}
        )
        if not args.json:
            print(f"{source} -> {results[source]['input']}")
    if args.json:
        print_json(reports)
    return 0
