"""A stored array seen with its axes in another order; nothing is read until it is indexed."""

from typing import Any

import numpy as np

from napari_dmgn.files.image_file import Array

__all__ = ["Transposed"]


class Transposed:
    """View of an array on disk whose axis i is the stored array's axis ``order[i]``.

    It is read and written by whole numbers, slices without a step, and an ellipsis. `np.asarray`
    reads it whole.
    """

    def __init__(self, stored: Any, order: tuple[int, ...]) -> None:
        self.stored = stored
        self.order = order
        self.shape: tuple[int, ...] = tuple(stored.shape[axis] for axis in order)
        self.dtype: np.dtype[Any] = np.dtype(stored.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.order)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, key: Any) -> Array:
        index, order = self._place(key)
        try:
            values = np.asarray(self.stored[index])
        except RuntimeError as error:  # what decompressors raise
            where = getattr(self.stored, "store_path", "a stored array")
            raise OSError(f"cannot read {str(where)!r}: {error}") from error
        return values.transpose(order)

    def __setitem__(self, key: Any, values: Array) -> None:
        index, order = self._place(key)
        self.stored[index] = np.transpose(values, np.argsort(order))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[...], dtype=dtype)

    def _place(self, key: Any) -> tuple[tuple[Any, ...], list[int]]:
        """Index into the stored array, and the order that its remaining axes take."""
        parts = list(key) if isinstance(key, tuple) else [key]
        missing = [slice(None)] * (self.ndim - len(parts) + (Ellipsis in parts))
        place = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
        parts[place : place + 1] = missing
        index: list[Any] = [None] * self.ndim
        for axis, part in zip(self.order, parts, strict=True):
            index[axis] = part
        kept = [axis for axis, part in zip(self.order, parts, strict=True) if isinstance(part, slice)]
        return tuple(index), [sorted(kept).index(axis) for axis in kept]
