"""The results of a run while they are made: frame by frame, in memory or in an OME-Zarr store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_dmgn.plugin.source import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Results = Mapping[str, NDArray[Any]]

__all__ = ["MemoryVolume", "StoreVolume", "Volume", "result_shape"]

_RECORD = "napari-dmgn.json"


class Volume(Protocol):
    """Arrays of the results, filled in the order of the frames."""

    done: int
    reports: list[dict[str, Any]]
    folder: Path | None
    """Where the results are on the disk, the unfinished ones too; None in memory."""

    def put(self, frames: range, results: Results, masks: Results, report: dict[str, Any]) -> None:
        """Take the results of frames, whose arrays have a leading axis of frames, and what is said of them."""

    def arrays(self) -> Mapping[str, Any]:
        """The results by name; what is not done is 0."""

    def masks(self) -> Mapping[str, NDArray[np.float32]]:
        """The cells' masks by name."""

    def discard(self) -> None:
        """Leave nothing on the disk."""


def result_shape(source: Source, output: str) -> tuple[int, ...]:
    """Shape of a result: the map and the residual have no colours, and the noise no alpha."""
    if not source.rgb or output in ("noise_map", "residual"):
        return source.plain_shape
    return (*source.plain_shape, 3) if output == "noise" else source.shape


class MemoryVolume:
    """Results in memory.

    Parameters
    ----------
    source : what is restored
    outputs : results to keep
    dtype : of background and coarse
    """

    def __init__(self, source: Source, outputs: Collection[str], dtype: np.dtype[Any]) -> None:
        self.done = 0
        self.reports: list[dict[str, Any]] = []
        self.folder: Path | None = None
        self._source = source
        kinds = {"background": dtype, "coarse": dtype}
        self._arrays = {
            output: np.zeros(result_shape(source, output), kinds.get(output, np.float32)) for output in outputs
        }
        self._masks: dict[str, NDArray[np.float32]] = {}

    def put(self, frames: range, results: Results, masks: Results, report: dict[str, Any]) -> None:
        """Take the results of frames."""
        for i, frame in enumerate(frames):
            place = self._source.place(frame)
            for output, array in self._arrays.items():
                array[place] = results[output][i]
            for name, mask in masks.items():
                if name not in self._masks:
                    self._masks[name] = np.zeros((*self._source.plain_shape[:-2], *mask.shape[1:]), np.float32)
                self._masks[name][place] = mask[i]
        self.reports.append(report)
        self.done = frames.stop

    def arrays(self) -> Mapping[str, Any]:
        """The results by name."""
        return self._arrays

    def masks(self) -> Mapping[str, NDArray[np.float32]]:
        """The cells' masks by name."""
        return self._masks

    def discard(self) -> None:
        """Nothing is on the disk."""


class StoreVolume:
    """Results in an OME-Zarr store that is never in memory as a whole.

    They are made beside it, in a hidden folder, until the last frame is done; a second run of the same
    settings goes on there.

    Parameters
    ----------
    path : folder that ends in .zarr and does not exist
    source : what is restored
    outputs : results to write
    dtype : of background and coarse
    key : all that the results depend on, in words

    Raises
    ------
    FileExistsError
        There is something at `path`.
    ModuleNotFoundError
        The package zarr is missing.
    """

    def __init__(
        self, path: Path, source: Source, outputs: Collection[str], dtype: np.dtype[Any], key: Mapping[str, str]
    ) -> None:
        if path.exists():
            raise FileExistsError(f"{path} exists. Choose another name, or remove it.")
        if path.suffix.lower() != ".zarr":
            raise ValueError(f"The store's name is '{path.name}'; wanted one that ends in .zarr.")
        self.path = path
        self.reports: list[dict[str, Any]] = []
        self.done = 0
        self._source = source
        self._outputs = list(outputs)
        self._work = path.with_name(f".{path.name}.part")
        self.folder: Path | None = self._work
        self._key = dict(key) | {"outputs": ", ".join(outputs), "shape": str(source.shape), "crop": str(source.crop)}
        if not self._resumed():
            try:
                self._create(dtype)
            except BaseException:
                self.discard()
                raise
        self._targets = {output: self._target(output) for output in self._outputs}

    def _create(self, dtype: np.dtype[Any]) -> None:
        from napari_dmgn.files import create_store
        from napari_dmgn.plugin.saving import axis_letters, image_file

        source = self._source
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        for output in self._outputs:
            shape = result_shape(source, output)
            create_store(
                self._work / output,
                shape=shape,
                dtype=dtype if output in ("background", "coarse") else np.dtype(np.float32),
                axes=axis_letters(source.placement, colours=len(shape) > len(source.plain_shape)),
                chunk=512,
                like=image_file(source.placement, colours=source.rgb),
                name=output,
            )

    def _target(self, output: str, folder: Path | None = None) -> Any:
        from napari_dmgn.files import open_to_write
        from napari_dmgn.plugin.saving import axis_letters

        colours = len(result_shape(self._source, output)) > len(self._source.plain_shape)
        return open_to_write((folder or self._work) / output, axis_letters(self._source.placement, colours=colours))

    def _resumed(self) -> bool:
        try:
            record = json.loads((self._work / _RECORD).read_text(encoding="utf-8"))
            if record["key"] != self._key:
                return False
            self.done, self.reports = int(record["done"]), list(record["reports"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def put(self, frames: range, results: Results, masks: Results, report: dict[str, Any]) -> None:
        """Write the results of frames, and then that they are written."""
        for i, frame in enumerate(frames):
            for output, target in self._targets.items():
                target[(*self._source.place(frame), ...)] = results[output][i]
        self.reports.append(report)
        self.done = frames.stop
        record = {"key": self._key, "done": self.done, "reports": self.reports}
        temporary = self._work / f"{_RECORD}.new"
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(self._work / _RECORD)

    def finish(self) -> None:
        """Make the coarser levels and give the store its name; only when all frames are done."""
        from napari_dmgn.files import blocks, fill, write_collection

        for output in self._outputs:
            for level in blocks(self._work / output):
                for block in level:
                    fill(self._work / output, block)
        write_collection(self._work, self._outputs)
        (self._work / _RECORD).unlink()
        self._work.rename(self.path)
        self.folder = self.path
        self._targets = {output: self._target(output, self.path) for output in self._outputs}

    def arrays(self) -> Mapping[str, Any]:
        """The results by name, as Dask arrays that read what is looked at."""
        import dask.array as da

        found = {}
        for output, target in self._targets.items():
            chunks = tuple(min(target.stored.chunks[axis], target.stored.shape[axis]) for axis in target.order)
            found[output] = da.from_array(target, chunks=chunks, name=False, asarray=True)
        return found

    def masks(self) -> Mapping[str, NDArray[np.float32]]:
        """Masks are not stored."""
        return {}

    def discard(self) -> None:
        """Remove the hidden folder."""
        shutil.rmtree(self._work, ignore_errors=True)
