"""Measure seconds, megapixels a second and peak memory on a random image."""

import argparse
import platform
import statistics
import sys
import time
from typing import Any

from napari_dmgn.cli.common import add_json_option, add_model_options, model_arguments, positive, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn benchmark``."""
    parser.add_argument(
        "--size", type=_size, default=(1024, 1024), metavar="WIDTHxHEIGHT", help="default: 1024x1024"
    )
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="timed runs (default: 5)")
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Time `restore` on a uint8 RGB image after one warm-up."""
    import numpy as np

    from napari_dmgn.api import restore

    width, height = args.size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    arguments = model_arguments(args)
    provenance = restore(image, **arguments).provenance  # loads the model, warms the caches
    times = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        restore(image, **arguments)
        times.append(time.perf_counter() - start)
    report = _report(width * height / 1e6, times, provenance) | {"width": width, "height": height}
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _report(megapixels: float, times: list[float], provenance: dict[str, Any]) -> dict[str, Any]:
    import torch

    device = str(provenance["device"])
    median = statistics.median(times)
    return {
        "megapixels": megapixels,
        "repeat": len(times),
        "seconds_min": min(times),
        "seconds_median": median,
        "megapixels_per_second": megapixels / median,
        "peak_memory_bytes": _peak_memory(device),
        "device": device,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "precision": provenance["precision"],
        "tile": provenance["tile"],
        "model": provenance["model"],
        "sha256": provenance["sha256"],
        "torch": torch.__version__,
    }


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def _peak_memory(device: str) -> int | None:
    """Return the most bytes that the process (CPU) or its tensors (CUDA) held, where known."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print(report: dict[str, Any]) -> None:
    peak = report["peak_memory_bytes"]
    memory = "unknown" if peak is None else f"{peak / 2**20:.0f} MiB"
    print(
        f"{report['width']} x {report['height']} ({report['megapixels']:.2f} megapixels), "
        f"model {report['model']}, {report['device']}, {report['precision']}, "
        f"{report['threads']} threads, torch {report['torch']}\n"
        f"min {report['seconds_min']:.3f} s, median {report['seconds_median']:.3f} s "
        f"of {report['repeat']} runs; "
        f"{report['megapixels_per_second']:.2f} megapixels/s; "
        f"peak memory {memory}"
    )


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, 1024x768 say, got {text!r}")
    return width, height
