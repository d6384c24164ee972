"""A restoration at work: frames pass the engine in batches, and results fill up."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn import __version__, zoo
from napari_dmgn.api.restoration import Events, Restoration, RestoreEvent
from napari_dmgn.images import Array, FloatArray, IntensityRange, Layout, Picture, Results, find_ranges
from napari_dmgn.tiling import downscale_factor

if TYPE_CHECKING:
    from napari_dmgn.inference import Part, Planes, Step
    from napari_dmgn.model.config import NetworkConfig
    from napari_dmgn.model.descriptor import Model

__all__ = ["Job", "batches"]

# Frames that pass the network together hold at most so many pixels in all. Measured on one core: frames of
# 64x64 pixels take 1.9 ms each together and 11.6 ms alone, of 256x256 pixels 28 and 34, of 512x512 the same.
_BATCH_PIXELS = 1 << 17
# Pixels that are converted to the results' types at a time.
_PUT_PIXELS = 1 << 19


def batches(layout: Layout, config: "NetworkConfig") -> list[range]:
    """Return the frames that pass the network together: small ones, which alone would keep it waiting."""
    rows, columns = config.working_size(*layout.frame_shape)  # a frame of one pixel takes as much as one of 16x16
    count = max(1, _BATCH_PIXELS // (rows * columns))
    frames = range(layout.frames)
    return [frames[start : start + count] for start in range(0, len(frames), count)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A restoration whose arguments are known to be good."""

    image: Array
    layout: Layout
    wanted_range: IntensityRange
    results: Results
    task: str
    source: "zoo.ModelInfo | Model"
    device: str
    engine: Mapping[str, Any]
    downscale: int | str
    ensemble: bool
    layer: Any = None

    def events(self) -> Events:
        """Do it; the last event carries the restoration."""
        from napari_dmgn.inference.memory import reused

        started = time.perf_counter()
        model = self._load_model()
        factor = downscale_factor(self.downscale, model.metadata.card, self.layout.frame_shape)
        views = _Views(downscale=factor, mirrored=self.ensemble)
        ranges = find_ranges(self.image, self.layout, self.wanted_range)
        results = self.results
        reports: list[dict[str, Any]] = []
        together = batches(self.layout, model.config)
        steps = 0
        with reused():  # from batch to batch, too
            for number, indices in enumerate(together):
                batch = _Batch(self.image, self.layout, indices, ranges, results)
                report, steps = yield from self._infer(model, batch, views, number, len(together))
                reports.append(report)
        provenance = self._provenance(model, views, ranges, results, reports)
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
        frames, total = self.layout.frames, len(together) * steps
        yield RestoreEvent(done=total, total=total, frame=frames - 1, frames=frames, restoration=restoration)

    def _load_model(self) -> "Model":
        if isinstance(self.source, zoo.ModelInfo):
            return zoo.shared_model(self.source.path, device=self.device)
        return self.source

    def _infer(
        self, model: "Model", batch: "_Batch", views: "_Views", number: int, count: int
    ) -> "Generator[RestoreEvent, None, tuple[dict[str, Any], int]]":
        """Pass the steps of some frames on as events of all; return their report and how many there were."""
        from napari_dmgn.inference import Planes

        total = 0
        # closing(): a caller who stops frees the network's memory here and now.
        with closing(views.infer()(model, batch, sink=batch, **self.engine)) as steps:
            for step in steps:
                if isinstance(step, Planes):
                    return step.report, total
                total = step.total
                yield RestoreEvent(
                    done=number * total + step.done,
                    total=count * total,
                    frame=batch.indices[0],
                    frames=self.layout.frames,
                )
        raise RuntimeError("inference ended without a result")

    def _provenance(
        self,
        model: "Model",
        views: "_Views",
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
            "downscale": views.downscale,
            "ensemble": views.mirrored,
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


@dataclass(frozen=True, kw_only=True)
class _Views:
    """How the network sees the image: smaller by a factor, and also mirrored or not."""

    downscale: int
    mirrored: bool

    def infer(self) -> "Callable[..., Generator[Step | Planes, None, None]]":
        """Return what restores planes so, called like `iter_infer`."""
        from napari_dmgn.inference import iter_infer, iter_infer_ensemble, iter_infer_reduced

        seen = iter_infer_ensemble if self.mirrored else iter_infer
        return seen if self.downscale == 1 else partial(iter_infer_reduced, downscale=self.downscale, infer=seen)


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
