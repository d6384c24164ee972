"""One image of the command ``restore``: read, restored, and its results written."""

import argparse
import glob
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.api import Restoration
from napari_dmgn.cli.common import Bar, UsageError, model_arguments, run_restore, task_of, written_together
from napari_dmgn.cli.sources import Source, check_results, result_path
from napari_dmgn.files import ImageFile, is_store, read_image, read_notes, write_image
from napari_dmgn.images import saturate, unit_to_dtype
from napari_dmgn.lazy import Cluster, Destination, Here, Input, StoreRun
from napari_dmgn.zoo import find_model, shared_model

__all__ = ["Job", "Report", "StoreJob", "job_of", "made_by"]

PARTS = ("background", "noise", "noise_map")
_TOLD = {"sha256": "a model of sha256"}
_MASK = "_mask_"  # between an image's name and that of a cell
_MASK_FILE = re.compile(rf"(.+){_MASK}(?:background|noise|refine)-\d+\.tif")

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """An image file, restored in memory.

    Attributes
    ----------
    source : the input
    results : a path for each part
    args : of the command line
    """

    source: Path
    results: dict[str, Path]
    args: argparse.Namespace

    def places(self) -> Iterator[Path]:
        """Yield what no other image's results may be called; of masks, which only the network knows, a pattern."""
        yield from self.results.values()
        if self.args.masks:
            yield self.results["background"].with_name(f"{_stem(self.results)}{_MASK}*.tif")

    def exists(self) -> bool:
        """Whether any of the results is there."""
        return any(path.exists() for path in self.results.values())

    def missing(self) -> str | None:
        """Name of a result that is wanted and not there, or None; of masks, which only the network knows, a pattern."""
        for path in self.results.values():
            if not path.exists():
                return path.name
        if self.args.masks:
            folder, stem = self.results["background"].parent, _stem(self.results)
            if not any(folder.glob(f"{glob.escape(stem)}{_MASK}*.tif")):
                return f"{stem}{_MASK}*.tif"
        return None

    def other(self) -> str | None:
        """What else the results that exist say they were made of or with; None where nothing else, and for files."""
        return None

    def read(self) -> Any:
        """Load what `work` needs."""
        image = read_image(self.source, series=self.args.series)
        return image.as_stored() if _axes_are_the_files(self.args) else image

    def work(self, image: Any) -> Any:
        """Return what `write` needs."""
        return image, run_restore(
            self.source.name,
            image.array,
            **model_arguments(self.args),
            **_axes(image, self.args),
            intensity_range=self.args.range,
            masks=self.args.masks,
            dtype=self.args.dtype,
        )

    def write(self, done: Any) -> Report:
        """Write all results, or none."""
        image, restoration = done
        masks = _mask_paths(restoration, self.results)
        # Which masks there are, only the network knows.
        check_results([(self.source, masks.values())], inputs=[], overwrite=self.args.overwrite)
        paths = self.results | masks
        colours = image.rgb or (self.args.channel_axis is not None and "S" in (image.axes or ""))
        with written_together(paths["background"].parent) as folder:
            for name, array in _arrays(restoration):
                # Only colours are an axis that the map lacks, unless each of them was restored alone.
                rgb = array.ndim > restoration.noise_map.ndim or bool(colours and array.ndim == image.array.ndim)
                write_image(folder / paths[name].name, array, like=image, rgb=rgb)
        return {"input": self.source, "outputs": paths, "provenance": restoration.provenance}


class StoreJob(Job):
    """An image restored window by window into OME-Zarr images; it is never in memory as a whole."""

    def exists(self) -> bool:
        """Whether any of the results is there, and no run is left to be finished."""
        where = Destination.of(self.args.output, self.results, self.source.name)
        return not where.unfinished and super().exists()

    def other(self) -> str | None:
        """What else the results that exist say they were made of or with, or None."""
        model = find_model(self.args.model or task_of(self.args))
        wanted = {
            "input": self.source.name,
            "level": self.args.level,
            "task": task_of(self.args),
            "sha256": model.sha256,
        }
        notes = read_notes(self.results["background"])
        for name, value in wanted.items():
            if name in notes and notes[name] != value:
                return f"{_TOLD.get(name, name)} {notes[name]!r}, not {value!r}"
        return None

    def read(self) -> Any:
        """Nothing yet: windows are read as they are needed."""

    def work(self, image: Any) -> Any:
        """Restore and write; return the report."""
        args = self.args
        arguments = model_arguments(args)
        del arguments["downscale"], arguments["ensemble"]  # `job_of` has seen to it that they ask for nothing
        source = Input(
            path=str(self.source.absolute()), level=args.level, rgb=False if _axes_are_the_files(args) else args.rgb
        )
        run = StoreRun(
            source,
            Destination.of(args.output, self.results, self.source.name),
            overwrite=args.overwrite,
            **arguments,
            **_axes(source.open(), args),
            intensity_range=args.range,
            dtype=args.dtype,
        )
        if not args.scheduler:  # what cannot run here is told before anything is written
            shared_model(args.model or task_of(args), args.device)
        bar = Bar(self.source.name)
        try:
            with Cluster(args.scheduler) if args.scheduler else Here() as workers, closing(run.steps(workers)) as steps:
                for event in steps:
                    bar(event)
        finally:
            bar.close()
        return {"input": self.source, "outputs": self.results, "provenance": run.provenance}

    def write(self, done: Any) -> Report:
        """Nothing more: `work` has written window by window."""
        report: Report = done
        return report


def job_of(source: Source, args: argparse.Namespace) -> Job:
    """Decide where the results of an image go, and how they get there.

    Raises
    ------
    UsageError
        If the arguments ask for what the results cannot be.
    """
    output, folder = args.output, args.output / source.folder
    collection, store = output.suffix.lower() == ".zarr", is_store(source.path)
    here, there = source.path.resolve(), output.resolve()
    if there.is_relative_to(here) or (collection and here.is_relative_to(there)):
        raise UsageError(f"the result {str(output)!r} would replace an input, or lie in it")
    if collection:
        results = {part: output / part for part in PARTS}
        _check_collection(output, args)
    else:
        # Series of one file have results beside each other.
        series = "" if args.series is None else f"series{args.series}_"
        results = {part: result_path(folder, source.path, series + part, store=store) for part in PARTS}
    if collection or store:
        if args.masks:
            raise UsageError("--masks is for results in files; OME-Zarr results have no masks")
        if args.downscale not in ("auto", 1):
            raise UsageError("--downscale is for results in files; OME-Zarr images are restored at full size")
        if args.ensemble:
            raise UsageError("--ensemble is for results in files; OME-Zarr images are restored once, window by window")
        if args.series is not None:
            raise UsageError("--series is for TIFF images whose results are files, not OME-Zarr")
        if args.level and not store:
            raise UsageError(f"--level is for OME-Zarr images; {str(source.path)!r} has one resolution")
        return StoreJob(source=source.path, results=results, args=args)
    for name in ("level", "scheduler"):
        if getattr(args, name):
            raise UsageError(f"--{name} is for OME-Zarr images; {str(source.path)!r} is restored in memory")
    if results["background"].suffix.lower() == ".png" and args.dtype == "float32":
        raise UsageError(f"PNG holds no {args.dtype}, which --dtype asks for the results of {str(source.path)!r}")
    return Job(source=source.path, results=results, args=args)


def made_by(jobs: Iterable[Job]) -> Callable[[Path], bool]:
    """Return what tells whether a file is, or would be, a result of any job."""
    results: set[Path] = set()
    stems: set[Path] = set()
    for job in jobs:
        results.update(path.absolute() for path in job.results.values())
        if not isinstance(job, StoreJob):  # which writes no masks
            stems.add(job.results["background"].absolute().with_name(_stem(job.results)))

    def made(path: Path) -> bool:
        path = path.absolute()
        mask = _MASK_FILE.fullmatch(path.name)
        return path in results or bool(mask and path.with_name(mask[1]) in stems)

    return made


def _check_collection(output: Path, args: argparse.Namespace) -> None:
    if output.exists() and not is_store(output):
        raise UsageError(f"{str(output)!r} exists and is no Zarr store")
    if output.exists() and not args.overwrite and not (output / PARTS[0]).exists():
        raise UsageError(f"{str(output)!r} exists and is another image; pass --overwrite to replace it")


def _axes_are_the_files(args: argparse.Namespace) -> bool:
    """Whether the user speaks of axes as they are in the file, where colours are not always the last."""
    return args.rgb is False or (args.rgb is None and args.channel_axis is not None)


def _axes(image: ImageFile, args: argparse.Namespace) -> dict[str, Any]:
    """Return what the user says of the axes, or else what the file says."""
    if args.rgb is not None or args.channel_axis is not None:
        return {"rgb": args.rgb, "channel_axis": args.channel_axis}
    return {"rgb": image.rgb, "channel_axis": image.channel_axis}


def _arrays(restoration: Restoration) -> Iterator[tuple[str, np.ndarray]]:
    dtype = restoration.background.dtype
    yield "background", restoration.background
    yield "noise", saturate(restoration.noise, dtype)[0]
    yield "noise_map", unit_to_dtype(restoration.noise_map, dtype)
    for name, mask in (restoration.masks or {}).items():
        yield f"mask_{name}", mask


def _mask_paths(restoration: Restoration, paths: dict[str, Path]) -> dict[str, Path]:
    path, stem = paths["background"], _stem(paths)
    names = restoration.masks or {}
    return {f"mask_{name}": path.with_name(f"{stem}{_MASK}{name.replace('/', '-')}.tif") for name in names}


def _stem(paths: dict[str, Path]) -> str:
    """What the names of an image's results start with."""
    return paths["background"].name.rpartition("_background")[0]
