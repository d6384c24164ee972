"""One restoration off the GUI thread: frame by frame, with progress, cancel, and an outcome in words."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn import api, zoo
from napari_dmgn.plugin import conservation, estimate, likeness
from napari_dmgn.plugin.beside_gui import beside_gui
from napari_dmgn.plugin.results import DEFAULT_OUTPUTS, NewLayer, result_layers
from napari_dmgn.plugin.source import Source, frame_groups
from napari_dmgn.plugin.volumes import MemoryVolume, StoreVolume, Volume
from napari_dmgn.tiling import downscale_factor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from napari_dmgn.api import Restoration, RestoreEvent
    from napari_dmgn.images import IntensityRange

__all__ = [
    "Cancelled",
    "Events",
    "Failed",
    "Outcome",
    "Request",
    "Restored",
    "Unfinished",
    "explain",
    "run",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run, complete: nothing is asked of a widget or a layer once it has started.

    Attributes
    ----------
    outputs : names of `results.OUTPUTS` to add
    masks : also keep the cells' masks
    store : folder ending in .zarr for the results, or None for the memory
    not_trained_for : what the model's card says of it
    keep_model : leave the model in memory for the next run
    The others are those of `restore`.
    """

    source: Source
    task: str = "rain"
    model: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    downscale: str | int = "auto"
    ensemble: bool = False
    tile: str | int | None = "auto"
    halo: str | int = "exact"
    dtype: str = "same"
    intensity_range: IntensityRange = "auto"
    outputs: Collection[str] = DEFAULT_OUTPUTS
    masks: bool = False
    store: Path | None = None
    not_trained_for: Collection[str] = ()
    keep_model: bool = True

    def result_type(self) -> np.dtype[Any]:
        """Type of the background."""
        return self.source.dtype if self.dtype == "same" else np.dtype(self.dtype)

    def engine(self) -> dict[str, Any]:
        """Return the settings of `restore` that are not about the image."""
        names = ("device", "precision", "ensemble", "tile", "halo", "masks", "dtype")
        return {name: getattr(self, name) for name in names} | {"downscale": self._downscale()}

    def _downscale(self) -> str | int:
        """Return the factor for `restore`: of a region that of the whole, so that it shows how the whole will be."""
        if self.downscale != "auto" or self.source.whole:
            return self.downscale
        card, (height, width) = self.card(), self.source.plain_shape[-2:]
        whole = estimate.working_factor("auto", card, self.source)
        return "auto" if whole == downscale_factor("auto", card, (height, width)) else whole

    def card(self) -> Mapping[str, Any]:
        """Return the card of the model; nothing where there is none: the run that needs it says what is wrong."""
        try:
            return zoo.find_model(self.model or self.task).card
        except (OSError, ValueError):
            return {}


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A run that was stopped between two frames, and what it has done."""

    request: Request
    volume: Volume


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The layers to add and the run's provenance; `unfinished` where frames are missing, with the `problem` if any."""

    layers: list[NewLayer]
    provenance: dict[str, Any]
    unfinished: Unfinished | None = None
    problem: Failed | None = None


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Stopped on request before a frame was done; nothing to add."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What went wrong in one sentence, and the traceback where that may help."""

    message: str
    details: str = ""


Outcome = Restored | Cancelled | Failed
Events = Generator["RestoreEvent", None, Outcome]


def run(request: Request, is_canceled: Callable[[], bool], volume: Volume | None = None) -> Events:
    """Restore in the worker's thread; no exception leaves it.

    An exception that crosses threads would carry its traceback, and that the tensors of the failed tile.

    Parameters
    ----------
    request : what to do
    is_canceled : asked after every tile
    volume : of an earlier run that was stopped; its frames are not done again
    """
    try:
        with beside_gui():
            return (yield from _restore(request, is_canceled, volume))
    except Exception as error:
        return _failed(request, error)
    finally:
        if not request.keep_model:
            zoo.forget_models()


def _failed(request: Request, error: Exception) -> Failed:
    """Log what went wrong, put it into words, and let go of what its traceback holds."""
    expected = isinstance(error, ValueError | OSError | MemoryError)
    details = "" if isinstance(error, ValueError) else "".join(traceback.format_exception(error))
    level = logging.WARNING if expected else logging.ERROR
    logger.log(level, "restoring %s failed: %s", request.source.name, error, exc_info=None if expected else error)
    traceback.clear_frames(error.__traceback__)
    message = explain(error)
    if request.model is not None:
        # The widget shows its folder elsewhere.
        message = message.replace(str(request.model), request.model.name)
    return Failed(message=message, details=details)


def _restore(request: Request, is_canceled: Callable[[], bool], volume: Volume | None) -> Events:
    if is_canceled():
        return Cancelled()
    if volume is None:
        volume = _volume(request)
    problem = None
    try:
        if request.model is not None:  # apart from the first frame, whose time is measured
            zoo.shared_model(request.model, device=request.device)
        limits = yield from _limits(request, is_canceled)
        try:
            yield from _frames(request, volume, limits, is_canceled)
        except Exception as error:
            if volume.done == 0:
                raise
            problem = _failed(request, error)  # the frames before it are as good as those of a run that was stopped
    finally:
        if volume.done == 0:  # also where napari, at its end, lets go of the run
            volume.discard()
    if volume.done == 0:
        return Cancelled()
    return _outcome(request, volume, problem)


def _frames(
    request: Request, volume: Volume, limits: IntensityRange, is_canceled: Callable[[], bool]
) -> Generator[RestoreEvent, None, None]:
    """Restore the frames that a volume lacks, until it is cancelled."""
    source, engine = request.source, request.engine()
    for frames in frame_groups(source, volume.done):
        if is_canceled():
            return
        block = source.read(frames)
        # A picture alone keeps its own axes: what is restored is then what a script restores.
        image = block[0].reshape(source.shape) if source.frames == 1 else block
        events = api.iter_restore(
            image, request.task, model=request.model, rgb=source.rgb, intensity_range=limits, **engine
        )
        restoration = yield from _follow(events, frames, source.frames, is_canceled)
        if restoration is None:
            return
        _keep(request, volume, frames, image, restoration)


def _volume(request: Request) -> Volume:
    if request.store is None:
        return MemoryVolume(request.source, request.outputs, request.result_type())
    source = request.source
    key = {name: str(value) for name, value in (*request.engine().items(), ("model", request.model))}
    key |= {"task": request.task, "range": str(request.intensity_range), "layer": source.name}
    key |= {
        "sha256": zoo.find_model(request.model or request.task).sha256,
        "source": f"{source.path} level {source.level} {source.dtype}",
        "placement": repr(dict(source.placement)),
        "pixels": _digest(source),
    }
    return StoreVolume(request.store, source, request.outputs, request.result_type(), key)


def _digest(source: Source) -> str:
    """Hash of the first and last frame: tells layers apart that are alike in all else."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in sorted({0, source.frames - 1}):
        digest.update(source.read(range(frame, frame + 1)).tobytes())
    return digest.hexdigest()


def _limits(request: Request, is_canceled: Callable[[], bool]) -> Generator[RestoreEvent, None, IntensityRange]:
    """Fix the intensities that are 0 and 1, once for the layer: frames and regions alike.

    Of data that are read when they are indexed only the region is looked at.
    """
    source = request.source
    everything = source.whole or not source.lazy
    if request.intensity_range != "auto" or source.dtype == np.uint8 or (source.frames == 1 and source.whole):
        return request.intensity_range
    from napari_dmgn.images import read_layout
    from napari_dmgn.lazy.extremes import block_extremes, volume_limits

    if everything and not source.lazy:
        blocks: Iterator[Any] = iter([np.asarray(source.data)])
    else:
        blocks = (source.read(frames) for frames in frame_groups(source, 0))
    found = []
    for number, block in enumerate(blocks):
        if is_canceled():
            return "auto"
        found.append(block_extremes(block, layout=read_layout(block.shape, rgb=source.rgb)))
        yield api.RestoreEvent(done=0, total=0, frame=number, frames=source.frames)
    layout = read_layout(source.shape, rgb=source.rgb)
    ((low, high),) = volume_limits(found, layout=layout, dtype=source.dtype, wanted="auto")
    # Where all pixels are the same there is no range to fix.
    return (low, high) if low < high else "auto"


def _follow(
    events: Any, frames: range, count: int, is_canceled: Callable[[], bool]
) -> Generator[RestoreEvent, None, Restoration | None]:
    """Pass the steps of some frames on as those of all; None where it was cancelled."""
    # closing(): a cancelled run frees its memory here and now, in the thread that took it.
    with contextlib.closing(events):
        for event in events:
            if is_canceled():
                return None
            if event.restoration is not None:
                return event.restoration  # type: ignore[no-any-return]
            share = len(frames)
            yield api.RestoreEvent(
                done=event.total * frames.start // share + event.done,
                total=-(-event.total * count // share),
                frame=frames.start + event.frame,
                frames=count,
            )
    raise RuntimeError("the run ended without a result")


def _keep(request: Request, volume: Volume, frames: range, image: Any, restoration: Restoration) -> None:
    source = request.source
    results = {name: getattr(restoration, name) for name in ("background", "noise", "noise_map", "coarse")}
    parts = (image, restoration.background, restoration.noise)
    left = conservation.residual(*parts, rgb=source.rgb) if "residual" in request.outputs else None
    if left is not None:
        results["residual"] = left
    report = dict(restoration.provenance)
    report["balance"] = conservation.balance(*parts, rgb=source.rgb, left=left)
    if frames.start == 0:
        report["unlike"] = likeness.notes(likeness.measure(image, rgb=source.rgb, limits=_span(report)))
        report["unlike"] += likeness.microscopy(
            source.data.shape,
            source.dtype,
            rgb=source.rgb,
            units=source.placement["units"],
            not_trained_for=tuple(request.not_trained_for),
        )
    masks = dict(restoration.masks or {})
    if source.frames == 1:
        place = (1, *source.plain_shape[-2:])
        results = {name: a.reshape(*place, *a.shape[len(source.plain_shape) :]) for name, a in results.items()}
        masks = {name: mask.reshape(1, *mask.shape[-2:]) for name, mask in masks.items()}
    volume.put(frames, results, masks, report)
    pixels = source.frame_pixels * len(frames)
    estimate.remember(request.model, request.device, request.precision, report, pixels)


def _span(report: Mapping[str, Any]) -> tuple[float, float] | None:
    limits = report.get("intensity_range")
    return (limits[0], limits[1]) if limits and not isinstance(limits[0], list) else None


def _outcome(request: Request, volume: Volume, problem: Failed | None) -> Restored:
    source = request.source
    complete = volume.done == source.frames
    if complete and isinstance(volume, StoreVolume):
        volume.finish()
    provenance = _provenance(request, volume)
    layers = result_layers(source, volume.arrays(), provenance, volume.masks())
    return Restored(
        layers=layers,
        provenance=provenance,
        unfinished=None if complete else Unfinished(request=request, volume=volume),
        problem=problem,
    )


def _provenance(request: Request, volume: Volume) -> dict[str, Any]:
    """Join the reports of all frames, and add what the widget knows."""
    source, reports = request.source, volume.reports
    record = {key: value for key, value in reports[0].items() if key != "balance"}
    for key in ("windows", "clipped_pixels", "nonfinite_pixels"):
        if key in record:
            record[key] = sum(report[key] for report in reports)
    if errors := [report["halo_error"] for report in reports if "halo_error" in report]:
        record["halo_error"] = max(errors)
    record["seconds"] = round(sum(report.get("seconds", 0) for report in reports), 3)
    record["fallbacks"] = list(dict.fromkeys(text for report in reports for text in report.get("fallbacks", ())))
    low, high = _span(record) or (0.0, 0.0)
    balances = [report["balance"] for report in reports]
    record |= {
        "shape": list(source.shape),
        "frames": source.frames,
        "frames_done": volume.done,
        "level": source.level,
        "crop": [list(span) for span in source.crop],
        "source_path": source.path,
        "store": None if request.store is None else str(request.store),
        "conservation": conservation.conservation(balances, high - low),
    }
    return record


def explain(error: Exception) -> str:
    """Put an exception into a sentence for the status line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return (
            "Not enough memory. Choose a smaller region, a smaller tile or the CPU under Advanced, and Seen: As it is."
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "torch").split(".")[0] != "torch":
        return text  # of an optional package, and how to get it
    if isinstance(error, ImportError) or "WinError 1114" in text:
        return f"PyTorch could not be loaded ({text}). Reinstall torch, or import it before napari starts."
    if isinstance(error, ValueError | OSError):
        return text or type(error).__name__
    return f"Unexpected {type(error).__name__}: {text}" if text else f"Unexpected {type(error).__name__}"


def seconds_left(started: float, event: RestoreEvent, *, before: int = 0) -> float | None:
    """Guess how long a run will go on, by the pace so far; None where nothing is done yet."""
    done = event.done - before
    if done < 1 or not event.total:
        return None
    return (time.perf_counter() - started) * (event.total - event.done) / done
