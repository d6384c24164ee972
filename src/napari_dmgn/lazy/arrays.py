"""Dask arrays in, Dask arrays out: the two phases of the network as a graph of tasks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.api import Restoration
from napari_dmgn.images import Array, IntensityRange, Results
from napari_dmgn.lazy.extremes import block_extremes, needs_extremes, volume_limits
from napari_dmgn.lazy.volume import Volume, describe

if TYPE_CHECKING:
    from pathlib import Path

    import dask.array as da
    import numpy.typing as npt

    from napari_dmgn.inference import Gains, WindowSums
    from napari_dmgn.lazy.pieces import Outcome
    from napari_dmgn.lazy.recipe import Limits, Recipe
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.tiling import Span, Window

__all__ = ["restore_lazy"]

Key = tuple[Any, ...]
Graph = dict[Key, Any]


def restore_lazy(
    image: da.Array,
    task: str = "rain",
    *,
    model: str | Path | Model | None = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    dtype: npt.DTypeLike = "same",
) -> Restoration:
    """Restore a Dask array, as `restore` does, when and where its results are computed.

    Any scheduler will do: threads, processes, or the machines of a `dask.distributed` cluster, on
    which this package has to be installed. A frame is one task where it is one window, and two a
    window otherwise; small frames share a task. A task reads only the chunks that its window and
    halo lie in. With the same device, precision, halo and tile (a number, or frames of one window), and
    on a CPU as many threads, the results are those of `restore` with ``downscale=1``, bit for bit; but
    pixels that lie more than 32 within a hole of NaN are filled from what their window sees, not from
    the whole frame.

    Parameters
    ----------
    image : (..., H, W) or (..., H, W, 3 or 4) Dask array of integers or floats, of known shape
    task, channel_axis, rgb, halo, dtype : as in `restore`
    model : a model's name, a checkpoint file or a loaded model
        Weights are not sent: each worker process loads the file once, from the same path or, where
        there is none, by the same name from its own models, and refuses another file. A loaded
        model that was never in a file is sent to each worker once.
    intensity_range : as in `restore`
        `"auto"` computes the extremes of all chunks first, except for uint8: the image is read
        twice. Give `"dtype"` or two numbers where that is dear.
    device, precision : as in `restore`
        `"auto"` is decided by each worker; name them where workers differ and results must not.
    tile : side of the square windows in pixels; None takes whole frames
        `"auto"` is 2048, or less where this machine has less memory. A scheduler runs several
        tasks at once: give a smaller one where its workers are short of memory.

    Returns
    -------
    Restoration
        Of Dask arrays, in chunks of one window. Compute them together (`dask.compute`, or
        `dask.array.store`): each window's results come from one task. `provenance` tells what was
        asked for; seconds, counts of clipped pixels and what was done where a worker's memory ran
        out, which its log tells, are not in it. Nor is a `halo_error`: what a halo less than
        exact, or tiles of a network for which they are approximate, cost cannot be measured before
        pixels are computed. `restore` measures it on a part of the image.

    Raises
    ------
    ValueError
        If an argument cannot be served. It names the value seen and the value wanted.
    """
    array = _checked(image)
    volume = describe(
        array.shape,
        array.dtype,
        task,
        model=model,
        channel_axis=channel_axis,
        rgb=rgb,
        intensity_range=intensity_range,
        device=device,
        precision=precision,
        tile=tile,
        halo=halo,
        dtype=dtype,
    )
    volume.warn()
    if volume.layout.rgb:
        array = array.rechunk({-1: -1})
    graph = _Graph(array, volume)
    return Restoration(
        background=graph.result("background"),
        noise=graph.result("noise"),
        noise_map=graph.result("noise_map"),
        coarse=graph.result("coarse"),
        provenance=volume.provenance,
    )


def _checked(image: object) -> da.Array:
    try:
        import dask.array as da
    except ModuleNotFoundError as error:
        message = "restore_lazy needs the package dask: pip install 'napari-dmgn[large]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    if not isinstance(image, da.Array):
        raise ValueError(f"restore_lazy takes a Dask array; got {type(image).__name__} (for others there is restore)")
    if isinstance(image._meta, np.ma.MaskedArray):
        raise ValueError("an image's mask would be lost: fill its pixels first (dask.array.ma.filled)")
    if any(np.isnan(n) for n in image.shape):
        raise ValueError(f"the Dask array's shape is not known: {image.shape}; call its compute_chunk_sizes() first")
    return image


class _Graph:
    """Tasks of a volume, by their keys.

    Tasks are tuples of a function and its arguments, which every version of Dask understands;
    what is no key of another task is bound to the function.
    """

    def __init__(self, array: da.Array, volume: Volume) -> None:
        self.array = array
        self.volume = volume
        self.name = f"restore-{uuid.uuid4().hex}"
        self.tasks: Graph = {self._key("recipe"): volume.recipe}
        self._add_limits()
        self.batches = [self._add_batch(number, frames) for number, frames in enumerate(volume.batches)]

    def _key(self, *words: object) -> Key:
        return (self.name, *words)

    def _add_limits(self) -> None:
        """Fix the intensities that the network sees as 0 and 1, of each channel."""
        layout, dtype, wanted = self.volume.layout, self.volume.dtype, self.volume.wanted_range
        found = []
        if needs_extremes(wanted, dtype):
            for place in product(*(range(n) for n in self.array.numblocks)):
                first, axis = 0, layout.channel_axis
                if axis is not None:
                    first = sum(self.array.chunks[axis][: place[axis]])
                key = self._key("extremes", *place)
                find = partial(block_extremes, layout=layout, first_channel=first)
                self.tasks[key] = (find, (self.array.name, *place))
                found.append(key)
        self.tasks[self._key("limits")] = (partial(volume_limits, layout=layout, dtype=dtype, wanted=wanted), found)

    def _add_batch(self, number: int, frames: range) -> list[Key]:
        """Add the tasks of some frames; return the keys of their windows' results."""
        windows = self.volume.windows
        shared = self._key("recipe"), self._key("limits")
        channels = [self.volume.layout.channel(index) for index in frames]
        results = [self._key("results", number, place) for place in range(len(windows))]
        values = [[self._read(index, window) for index in frames] for window in windows]
        if len(windows) == 1:
            whole = partial(_restore_whole, window=windows[0], channels=channels)
            self.tasks[results[0]] = (whole, *shared, *values)
            return results
        sums = [self._key("sums", number, place) for place in range(len(windows))]
        for key, window, read in zip(sums, windows, values, strict=True):
            self.tasks[key] = (partial(_sums, window=window, channels=channels), *shared, read)
        gains = self._key("gains", number)
        self.tasks[gains] = (_gains, shared[0], sums)
        for key, window, read in zip(results, windows, values, strict=True):
            self.tasks[key] = (partial(_restore, window=window, channels=channels), *shared, read, gains)
        return results

    def _read(self, index: int, window: Window) -> Any:
        """Return the task that joins what a window reads out of the chunks it lies in."""
        layout = self.volume.layout
        rows, columns = self.volume.recipe.region(window, self.volume.dtype)
        wanted = {"y": (rows.start, rows.stop), "x": (columns.start, columns.stop)}
        places = dict(zip(self._frame_axes(), self._frame_place(index), strict=True))
        pieces, shape = [], []
        for axis, name in enumerate(layout.axes):
            start, stop = wanted.get(name, (0, layout.shape[axis]))
            if axis in places:
                start, stop = places[axis], places[axis] + 1
            else:
                shape.append(stop - start)
            pieces.append(list(_pieces(self.array.chunks[axis], start, stop)))
        kept = [axis for axis in range(len(layout.shape)) if axis not in places]
        keys, sources, targets = [], [], []
        for parts in product(*pieces):
            keys.append((self.array.name, *(part.block for part in parts)))
            sources.append(tuple(parts[a].source.start if a in places else parts[a].source for a in range(len(parts))))
            targets.append(tuple(parts[axis].target for axis in kept))
        join = partial(_join, sources=sources, targets=targets, shape=tuple(shape), dtype=self.volume.dtype)
        return (join, keys)

    def _frame_axes(self) -> list[int]:
        """Axes that count frames, in the order of `Layout.grid`."""
        axes = [axis for axis, name in enumerate(self.volume.layout.axes) if name in ("frame", "channel")]
        return sorted(axes, key=lambda axis: axis != self.volume.layout.channel_axis)

    def _frame_place(self, index: int) -> list[int]:
        grid = self.volume.layout.grid
        return [int(place) for place in np.unravel_index(index, grid)] if grid else []

    def result(self, part: str) -> Any:
        """Return one of the results as a Dask array."""
        import dask.array as da
        from dask.highlevelgraph import HighLevelGraph

        volume, layout = self.volume, self.volume.layout
        spans = {"y": _own(volume.rows, layout.frame_shape[0]), "x": _own(volume.columns, layout.frame_shape[1])}
        chunks = [spans.get(name, (1,) * length) for name, length in zip(layout.axes, layout.shape, strict=True)]
        if layout.rgb:
            chunks[-1:] = {"noise_map": [], "noise": [(3,)]}.get(part, [(layout.shape[-1],)])
        name = f"{part}-{self.name}"
        tasks: Graph = {}
        for frames, results in zip(volume.batches, self.batches, strict=True):
            for (place, index), (number, key) in product(enumerate(frames), enumerate(results)):
                places = dict(zip(self._frame_axes(), self._frame_place(index), strict=True))
                own = {"y": number // len(volume.columns), "x": number % len(volume.columns)}
                block = [places.get(axis, own.get(layout.axes[axis], 0)) for axis in range(len(chunks))]
                shape = tuple(lengths[i] for lengths, i in zip(chunks, block, strict=True))
                tasks[(name, *block)] = (partial(_pick, part=part, frame=place, shape=shape), key)
        layers = {self.name: self.tasks, name: tasks}
        dependencies = {self.name: set(self.array.__dask_layers__()), name: {self.name}}
        graph = HighLevelGraph({**self.array.dask.layers, **layers}, {**self.array.dask.dependencies, **dependencies})
        dtype = volume.recipe.dtype if part in ("background", "coarse") else np.dtype(np.float32)
        return da.Array(graph, name, chunks=tuple(chunks), dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Part of a chunk along one axis, and where it goes."""

    block: int
    source: slice
    target: slice


def _pieces(chunks: tuple[int, ...], start: int, stop: int) -> Iterator[_Piece]:
    """Cut start..stop of an axis at the borders of its chunks."""
    begin = 0
    for block, length in enumerate(chunks):
        first, last = max(start, begin), min(stop, begin + length)
        if first < last:
            yield _Piece(
                block=block,
                source=slice(first - begin, last - begin),
                target=slice(first - start, last - start),
            )
        begin += length


def _own(spans: tuple[Span, ...], length: int) -> tuple[int, ...]:
    return tuple(min(span.paste[1], length) - span.paste[0] for span in spans)


# The tasks. Arguments by position come from other tasks.


def _join(
    blocks: list[Array], *, sources: list[Any], targets: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    joined = np.empty(shape, dtype)
    for block, source, target in zip(blocks, sources, targets, strict=True):
        joined[target] = block[source]
    return joined


def _restore_whole(
    recipe: Recipe, limits: list[Limits], values: list[Array], *, window: Window, channels: list[int]
) -> Results:
    return recipe.restore_whole(values, window, [limits[channel] for channel in channels]).value


def _sums(
    recipe: Recipe, limits: list[Limits], values: list[Array], *, window: Window, channels: list[int]
) -> Outcome[WindowSums]:
    return recipe.sums(values, window, [limits[channel] for channel in channels])


def _gains(recipe: Recipe, sums: list[Outcome[WindowSums]]) -> Gains:
    return recipe.gains(sums)


def _restore(
    recipe: Recipe, limits: list[Limits], values: list[Array], gains: Gains, *, window: Window, channels: list[int]
) -> Results:
    return recipe.restore(values, window, [limits[channel] for channel in channels], gains).value


def _pick(results: Results, *, part: str, frame: int, shape: tuple[int, ...]) -> Array:
    array: Array = getattr(results, part)[frame]
    return array.reshape(shape)
