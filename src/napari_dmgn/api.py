"""Restore images: an array in, its clean background and noise out, one frame after the other."""

import difflib
import logging
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
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
    Picture,
    Results,
    check_image,
    check_range,
    find_ranges,
    read_layout,
)

if TYPE_CHECKING:
    from napari_dmgn.inference import Part
    from napari_dmgn.model.descriptor import Model

_LOG = logging.getLogger(__name__)

# Frames that pass the network together hold at most so many pixels in all. Measured on one core: frames of
# 64x64 pixels take 1.9 ms each together and 11.6 ms alone, of 256x256 pixels 28 and 34, of 512x512 the same.
_BATCH_PIXELS = 1 << 17
# Pixels that are converted to the results' types at a time.
_PUT_PIXELS = 1 << 19
# Attributes of a layer, and of a part of one; no array has them.
_LAYER_MARKS = (("data", "affine", "axis_labels"), ("data", "placement", "crop"))


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
    source : of a viewer's layer, where it lay and how it looked
    """

    background: Array
    noise: npt.NDArray[np.float32]
    noise_map: npt.NDArray[np.float32]
    coarse: Array
    provenance: dict[str, Any]
    masks: dict[str, npt.NDArray[np.float32]] | None = None
    source: Any = field(default=None, repr=False, compare=False)

    def add_to(self, viewer: Any, outputs: Collection[str] = ("background", "noise", "noise_map")) -> list[Any]:
        """Add the results to a viewer as layers, the background on top, and return them.

        Results of a layer lie where it lay when it was restored.

        Parameters
        ----------
        viewer : the viewer whose layers `restore` takes
        outputs : of background, noise, noise_map, coarse and, where a layer was restored, residual

        Raises
        ------
        ValueError
            If an output is none of these.
        """
        layers: list[Any] = _plugin().add_restoration(self, self.source, viewer, outputs)
        return layers


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
    image: Any,
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
        Leading axes are frames, restored one by one. Never changed. Or an image layer of a viewer:
        its pixels (of several levels the finest) are read into memory.
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
    halo : pixels that a window reads beyond what it writes, where `tile` is a number: the strips
        that `"auto"` cuts a large image into need none. With less than "exact" the provenance's
        `halo_error` is the largest difference, in units of the range, seen at three windows
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
    image: Any,
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
    return iter_restore_into(
        image,
        {},
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


def iter_restore_into(
    image: Any,
    out: Mapping[str, Any],
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
    """Restore an image into given arrays, memory-mapped ones say, as soon as its parts are done.

    Parameters
    ----------
    out : arrays by the names background, noise, noise_map and coarse
        Of the shapes and types that `Restoration` has; None for a result that is not wanted, which
        then is empty. Results that are not named are made. What a stopped run has written stays.

    The other arguments are those of `restore`.
    """
    source = None
    if _is_layer(image):
        image, source = _plugin().open_layer(image)
        rgb = source.rgb if rgb is None and channel_axis is None else rgb
    array = check_image(image)
    layout = read_layout(array.shape, channel_axis=channel_axis, rgb=rgb)
    kind = _check_dtype(dtype, array.dtype)
    job = _Job(
        image=array,
        layout=layout,
        wanted_range=check_range(intensity_range),
        results=Results(layout, kind, out),
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
        layer=source,
    )
    return job.events()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A restoration whose arguments are known to be good."""

    image: Array
    layout: Layout
    wanted_range: IntensityRange
    results: Results
    task: str
    source: "zoo.ModelInfo | Model"
    device: str
    engine: Mapping[str, Any]
    layer: Any = None

    def events(self) -> Events:
        started = time.perf_counter()
        model = self._load_model()
        ranges = find_ranges(self.image, self.layout, self.wanted_range)
        results = self.results
        reports: list[dict[str, Any]] = []
        batches = self._batches()
        steps = 0
        for number, indices in enumerate(batches):
            batch = _Batch(self.image, self.layout, indices, ranges, results)
            report, steps = yield from self._infer(model, batch, number, len(batches))
            reports.append(report)
        provenance = self._provenance(model, ranges, results, reports)
        provenance["seconds"] = round(time.perf_counter() - started, 3)
        restoration = Restoration(
            background=results.background,
            noise=results.noise,
            noise_map=results.noise_map,
            coarse=results.coarse,
            provenance=provenance,
            masks=results.masks if self.engine["masks"] else None,
            source=self.layer,
        )
        frames, total = self.layout.frames, len(batches) * steps
        yield RestoreEvent(done=total, total=total, frame=frames - 1, frames=frames, restoration=restoration)

    def _batches(self) -> list[range]:
        """Frames that pass the network together: small ones, which alone would keep it waiting."""
        rows, columns = self.layout.frame_shape
        count = max(1, _BATCH_PIXELS // (rows * columns))
        frames = range(self.layout.frames)
        return [frames[start : start + count] for start in range(0, len(frames), count)]

    def _load_model(self) -> "Model":
        if isinstance(self.source, zoo.ModelInfo):
            return zoo.load_model(self.source.path, device=self.device)
        return self.source

    def _infer(
        self, model: "Model", batch: "_Batch", number: int, batches: int
    ) -> "Generator[RestoreEvent, None, tuple[dict[str, Any], int]]":
        """Pass the steps of some frames on as events of all; return their report and how many there were."""
        from napari_dmgn.inference import Planes, iter_infer

        total = 0
        # closing(): a caller who stops frees the network's memory here and now.
        with closing(iter_infer(model, batch, sink=batch, **self.engine)) as steps:
            for step in steps:
                if isinstance(step, Planes):
                    return step.report, total
                total = step.total
                yield RestoreEvent(
                    done=number * total + step.done,
                    total=batches * total,
                    frame=batch.indices[0],
                    frames=self.layout.frames,
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
        errors = [float(report["halo_error"]) for report in reports if "halo_error" in report]
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
            **({"halo_error": max(errors)} if errors else {}),
            "windows": sum(int(report["windows"]) for report in reports),
            "fallbacks": list(dict.fromkeys(text for report in reports for text in report["fallbacks"])),
            "shape": list(self.image.shape),
            "dtype": self.image.dtype.str,
            "axes": list(self.layout.axes),
            "intensity_range": list(ranges[0]) if same else [list(pair) for pair in ranges],
            "clipped_pixels": results.clipped_pixels,
            "nonfinite_pixels": results.nonfinite_pixels,
        }


class _Batch:
    """Frames as the engine reads them and the place where it puts their parts."""

    def __init__(
        self,
        image: Array,
        layout: Layout,
        indices: range,
        ranges: tuple[tuple[float, float], ...],
        results: Results,
    ) -> None:
        self.indices = indices
        self._results = results
        self._pictures = []
        for index in indices:
            low, high = ranges[layout.channel(index)]
            self._pictures.append(Picture(layout.frame(image, index), rgb=layout.rgb, low=low, high=high))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""
        return (len(self._pictures), 3, *self._pictures[0].shape)

    def __getitem__(self, place: tuple[slice, ...]) -> FloatArray:
        """Read a part of every frame."""
        parts = [picture.part(*place[2:]).planes for picture in self._pictures]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def put(self, part: "Part") -> None:
        """Write what the network made of a part of every frame."""
        counted = self._results.clipped_pixels, self._results.nonfinite_pixels
        try:
            self._put(part)
        except BaseException:  # out of memory, say: the part comes again
            self._results.clipped_pixels, self._results.nonfinite_pixels = counted
            raise

    def _put(self, part: "Part") -> None:
        (first, last), (left, right) = part.rows, part.columns
        step = max(1, _PUT_PIXELS // max(right - left, 1))
        for n, (index, picture) in enumerate(zip(self.indices, self._pictures, strict=True)):
            for row in range(first, last, step):  # the last strip's part is the largest
                rows, columns = slice(row, min(row + step, last)), slice(left, right)
                own = slice(rows.start - first, rows.stop - first)
                self._results.put(
                    index,
                    picture.part(rows, columns),
                    background=part.background[n : n + 1, :, own],
                    noise=part.noise[n : n + 1, :, own],
                    noise_map=part.noise_map[n : n + 1, own],
                    coarse=part.coarse[n : n + 1, :, own],
                    rows=rows,
                    columns=columns,
                )
            for name, mask in part.masks.items():
                self._results.put_mask(
                    index,
                    name,
                    mask.values[n : n + 1],
                    size=mask.size,
                    rows=slice(*mask.rows),
                    columns=slice(*mask.columns),
                )


def _is_layer(image: object) -> bool:
    """Tell a viewer's layer, or a part of one, from an array by what it has."""
    return any(all(hasattr(image, name) for name in names) for names in _LAYER_MARKS)


def _plugin() -> Any:
    """Return what knows the layers of viewers; by its name, since nothing below the plugin imports it."""
    return import_module("napari_dmgn.plugin.scripting")


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
