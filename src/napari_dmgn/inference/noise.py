"""The noise that phase 1 generates, kept for phase 2: in memory, or in a temporary file where it is large."""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from napari_dmgn import devices
from napari_dmgn.inference.rows import Rows, Tape

if TYPE_CHECKING:
    from napari_dmgn.inference.plans import Plan
    from napari_dmgn.model.config import NetworkConfig

__all__ = ["NoiseStore", "noise_store"]

_LOG = logging.getLogger(__name__)

# Kept in memory up to here, and in a file beyond.
_MEMORY_CEILING = 1 << 28
_MEMORY_SHARE = 0.25
# Of what is free on the disk.
_DISK_SHARE = 0.25


def noise_store(config: NetworkConfig, shape: tuple[int, ...], made: Plan) -> NoiseStore | None:
    """Return a store for the noise of a (N, 3, H, W) batch; None where it has to be generated again.

    Parameters
    ----------
    config : NetworkConfig
    shape : (N, 3, H, W)
    made : Plan
    """
    if not config.noise_branch:
        return None
    height, width = config.working_size(*shape[2:])
    size = shape[0] * 3 * height * width * (2 if made.precision == "bf16" else 4)
    if size <= min(_MEMORY_CEILING, _MEMORY_SHARE * devices.free_memory("cpu")):
        return NoiseStore(config.trunk_stride)
    folder = _temporary_folder()
    with suppress(OSError):
        if size <= _DISK_SHARE * shutil.disk_usage(folder).free:
            return NoiseStore(config.trunk_stride, tempfile.TemporaryFile(dir=folder))
    return None


def _temporary_folder() -> str:
    """Return the folder for large temporary files; what TMPDIR or the like names comes first.

    Many systems keep /tmp in memory, where a file would save nothing, and /var/tmp on a disk.
    """
    folder = tempfile.gettempdir()
    return "/var/tmp" if folder == "/tmp" and Path("/var/tmp").is_dir() else folder


@dataclass(frozen=True)
class _Stored:
    """A block in the file."""

    place: int
    shape: torch.Size
    dtype: torch.dtype


class NoiseStore:
    """R of the whole image on the trunk's grid, from phase 1 to phase 2; in the number type that it has.

    Parameters
    ----------
    trunk : int
        The network's trunk stride.
    file : binary file or None
        Takes the blocks; read and written at places, not mapped, so that none of it counts as the process's memory.
        Where it cannot be written, the store is empty from then on.
    """

    def __init__(self, trunk: int, file: IO[bytes] | None = None) -> None:
        self.trunk = trunk
        self._file = file
        self._end = 0
        self._failed = False
        self._shape = torch.Size()
        self._blocks: dict[int, Tensor | _Stored] = {}  # by their first row

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def put(self, noise: Rows) -> None:
        """Keep rows."""
        self._shape = noise.shape
        if noise.data is None or self._failed:
            return
        if self._file is None:
            self._blocks[noise.start] = noise.data.to("cpu", copy=True)
            return
        try:
            self._blocks[noise.start] = self._write(noise.data)
        except OSError as error:
            _LOG.warning("the noise is not kept between the phases, which takes longer: %s", error)
            self._failed = True
            self._blocks.clear()

    def get(self, tape: Tape, rows: tuple[int, int], device: str) -> Rows:
        """Return what belongs to rows of the image."""
        start, stop = self._trunk_rows(rows)
        parts = []
        for first, block in self._blocks.items():
            above, below = max(start - first, 0), min(stop - first, block.shape[2])
            if above < below:
                parts.append(self._read(block)[:, :, above:below])
        return Rows(tape, torch.cat(parts, dim=2).to(device), start, self._shape)

    def drop(self, rows: tuple[int, int]) -> None:
        """Let go of what ends with rows of the image: it has been used."""
        stop = self._trunk_rows(rows)[1]
        for first in [first for first, block in self._blocks.items() if first + block.shape[2] <= stop]:
            del self._blocks[first]

    def close(self) -> None:
        """Forget everything, and remove the file."""
        self._blocks.clear()
        if self._file is not None:
            with suppress(OSError):  # what could not be written is not wanted any more
                self._file.close()

    def _write(self, data: Tensor) -> _Stored:
        assert self._file is not None
        stored = _Stored(self._end, data.shape, data.dtype)
        self._file.seek(self._end)
        self._end += self._file.write(data.to("cpu").contiguous().view(torch.uint8).numpy().tobytes())
        self._file.flush()  # here, where a full disk is heeded
        return stored

    def _read(self, block: Tensor | _Stored) -> Tensor:
        if isinstance(block, Tensor):
            return block
        assert self._file is not None
        self._file.seek(block.place)
        content = bytearray(self._file.read(block.shape.numel() * block.dtype.itemsize))
        tensor = torch.frombuffer(content, dtype=block.dtype).reshape(block.shape)
        return tensor.contiguous(memory_format=torch.channels_last)

    def _trunk_rows(self, rows: tuple[int, int]) -> tuple[int, int]:
        start, stop = (-(-row // self.trunk) for row in rows)
        return start, stop
