"""Remove rain from image files: background, noise and noise map, of the input's type and size."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.api import Restoration
from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_model_options,
    add_output_options,
    check_folder,
    check_results,
    input_files,
    model_arguments,
    one_line,
    print_json,
    result_path,
    run_restore,
    unit_to_dtype,
    written_together,
)
from napari_dmgn.files import ImageFile, read_image, write_image
from napari_dmgn.images import saturate

_PARTS = ("background", "noise", "noise_map")
_DTYPES = ("same", "uint8", "uint16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn restore``."""
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="IN", help="PNG, JPEG or TIFF files, or folders of them"
    )
    add_output_options(parser)
    add_model_options(parser)
    parser.add_argument(
        "--range", type=_intensity_range, default="auto", metavar="auto|dtype|LO,HI",
        help="intensities of black and white; write --range=-1,1 for a negative one (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="same",
        help="data type of the results; values are rounded and cut off, not rescaled (default: same)",
    )  # fmt: skip
    parser.add_argument(
        "--rgb", action=argparse.BooleanOptionalAction, help="the last axis is colour or not (default: guess)"
    )
    parser.add_argument(
        "--channel-axis", type=int, metavar="N", help="restore each channel of this axis alone"
    )
    parser.add_argument(
        "--masks", action="store_true", help="also write the deep-masking cells' masks (TIFF)"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Restore every file; one that fails is reported and the others go on."""
    from napari_dmgn.zoo import load_model

    sources = input_files(args.inputs)
    check_folder(args.output)
    results = {source: _result_paths(source, args) for source in sources}
    check_results(
        ((source, paths.values()) for source, paths in results.items()),
        inputs=sources,
        overwrite=args.overwrite,
    )
    if len(sources) > 1:  # a model that does not load fails once, not once a file
        load_model(args.model or args.task)

    reports = []
    failures = 0
    for source in sources:
        try:
            reports.append(_restore_file(source, results[source], args))
        except (ValueError, OSError, MemoryError) as error:
            if len(sources) == 1:
                raise
            failures += 1
            reports.append({"input": source, "error": one_line(error)})
            print(f"napari-dmgn: error: {source}: {one_line(error)}", file=sys.stderr)
    if args.json:
        print_json(reports)
    return 1 if failures else 0


def _restore_file(source: Path, paths: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    image = read_image(source)
    restoration = run_restore(
        source.name,
        image.array,
        **model_arguments(args),
        **_axes(image, args),
        intensity_range=args.range,
        masks=args.masks,
        dtype=args.dtype,
    )
    written = _write(restoration, paths, image, overwrite=args.overwrite)
    if not args.json:
        seconds = restoration.provenance.get("seconds", 0.0)
        print(f"{source} -> {paths['background']} ({seconds:.2f} s)")
    return {"input": source, "outputs": written, "provenance": restoration.provenance}


def _axes(image: ImageFile, args: argparse.Namespace) -> dict[str, Any]:
    """Return what the user says of the axes, or else what the file says."""
    if args.rgb is not None or args.channel_axis is not None:
        return {"rgb": args.rgb, "channel_axis": args.channel_axis}
    return {"rgb": image.rgb, "channel_axis": image.channel_axis}


def _write(
    restoration: Restoration, paths: dict[str, Path], image: ImageFile, *, overwrite: bool
) -> dict[str, Path]:
    """Write all results of one input, or none."""
    masks = _mask_paths(restoration, paths)
    # Which masks there are, only the network knows.
    check_results([(paths["background"], masks.values())], inputs=[], overwrite=overwrite)
    paths = paths | masks
    with written_together(paths["background"].parent) as folder:
        for name, array in _arrays(restoration):
            # Only colours are an axis that the map lacks, unless each of them was restored alone.
            rgb = array.ndim > restoration.noise_map.ndim or bool(image.rgb and array.ndim == image.array.ndim)
            write_image(folder / paths[name].name, array, like=image, rgb=rgb)
    return paths


def _arrays(restoration: Restoration) -> Iterator[tuple[str, np.ndarray]]:
    dtype = restoration.background.dtype
    yield "background", restoration.background
    yield "noise", saturate(restoration.noise, dtype)[0]
    yield "noise_map", unit_to_dtype(restoration.noise_map, dtype)
    for name, mask in (restoration.masks or {}).items():
        yield f"mask_{name}", mask


def _mask_paths(restoration: Restoration, paths: dict[str, Path]) -> dict[str, Path]:
    path = paths["background"]
    stem = path.name.rpartition("_background")[0]
    names = restoration.masks or {}
    return {f"mask_{name}": path.with_name(f"{stem}_mask_{name.replace('/', '-')}.tif") for name in names}


def _result_paths(source: Path, args: argparse.Namespace) -> dict[str, Path]:
    paths = {part: result_path(args.output, source, part) for part in _PARTS}
    if paths["background"].suffix.lower() == ".png" and args.dtype == "float32":
        raise UsageError(f"PNG holds no {args.dtype}, which --dtype asks for the results of {str(source)!r}")
    return paths


def _intensity_range(text: str) -> str | tuple[float, float]:
    if text in ("auto", "dtype"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto, dtype or LO,HI, got {text!r}") from None
    return low, high
