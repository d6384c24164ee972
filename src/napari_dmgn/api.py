"""Restore images: an array in, its clean background and noise out, one frame after the other."""

import difflib
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_dmgn import __version__, zoo
from napari_dmgn.devices import resolve_device, resolve_precision
from napari_dmgn.images import (
    Array,
    FloatArray,
    IntensityRange,
    Layout,
    Results,
    check_image,
    check_range,
    find_ranges,
    read_frame,
    read_layout,
)

if TYPE_CHECKING:
    from napari_dmgn.inference import Planes
    from napari_dmgn.model.descriptor import Model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restoration:
    """What the network made of an image.

    Attributes
    ----------
    background : the clean image; shape and, unless asked otherwise, dtype of the input
    noise : float32 in the input's units of intensity; RGB without alpha, other axes as the input
    noise_map : float32 in [0, 1], how much noise a pixel holds; the input's axes without colours
    coarse : the first estimate of the background, before refinement; like `background`
    provenance : what it was made with: model and its sha256, versions, device, range, seconds ...
    masks : what each deep-masking cell let pass, by name, if asked for; rows and columns of the cell
    """

    background: Array
    noise: npt.NDArray[np.float32]
    noise_map: npt.NDArray[np.float32]
    coarse: Array
    provenance: dict[str, Any]
    masks: dict[str, npt.NDArray[np.float32]] | None = None


@dataclass(frozen=True, kw_only=True)
class RestoreEvent:
    """Progress after one step of one frame; the last event carries the restoration.

    Attributes
    ----------
    done, total : steps over all frames; a window is a step in each of the network's phases
    frame, frames : the frame at work, counted from 0, and how many there are
    restoration : the result, in the last event only
    """

    done: int
    total: int
    frame: int
    frames: int
    restoration: Restoration | None = None


Events = Generator[RestoreEvent, None, None]


def restore(
    image: npt.ArrayLike,
    task: str = "rain",
    *,
    model: "str | Path | Model | None" = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    masks: bool = False,
    dtype: npt.DTypeLike = "same",
    progress: Callable[[RestoreEvent], object] | None = None,
) -> Restoration:
    """Separate an image into its clean background and what lies over it.

    Parameters
    ----------
    image : (..., H, W) or (..., H, W, 3 or 4) integers or floats
        Leading axes are frames, restored one by one. Never changed.
    task : what to remove: rain, haze or reflection
    model : a model's name, a checkpoint file or a loaded model; None takes the task's own
    channel_axis : axis of channels that are restored each on its own
    rgb : whether the last axis is RGB or RGBA; None looks at the shape
    intensity_range : intensities that the network sees as 0 and 1, the same for all frames
        `"auto"` is 0..255 for uint8, 0 to the largest value for other integers, 0..1 for floats
        within it and their extremes for others, for each channel of `channel_axis` alone.
        `"dtype"` is the limits of an integer type. What lies outside the range is kept.
    device : auto, cpu, cuda, cuda:1, mps
    precision : auto, bf16 or float32
    tile : side of the square windows in pixels; None takes the whole image at once
    halo : pixels that a window reads beyond what it writes
    masks : also return the masks of the deep-masking cells
    dtype : type of the background; values are rounded and saturated, not rescaled
    progress : called with a `RestoreEvent` after every window

    Returns
    -------
    Restoration
        NaN and infinite pixels stay as they were in `background` and are 0 in `noise`.

    Raises
    ------
    ValueError
        If an argument cannot be served. It names the value seen and the value wanted.
    """
    events = iter_restore(
        image,
        task,
        model=model,
        channel_axis=channel_axis,
        rgb=rgb,
        intensity_range=intensity_range,
        device=device,
        precision=precision,
        tile=tile,
        halo=halo,
        masks=masks,
        dtype=dtype,
    )
    with closing(events):  # also where `progress` raises
        for event in events:
            if progress is not None:
                progress(event)
            if event.restoration is not None:
                return event.restoration
    raise RuntimeError("the events ended without a restoration")


def iter_restore(
    image: npt.ArrayLike,
    task: str = "rain",
    *,
    model: "str | Path | Model | None" = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    masks: bool = False,
    dtype: npt.DTypeLike = "same",
) -> Events:
    """Restore an image window by window, as `restore` does, in steps that a caller can stop.

    The arguments are those of `restore` and are checked at once; work starts with the first event.
    There is one event after every window and a last one that carries the restoration.
    """
    array = check_image(image)
    job = _Job(
        image=array,
        layout=read_layout(array.shape, channel_axis=channel_axis, rgb=rgb),
        wanted_range=check_range(intensity_range),
        dtype=_check_dtype(dtype, array.dtype),
        task=_check_task(task),
        source=_find_source(model, task),
        device=_check_engine(device, precision, tile, halo),
        engine={
            "device": device,
            "precision": precision,
            "tile": tile,
            "halo": halo,
            "masks": bool(masks),
        },
    )
    return job.events()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A restoration whose arguments are known to be good."""

    image: Array
    layout: Layout
    wanted_range: IntensityRange
    dtype: np.dtype[Any]
    task: str
    source: "zoo.ModelInfo | Model"
    device: str
    engine: Mapping[str, Any]

    def events(self) -> Events:
        started = time.perf_counter()
        model = self._load_model()
        ranges = find_ranges(self.image, self.layout, self.wanted_range)
        results = Results(self.layout, self.dtype)
        reports: list[dict[str, Any]] = []
        steps = 0
        for index in range(self.layout.frames):
            low, high = ranges[self.layout.channel(index)]
            view = self.layout.frame(self.image, index)
            frame = read_frame(view, rgb=self.layout.rgb, low=low, high=high)
            planes, steps = yield from self._infer(model, frame.planes, index)
            results.put(
                index,
                frame,
                background=planes.background,
                noise=planes.noise,
                noise_map=planes.noise_map,
                coarse=planes.coarse,
                masks=planes.masks,
            )
            reports.append(planes.report)
        provenance = self._provenance(model, ranges, results, reports)
        provenance["seconds"] = round(time.perf_counter() - started, 3)
        restoration = Restoration(
            background=results.background,
            noise=results.noise,
            noise_map=results.noise_map,
            coarse=results.coarse,
            provenance=provenance,
            masks=results.masks if self.engine["masks"] else None,
        )
        frames, total = self.layout.frames, self.layout.frames * steps
        yield RestoreEvent(done=total, total=total, frame=frames - 1, frames=frames, restoration=restoration)

    def _load_model(self) -> "Model":
        if isinstance(self.source, zoo.ModelInfo):
            return zoo.load_model(self.source.path, device=self.device)
        return self.source

    def _infer(
        self, model: "Model", planes: FloatArray, index: int
    ) -> "Generator[RestoreEvent, None, tuple[Planes, int]]":
        """Pass the steps of one frame on as events of all; return its planes and how many there were."""
        from napari_dmgn.inference import Planes, iter_infer

        frames, total = self.layout.frames, 0
        # closing(): a caller who stops frees the network's memory here and now.
        with closing(iter_infer(model, planes, **self.engine)) as steps:
            for step in steps:
                if isinstance(step, Planes):
                    return step, total
                total = step.total
                yield RestoreEvent(
                    done=index * total + step.done,
                    total=frames * total,
                    frame=index,
                    frames=frames,
                )
        raise RuntimeError("inference ended without a result")

    def _provenance(
        self,
        model: "Model",
        ranges: tuple[tuple[float, float], ...],
        results: Results,
        reports: list[dict[str, Any]],
    ) -> dict[str, Any]:
        import torch

        last = reports[-1]  # frames differ only where memory ran out; `fallbacks` tells
        same = len(set(ranges)) == 1
        return {
            "version": __version__,
            "torch": str(torch.__version__),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": self.task,
            "model": model.metadata.name,
            "model_task": model.metadata.task,
            "sha256": model.metadata.sha256,
            "device": last["device"],
            "precision": last["precision"],
            "tile": last["tile"],
            "halo": last["halo"],
            "windows": sum(int(report["windows"]) for report in reports),
            "fallbacks": list(dict.fromkeys(text for report in reports for text in report["fallbacks"])),
            "shape": list(self.image.shape),
            "dtype": self.image.dtype.str,
            "axes": list(self.layout.axes),
            "intensity_range": list(ranges[0]) if same else [list(pair) for pair in ranges],
            "clipped_pixels": results.clipped_pixels,
            "nonfinite_pixels": results.nonfinite_pixels,
        }


def _check_task(task: object) -> str:
    if isinstance(task, str) and task in zoo.TASKS:
        return task
    near = difflib.get_close_matches(str(task), zoo.TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown task {task!r}; {hint}The tasks are {', '.join(zoo.TASKS)}")


def _check_dtype(wanted: npt.DTypeLike, own: np.dtype[Any]) -> np.dtype[Any]:
    if isinstance(wanted, str) and wanted == "same":
        return own
    try:
        dtype = np.dtype(wanted)
    except TypeError:
        dtype = np.dtype(object)
    if wanted is None or dtype.kind not in "iuf":
        raise ValueError(f"dtype is 'same' or a type of integers or floats; got {wanted!r}")
    return dtype


def _check_engine(device: str, precision: str, tile: object, halo: object) -> str:
    """Check the settings of the engine and return the device that they mean here."""
    if not (tile is None or tile == "auto" or _is_whole(tile, 1)):
        raise ValueError(f"tile is 'auto', None or a whole number of pixels >= 1; got {tile!r}")
    if not (halo == "exact" or _is_whole(halo, 0)):
        raise ValueError(f"halo is 'exact' or a whole number of pixels >= 0; got {halo!r}")
    resolved = resolve_device(device)
    resolve_precision(precision, resolved)
    return resolved


def _is_whole(value: object, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and int(cast("int", value)) >= least


def _find_source(model: object, task: str) -> "zoo.ModelInfo | Model":
    """Find the model without loading it, so that a wrong one is told before any work."""
    if model is None:
        return zoo.find_model(task)
    if hasattr(model, "network") and hasattr(model, "metadata"):
        loaded = cast("Model", model)
        _tell_other_task(loaded.metadata.name, loaded.metadata.task, task)
        return loaded
    if not isinstance(model, (str, Path)):
        raise ValueError(f"model is a name, a checkpoint file or a Model; got {model!r}")
    info = zoo.find_model(model)
    _tell_other_task(info.name, info.task, task)
    return info


def _tell_other_task(name: str, trained: str, task: str) -> None:
    if trained != task:
        _LOG.warning("model %r was trained for %s; it is used for %s as asked", name, trained, task)
