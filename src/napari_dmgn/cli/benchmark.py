"""Measure seconds, megapixels a second and peak memory on random images."""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

from napari_dmgn.cli.common import (
    add_json_option,
    add_model_options,
    model_arguments,
    positive,
    print_json,
    size,
    tile,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn benchmark``."""
    parser.add_argument(
        "--size", type=size, nargs="+", default=[(1024, 1024)], metavar="WIDTHxHEIGHT", help="default: 1024x1024"
    )
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="timed runs (default: 5)")
    add_model_options(parser, downscale=1)  # what is measured is the network
    several = parser.add_argument_group("several cases", "every combination is measured, each in a process of its own")
    several.add_argument("--models", nargs="+", metavar="NAME|PATH", help="in place of --model")
    several.add_argument("--devices", nargs="+", metavar="DEVICE", help="in place of --device")
    several.add_argument("--precisions", nargs="+", choices=("bf16", "float32"), help="in place of --precision")
    several.add_argument("--tiles", nargs="+", type=tile, metavar="auto|none|N", help="in place of --tile")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Time `restore` on uint8 RGB images after one warm-up."""
    cases = _cases(args)
    if len(cases) == 1:
        report = _measure(args, **cases[0])
        if args.json:
            print_json(report)
        else:
            _print(report)
        return 0
    reports = []
    for case in cases:
        reports.append(_in_a_process(args, case))
        if not args.json:
            _print_row(reports[-1], heading=len(reports) == 1)
    if args.json:
        print_json({"cases": reports})
    return 0 if all("error" not in report for report in reports) else 1


def _cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    axes = {
        "model": args.models or [args.model],
        "device": args.devices or [args.device],
        "precision": args.precisions or [args.precision],
        "size": args.size,
        "tile": args.tiles or [args.tile],
    }
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _in_a_process(args: argparse.Namespace, case: dict[str, Any]) -> dict[str, Any]:
    """Measure a case where no other has left its memory behind."""
    width, height = case["size"]
    words = ["benchmark", "--json", "--repeat", str(args.repeat), "--halo", str(args.halo)]
    words += ["--downscale", str(args.downscale)]
    words += ["--ensemble"] if args.ensemble else []
    words += [] if args.task is None else ["--task", args.task]
    words += ["--size", f"{width}x{height}", "--device", case["device"], "--precision", case["precision"]]
    words += ["--tile", "none" if case["tile"] is None else str(case["tile"])]
    words += [] if case["model"] is None else ["--model", str(case["model"])]
    done = subprocess.run([sys.executable, "-m", "napari_dmgn", *words], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        report: dict[str, Any] = json.loads(done.stdout)
        return report
    asked = {**case, "tile": case["tile"], "width": width, "height": height}
    del asked["size"]
    return asked | {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}


def _measure(args: argparse.Namespace, *, size: tuple[int, int], **case: Any) -> dict[str, Any]:
    import numpy as np

    from napari_dmgn.api import restore

    width, height = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    arguments = model_arguments(argparse.Namespace(**vars(args) | case))
    first = restore(image, **arguments)  # loads the model, warms the caches
    arrays = image.nbytes + sum(
        array.nbytes for array in (first.background, first.coarse, first.noise, first.noise_map)
    )
    provenance = first.provenance
    del first
    times = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        restore(image, **arguments)
        times.append(time.perf_counter() - start)
    report = _report(width * height / 1e6, times, provenance)
    return report | {"asked_tile": case["tile"], "arrays_bytes": arrays, "width": width, "height": height}


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
        "downscale": provenance["downscale"],
        "ensemble": provenance["ensemble"],
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
        f"{report['threads']} threads, torch {report['torch']}"
        f"{_smaller(report['downscale'])}{', and mirrored' if report['ensemble'] else ''}\n"
        f"min {report['seconds_min']:.3f} s, median {report['seconds_median']:.3f} s "
        f"of {report['repeat']} runs; "
        f"{report['megapixels_per_second']:.2f} megapixels/s; "
        f"peak memory {memory}"
    )


def _smaller(factor: int) -> str:
    return f", the network sees it {factor} times smaller" if factor > 1 else ""


def _print_row(report: dict[str, Any], *, heading: bool) -> None:
    columns = ("model", "device", "precision", "size", "tile", "megapixels/s", "median s", "peak MiB")
    if heading:
        print("".join(f"{name:>13}" for name in columns), flush=True)
    size = f"{report['width']}x{report['height']}"
    values = [report.get("model") or "", report["device"], report["precision"], size]
    asked = report["tile"] if "error" in report else report["asked_tile"]
    values.append("none" if asked is None else str(asked))
    if "error" in report:
        values.append("  " + report["error"])
    else:
        peak = report["peak_memory_bytes"]
        values += [f"{report['megapixels_per_second']:.2f}", f"{report['seconds_median']:.3f}"]
        values.append("unknown" if peak is None else f"{peak / 2**20:.0f}")
    print("".join(f"{value!s:>13}" for value in values), flush=True)
