"""One window of an image on the disk: read, restored, and written into OME-Zarr images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.files import ImageFile, Transposed, create_store, is_store, open_store, open_to_write, read_image
from napari_dmgn.files.ome_zarr import import_zarr
from napari_dmgn.images import Array, Layout, saturate, unit_to_dtype
from napari_dmgn.lazy.extremes import Extremes, block_extremes
from napari_dmgn.lazy.pieces import Outcome
from napari_dmgn.lazy.record import Counts, Place
from napari_dmgn.lazy.volume import Volume

if TYPE_CHECKING:
    from napari_dmgn.images import Results
    from napari_dmgn.inference import Gains, WindowSums
    from napari_dmgn.lazy.recipe import Limits
    from napari_dmgn.tiling import Window

__all__ = ["PARTS", "Input", "StoreJob"]

PARTS = ("background", "noise", "noise_map")
_CHUNK = 512
_LOOKED_AT = 100_000


@dataclass(frozen=True, kw_only=True)
class Input:
    """An image on the disk: an OME-Zarr image, a Zarr array, or an image file.

    Attributes
    ----------
    path : absolute
    level : of a multiscale image
    rgb : as in `open_store`; False leaves the axes of files, too, in their order
    """

    path: str
    level: int = 0
    rgb: bool | None = None

    def open(self) -> ImageFile:
        """Open the image; a store is read where it is indexed, a file is read whole, once."""
        return _open(self, _changed(self.path))

    def read(self, index: tuple[Any, ...]) -> Array:
        """Read a part.

        Raises
        ------
        OSError
            If a chunk cannot be decoded; it names the image, which decoders do not.
        """
        try:
            return np.asarray(self.open().array[index])
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            if self.path in str(error):
                raise
            reason = str(error) or type(error).__name__
            raise OSError(f"cannot read {self.path!r}: {reason}") from error

    def identity(self) -> dict[str, Any]:
        """What tells this image from another one, as far as can be seen without reading it."""
        image = self.open().array
        return {
            "input": self.path,
            "level": self.level,
            "shape": list(image.shape),
            "dtype": str(image.dtype),
            "input's time": _changed(self.path),
            "state of the input's pixels": self._state(),
        }

    def _state(self) -> list[int]:
        """Number, bytes and latest time of the files that hold the pixels: who rewrites them may keep the metadata.

        Of more than `_LOOKED_AT` chunks only so many are looked at, always the same.
        """
        path = Path(self.path)
        stored = getattr(self.open().array, "stored", None)  # of a store only
        if stored is not None:
            path /= stored.path
        files = list(islice(_files(path), _LOOKED_AT)) if path.is_dir() else [path.stat()]
        return [len(files), sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0)]


def _files(folder: Path) -> Iterator[os.stat_result]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            with suppress(FileNotFoundError):  # one that another program was writing
                yield Path(where, name).stat()


def _changed(path: str) -> int:
    """When a file, or the metadata of a store, was last written, in nanoseconds.

    A worker process outlives a run: what it keeps open by a path alone may be another image's by the next.
    """
    folder = Path(path)
    marks = [folder / name for name in ("zarr.json", ".zattrs", ".zarray") if (folder / name).is_file()]
    return max(mark.stat().st_mtime_ns for mark in marks or [folder])


@lru_cache(maxsize=2)
def _open(image: Input, changed: int) -> ImageFile:
    path = Path(image.path)
    if is_store(path):
        return open_store(path, level=image.level, rgb=image.rgb)
    return read_image(path).as_stored() if image.rgb is False else read_image(path)


@dataclass(frozen=True, kw_only=True)
class StoreJob:
    """An image and the OME-Zarr images of its results; the steps of one window.

    Windows are numbered row by row. No two windows touch the same chunk of a result, so that all
    may be written at the same time.

    Attributes
    ----------
    image : what is restored
    folder : absolute; holds an image for each of `PARTS`
    volume : how
    """

    image: Input
    folder: str
    volume: Volume

    def batches(self) -> Iterator[list[Place]]:
        """Yield the windows of each batch of frames, by their numbers."""
        windows = range(len(self.volume.rows) * len(self.volume.columns))
        for batch in range(len(self.volume.batches)):
            yield [(batch, window) for window in windows]

    def create(self) -> None:
        """Make the empty images of the results."""
        layout = self.volume.layout
        shapes = {
            "background": layout.shape,
            "noise": (*layout.plain_shape, 3) if layout.rgb else layout.shape,
            "noise_map": layout.plain_shape,
        }
        for part, shape in shapes.items():
            create_store(
                Path(self.folder, part),
                shape=shape,
                dtype=self.volume.recipe.dtype,
                axes=self._letters(len(shape)),
                chunk=self._chunk(),
                like=self.image.open(),
                name=part,
                notes=self.volume.provenance,
            )

    def note(self, notes: Mapping[str, Any]) -> None:
        """Write down in the images what they were made with, in place of what was known before the work."""
        for part in PARTS:
            import_zarr().open_group(Path(self.folder, part), mode="r+").attrs["napari_dmgn"] = dict(notes)

    def _chunk(self) -> int:
        tile = self.volume.recipe.tile
        if tile is None:
            return min(_CHUNK, max(self.volume.layout.frame_shape))
        return tile if tile % _CHUNK else _CHUNK

    def _letters(self, ndim: int) -> str:
        """A letter for each of the first axes: the file's own where it means the same, or else the usual ones."""
        layout, letters = self.volume.layout, self.image.open().axes
        fits = letters and len(letters) == len(layout.shape) and ("S" in letters) == layout.rgb
        if letters and fits and {"C", "S"} <= set(letters):  # OME-Zarr has one axis of channels: that of the colours
            letters = letters.replace("C", next(letter for letter in "ZTQ" if letter not in letters))
        elif not letters or not fits:
            named = {"y": "Y", "x": "X", "rgb": "S", "rgba": "S", "channel": "C"}
            spare = iter("ZTQ")  # from the right
            letters = "".join(named.get(axis) or next(spare) for axis in reversed(layout.axes))[::-1]
        return letters[:ndim]

    def extremes(self, batch: int, window: int) -> list[Extremes]:
        """Least and greatest values of what is the window's own in each frame of a batch."""
        layout = self.volume.layout
        found = []
        for frame in self.volume.batches[batch]:
            values = self.image.read(self._own(frame, window))
            (pair,) = block_extremes(values, layout=Layout(shape=values.shape, rgb=layout.rgb)).values()
            found.append({layout.channel(frame): pair})
        return found

    def read(self, batch: int, window: int) -> list[Array]:
        """Return the pixels that phase 1 of a window reads of each frame of a batch."""
        return self._read(batch, self.volume.windows[window])

    def read_again(self, batch: int, window: int) -> list[Array]:
        """Return those that `restore` reads: more, where the halo's error is measured."""
        recipe, place = self.volume.recipe, self.volume.windows[window]
        return self._read(batch, recipe.wider(place) if self._measured(batch, window) else place)

    def _measured(self, batch: int, window: int) -> bool:
        """Whether the halo's error is measured at a window: at three of a run, or all where they are fewer."""
        if not self.volume.recipe.approximate:
            return False
        windows = len(self.volume.windows)
        total = len(self.volume.batches) * windows
        count = min(total, 3)
        return batch * windows + window in [(2 * i + 1) * total // (2 * count) for i in range(count)]

    def _read(self, batch: int, window: Window) -> list[Array]:
        region = self.volume.recipe.region(window, self.volume.dtype)
        return [self.image.read(self._place(frame, *region)) for frame in self.volume.batches[batch]]

    def sums(self, batch: int, window: int, values: list[Array], limits: list[Limits]) -> Outcome[WindowSums]:
        """Phase 1 of a window."""
        return self.volume.recipe.sums(values, self.volume.windows[window], self._limits(batch, limits))

    def restore(
        self, batch: int, window: int, values: list[Array], limits: list[Limits], gains: Gains | None
    ) -> Outcome[Results]:
        """Phase 2 of a window, or both phases where it is the whole frame and `gains` is None."""
        recipe, place = self.volume.recipe, self.volume.windows[window]
        if gains is None:
            return recipe.restore_whole(values, place, self._limits(batch, limits))
        measured = self._measured(batch, window)
        return recipe.restore(values, place, self._limits(batch, limits), gains, measured=measured)

    def write(self, batch: int, window: int, outcome: Outcome[Results]) -> Counts:
        """Write a window's results, each of its chunks whole or not at all."""
        results = outcome.value
        dtype = self.volume.recipe.dtype
        arrays = {
            "background": results.background,
            "noise": saturate(results.noise, dtype)[0],
            "noise_map": unit_to_dtype(results.noise_map, dtype),
        }
        ndim = len(self.volume.layout.shape)
        for part, values in arrays.items():
            axes = self._letters(ndim - (results.background.ndim - values.ndim))  # a map has no colours
            path = str(Path(self.folder, part))
            target = _target(path, axes, _changed(path))
            for frame, array in zip(self.volume.batches[batch], values, strict=True):
                target[self._own(frame, window)[: target.ndim]] = array
        return Counts(
            clipped=results.clipped_pixels,
            nonfinite=results.nonfinite_pixels,
            fallbacks=outcome.fallbacks,
            halo_error=outcome.halo_error,
        )

    def _limits(self, batch: int, limits: list[Limits]) -> list[Limits]:
        return [limits[self.volume.layout.channel(frame)] for frame in self.volume.batches[batch]]

    def _own(self, frame: int, window: int) -> tuple[Any, ...]:
        """Index of what a window contributes to a frame."""
        place = self.volume.windows[window]
        (top, bottom), (left, right) = place.rows.paste, place.columns.paste
        height, width = self.volume.layout.frame_shape
        return self._place(frame, slice(top, min(bottom, height)), slice(left, min(right, width)))

    def _place(self, frame: int, rows: slice, columns: slice) -> tuple[Any, ...]:
        """Index of a part of a frame; a result without colours ignores the last."""
        layout = self.volume.layout
        numbers = iter(np.unravel_index(frame, layout.grid) if layout.grid else ())
        channel = int(next(numbers)) if layout.channel_axis is not None else 0
        places: dict[str, Any] = {"y": rows, "x": columns, "channel": channel}
        whole = slice(None)
        return tuple(int(next(numbers)) if name == "frame" else places.get(name, whole) for name in layout.axes)


@lru_cache(maxsize=8)
def _target(path: str, axes: str, changed: int) -> Transposed:
    return open_to_write(Path(path), axes)
