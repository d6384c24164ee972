"""Remove rain, haze or reflections from images: background, noise and noise map, of the input's type and size."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from napari_dmgn.cli.common import (
    UsageError,
    add_json_option,
    add_model_options,
    add_output_options,
    check_folder,
    named,
    one_line,
    print_json,
    task_of,
    whole,
)
from napari_dmgn.cli.jobs import Job, Report, job_of, made_by
from napari_dmgn.cli.sources import check_results, find_sources
from napari_dmgn.lazy import overlapped

_DTYPES = ("same", "uint8", "uint16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``napari-dmgn restore``."""
    parser.add_argument(
        "inputs", type=named, nargs="+", metavar="IN",
        help="PNG, JPEG, WebP, BMP, TIFF or OME-Zarr images, folders of them, or patterns in quotes: 'in/*.png'",
    )  # fmt: skip
    parser.add_argument(
        "--recursive", action="store_true",
        help="look into sub-folders too, but not into links, and keep them in the folder of results",
    )  # fmt: skip
    add_output_options(parser, "replace existing results (otherwise their inputs are skipped)")
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
    parser.add_argument("--channel-axis", type=int, metavar="N", help="restore each channel of the file's axis N alone")
    parser.add_argument("--masks", action="store_true", help="also write the deep-masking cells' masks (TIFF)")
    parser.add_argument(
        "--series", type=whole, metavar="N",
        help="which image of a TIFF that holds several, counted from 0; the results' names say it (default: the first)",
    )  # fmt: skip
    zarr = parser.add_argument_group(
        "OME-Zarr", "Results of OME-Zarr images are such, and of any image where -o ends in .zarr: one image "
        "whose groups are background, noise and noise_map, restored once, at full size (--downscale 1). "
        "A run that was stopped goes on where it was.",
    )  # fmt: skip
    zarr.add_argument("--level", type=whole, default=0, metavar="N", help="resolution to read (default: 0, the finest)")
    zarr.add_argument(
        "--scheduler", metavar="ADDRESS", help="let the workers of this Dask scheduler do it; they share the disk"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Restore every file; one that fails is reported at the end and the others go on."""
    from napari_dmgn.zoo import find_model, shared_model

    check_folder(args.output)
    jobs = _jobs(args)
    reports = {job.source: _existing(job) for job in jobs if not args.overwrite and job.exists()}
    waiting = [job for job in jobs if job.source not in reports]
    if not waiting:  # a model that is not there is told also where there is nothing to do
        find_model(args.model or task_of(args))
    for job in jobs:
        _tell(reports.get(job.source), args)
    stopped: BaseException | None = None
    try:
        if len(waiting) > 1:  # a model that does not load fails once, not once a file
            shared_model(args.model or task_of(args))
        for job, outcome in _outcomes(waiting):
            if isinstance(outcome, Exception):
                if len(jobs) == 1:
                    raise outcome
                outcome = {"input": job.source, "error": one_line(outcome)}
            reports[job.source] = outcome
            _tell(outcome, args)
    except BaseException as error:
        stopped = error
        raise
    finally:  # also of a batch that was stopped
        _sum_up([reports[job.source] for job in jobs if job.source in reports], jobs, args)
        if args.json:
            print_json([reports.get(job.source) or _undone(job, stopped) for job in jobs])
    return 1 if any("error" in report for report in reports.values()) else 0


def _outcomes(jobs: list[Job]) -> Iterator[tuple[Job, Report | Exception]]:
    with ExitStack() as stack:
        if len(jobs) > 1:  # torch, which a single image loads while it is read, and none needs not at all
            from napari_dmgn.inference.memory import reused

            stack.enter_context(reused())  # from image to image
        yield from overlapped(
            jobs,
            read=lambda job: job.read(),
            work=lambda job, image: job.work(image),
            write=lambda job, done: job.write(done),
        )


def _undone(job: Job, why: BaseException | None) -> Report:
    """Report for programs, who get one for each input; people are told once, by `main`."""
    return {"input": job.source, "error": one_line(why) if isinstance(why, Exception) else "stopped"}


def _jobs(args: argparse.Namespace) -> list[Job]:
    sources = find_sources(args.inputs, recursive=args.recursive, stores=True, output=args.output)
    if len(sources) > 1 and args.output.suffix.lower() == ".zarr":
        raise UsageError(f"{str(args.output)!r} holds the results of one image; got {len(sources)}: name a folder")
    jobs = {source: job_of(source, args) for source in sources}
    # A folder that holds its own results is restored again without them.
    made = made_by(jobs.values())
    for source in sources:
        if source.found and made(source.path):
            del jobs[source]
    check_results(
        ((job.source, job.places()) for job in jobs.values()),
        inputs=(job.source for job in jobs.values()),
        overwrite=True,  # what exists is skipped, not refused
    )
    return list(jobs.values())


def _existing(job: Job) -> Report:
    missing = job.missing()
    if missing is not None:
        there = next(path for path in job.results.values() if path.exists())
        error = f"{str(there)!r} exists, {missing!r} does not; pass --overwrite to make all results again"
        return {"input": job.source, "error": error}
    other = job.other()
    if other is not None:
        result = f"{str(job.results['background'])!r} is the result of {other}"
        error = f"{result}; name another place, or pass --overwrite to replace it"
        return {"input": job.source, "error": error}
    return {"input": job.source, "outputs": job.results, "skipped": True}


def _tell(report: Report | None, args: argparse.Namespace) -> None:
    """Say what was done for one input; errors are said at the end."""
    if args.json or report is None or "error" in report:
        return
    if "skipped" in report:
        print(f"{report['input']}: skipped, results of this name exist (--overwrite replaces them)")
    else:
        seconds = report["provenance"].get("seconds", 0.0)
        print(f"{report['input']} -> {report['outputs']['background']} ({seconds:.2f} s)")


def _sum_up(reports: list[Report], jobs: list[Job], args: argparse.Namespace) -> None:
    failed = [report for report in reports if "error" in report]
    for report in failed:
        print(f"napari-dmgn: error: {report['input']}: {report['error']}", file=sys.stderr)
    if len(jobs) > 1 and not args.json:
        skipped = sum("skipped" in report for report in reports)
        restored = len(reports) - skipped - len(failed)
        print(f"{len(jobs)} images: {restored} restored, {skipped} skipped, {len(failed)} failed")


def _intensity_range(text: str) -> str | tuple[float, float]:
    if text in ("auto", "dtype"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(f"expected auto, dtype or LO,HI with LO < HI, got {text!r}")
    return low, high
