"""Maps that pass by row by row: the network's operators on a few rows at a time, without any halo.

A window with a halo computes the halo twice. Here every operator keeps, from one strip of rows to the next, the
few rows that its kernel reaches back to, and gives out only those rows whose inputs are all there. Fed strip by
strip, a network then computes every row of every map once, and what it holds is bounded by the strip.

`Rows` stands in for a tensor: the network's own code runs on it, and each call of an operator finds what it kept
through the order of the calls, which is the same for every strip (`Tape`). Here are the operators of each value by
itself; those with a kernel are in `row_operators`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rows", "Tape", "align", "operator", "tail"]

_OPERATORS: dict[str, Callable[..., Rows]] = {}


def operator(name: str) -> Callable[[Callable[..., Rows]], Callable[..., Rows]]:
    """Let a function stand in for torch's of that name, or names with underscores around it, on rows."""

    def register(function: Callable[..., Rows]) -> Callable[..., Rows]:
        _OPERATORS[name] = function
        return function

    return register


class Tape:
    """What the operators keep between two strips.

    A strip that fails, for want of memory say, leaves the tape as it was and can be given again.
    """

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._next: list[Any] = []
        self._rooms: list[int] = []
        self._made = 0

    @contextmanager
    def strip(self) -> Iterator[Tape]:
        """Run the operators over one strip; what they keep counts once the block is left in peace."""
        self._next, self._made = [], 0
        try:
            yield self
            self._kept = self._next
        finally:
            self._next = []

    def turn(self, step: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Run one operator: `step` gets what it kept (None at first); returns its result and what to keep."""
        place = len(self._next)
        self._next.append(None)
        result, self._next[place] = step(self._kept[place] if place < len(self._kept) else None)
        return result

    def slot(self) -> int:
        """Return the number of a map whose rows are written to where earlier ones fit above them."""
        self._made += 1
        if len(self._rooms) < self._made:
            self._rooms.append(0)
        return self._made - 1

    def room(self, slot: int) -> int:
        """Return how many rows are wanted above a map's new ones, as far as is known."""
        return self._rooms[slot]

    def want(self, slot: int, rows: int) -> None:
        """Ask for room in the strips to come."""
        self._rooms[slot] = max(self._rooms[slot], rows)

    def to(self, device: torch.device | str) -> None:
        """Move everything kept to a device."""
        self._kept = [_moved(kept, device) for kept in self._kept]


def _moved(kept: Any, device: torch.device | str) -> Any:
    if isinstance(kept, Tensor):
        return kept.to(device)
    if isinstance(kept, tuple):
        return tuple(_moved(item, device) for item in kept)
    return kept


class Rows:
    """Some rows of a (N, C, H, W) map; earlier ones have been seen, later ones are to come.

    Parameters
    ----------
    tape : Tape
    data : (N, C, rows, W) tensor, or None where there is no new row
    start : int
        Place of the first row in the whole map.
    shape : (N, C, H, W)
        Of the whole map.
    """

    # Where `data` ends a larger tensor with room for the rows above, which saves copying them together.
    roomy: Tensor | None = None
    slot: int | None = None

    def __init__(self, tape: Tape, data: Tensor | None, start: int, shape: Sequence[int]) -> None:
        self.tape = tape
        self.data = data
        self.start = start
        self.shape = torch.Size(shape)

    @property
    def stop(self) -> int:
        """Place behind the last row."""
        return self.start + (0 if self.data is None else self.data.shape[2])

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the rows; float32 where there are none."""
        return torch.float32 if self.data is None else self.data.dtype

    def like(self, data: Tensor | None, *, channels: int | None = None, width: int | None = None) -> Rows:
        """Return the same rows with other values, and possibly another number of channels or columns."""
        n, c, h, w = self.shape
        shape = (n, c if channels is None else channels, h, w if width is None else width)
        return Rows(self.tape, data, self.start, shape)

    def below(self, kept: Tensor | None) -> Tensor | None:
        """Return the rows together with those directly above them."""
        if kept is None or self.data is None:
            return self.data if kept is None else kept
        count = kept.shape[2]
        if self.slot is not None:
            self.tape.want(self.slot, count)
        if self.roomy is not None:
            room = self.roomy.shape[2] - self.data.shape[2]
            if count <= room:
                # Another operator may have done the same: these rows are the map's, whoever kept them.
                self.roomy[:, :, room - count : room] = kept
                return self.roomy[:, :, room - count :]
        return torch.cat([kept, self.data], dim=2)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch on rows."""
        name = func.__name__.strip("_")
        if name in _INTO:
            return _pointwise(func, args, kwargs or {})
        if name not in _OPERATORS:
            raise NotImplementedError(f"{name} does not work row by row")
        return _OPERATORS[name](*args, **(kwargs or {}))

    def __add__(self, other: Any) -> Rows:
        return _pointwise(torch.add, (self, other), {})

    def __mul__(self, other: Any) -> Rows:
        return _pointwise(torch.mul, (self, other), {})

    __radd__, __rmul__ = __add__, __mul__

    def __sub__(self, other: Any) -> Rows:
        return _pointwise(torch.sub, (self, other), {})

    def __rsub__(self, other: Any) -> Rows:
        return _pointwise(torch.rsub, (self, other), {})

    def __truediv__(self, other: Any) -> Rows:
        return _pointwise(torch.div, (self, other), {})

    def clamp(self, low: float, high: float) -> Rows:
        """See `torch.clamp`."""
        return _pointwise(torch.clamp, (self, low, high), {})

    def to(self, dtype: torch.dtype) -> Rows:
        """Convert to another number type."""
        return self.like(None if self.data is None else self.data.to(dtype))

    def float(self) -> Rows:
        """Convert to float32."""
        return self.to(torch.float32)

    def contiguous(self, *, memory_format: torch.memory_format = torch.contiguous_format) -> Rows:
        """See `torch.Tensor.contiguous`."""
        return self.like(None if self.data is None else self.data.contiguous(memory_format=memory_format))

    def mean(self, *, dim: int, keepdim: bool) -> Rows:
        """Average over the channels."""
        assert dim == 1
        assert keepdim
        return self.like(None if self.data is None else self.data.mean(dim=1, keepdim=True), channels=1)

    def expand(self, *sizes: int) -> Rows:
        """Repeat the only channel."""
        return self.like(None if self.data is None else self.data.expand(*sizes), channels=sizes[1])

    def chunk(self, chunks: int, dim: int) -> list[Rows]:
        """Split the channels into equal parts."""
        assert dim == 1
        channels = self.shape[1] // chunks
        parts = [None] * chunks if self.data is None else self.data.chunk(chunks, dim=1)
        return [self.like(part, channels=channels) for part in parts]

    def __getitem__(self, place: Any) -> Rows:
        """Cut out rows and columns with two slices behind an ellipsis, or rows behind two full slices."""
        rows, columns = _slices(place)
        first, last, _ = rows.indices(self.shape[2])
        left, right, _ = columns.indices(self.shape[3])
        shape = (*self.shape[:2], last - first, right - left)
        start, stop = max(first, self.start), min(last, self.stop)
        if self.data is None or start >= stop:
            # Rows above the cut do not count, those below it come after the end.
            return Rows(self.tape, None, min(max(self.start - first, 0), last - first), shape)
        own = self.data[:, :, start - self.start : stop - self.start, left:right]
        return Rows(self.tape, own, start - first, shape)


def _slices(place: Any) -> tuple[slice, slice]:
    whole = slice(None)
    if place[0] is Ellipsis:
        return (whole, place[1]) if len(place) == 2 else (place[1], place[2])
    assert place[:2] == (whole, whole)
    return place[2], place[3] if len(place) == 4 else whole


def tail(data: Tensor | None, count: int) -> Tensor | None:
    """Return the last rows, as a copy: a view would hold all of them."""
    if data is None or count <= 0:
        return None
    return data[:, :, data.shape[2] - count :].clone()


def align(*maps: Rows) -> list[Rows]:
    """Wait for the slower of several maps of one height: return the rows that all have by now."""

    def step(kept: Any) -> tuple[list[Rows], Any]:
        before, done = kept if kept is not None else (((),) * len(maps), 0)
        stop = min(m.stop for m in maps)
        out, left = [], []
        for m, waiting in zip(maps, before, strict=True):
            own, waiting = _queued(m, waiting, stop - done)
            out.append(Rows(m.tape, own, done, m.shape))
            left.append(waiting)
        return out, (tuple(left), stop)

    if len(maps) == 1:
        return list(maps)
    assert len({m.shape[2] for m in maps}) == 1
    result: list[Rows] = maps[0].tape.turn(step)
    return result


def _queued(new: Rows, waiting: tuple[Tensor, ...], count: int) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Put a map's rows behind those that wait, and take the first `count`; return them and who waits then."""
    before = sum(block.shape[2] for block in waiting)
    fresh = new.stop - new.start
    if before == 0 or (new.slot is not None and before <= fresh):
        # Few are copied above the new ones, which have room for them, or will in the strips to come.
        data = new.below(None if not waiting else waiting[0] if len(waiting) == 1 else torch.cat(waiting, dim=2))
        rest = tail(data, before + fresh - count)
        return None if data is None or count <= 0 else data[:, :, :count], () if rest is None else (rest,)
    # Many wait, as an image does for what is made of it: they are not moved every time.
    taken, left = [], [*waiting] if new.data is None else [*waiting, new.data]
    while count > 0:
        block = left.pop(0)
        taken.append(block[:, :, :count])
        if block.shape[2] > count:
            left.insert(0, block[:, :, count:])
        count -= taken[-1].shape[2]
    if left and new.data is not None:
        left[-1] = left[-1].clone()  # a view would hold what is around the rows, too
    return None if not taken else taken[0] if len(taken) == 1 else torch.cat(taken, dim=2), tuple(left)


def _pointwise(func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Rows:
    """Each value by itself, or together with those at its place in other maps."""
    aligned = iter(align(*(a for a in args if isinstance(a, Rows))))
    inputs = [next(aligned) if isinstance(a, Rows) else a for a in args]
    maps = [a for a in inputs if isinstance(a, Rows)]
    # A single column or channel is repeated; other operands are numbers or one value per channel.
    channels = max([m.shape[1] for m in maps] + [a.shape[-3] for a in inputs if isinstance(a, Tensor) and a.ndim > 2])
    result = maps[0].like(None, channels=channels)
    slot = result.tape.slot()
    if maps[0].data is None:
        return result
    tensors = [a.data if isinstance(a, Rows) else a for a in inputs]
    room = result.tape.room(slot)
    result.slot = slot
    if room == 0:
        result.data = func(*tensors, **options)
        return result
    kinds = [t.dtype for t in tensors if isinstance(t, Tensor) and t.ndim]
    n, _, rows, width = maps[0].data.shape
    result.roomy = torch.empty(
        (n, channels, room + rows, width),
        dtype=functools.reduce(torch.promote_types, kinds),
        device=maps[0].data.device,
        memory_format=torch.channels_last,
    )
    result.data = result.roomy[:, :, room:]
    write: Callable[..., Any] = _INTO[func.__name__.strip("_")]
    write(*tensors, **options, out=result.data)
    return result


def _relu_into(x: Tensor, *, out: Tensor) -> Tensor:
    return torch.clamp_min(x, 0, out=out)


def _rsub_into(x: Tensor, other: Any, *, out: Tensor) -> Tensor:
    return out.copy_(torch.rsub(x, other))


# Functions of each value by itself, and how a function or method of torch by that name writes into a given tensor.
_INTO: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "addcmul": torch.addcmul,
    "clamp": torch.clamp,
    "div": torch.div,
    "lerp": torch.lerp,
    "mul": torch.mul,
    "relu": _relu_into,
    "rsub": _rsub_into,
    "sigmoid": torch.sigmoid,
    "sub": torch.sub,
    "tanh": torch.tanh,
    "truediv": torch.div,
}
