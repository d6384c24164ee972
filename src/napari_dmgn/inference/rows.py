"""Maps that pass by row by row: the network's operators on a few rows at a time, without any halo.

A window with a halo computes the halo twice. Here every operator keeps, from one strip of rows to the next, the
few rows that its kernel reaches back to, and gives out only those rows whose inputs are all there. Fed strip by
strip, a network then computes every row of every map once, and what it holds is bounded by the strip.

`Rows` stands in for a tensor: the network's own code runs on it, and each call of an operator finds what it kept
through the order of the calls, which is the same for every strip (`Tape`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Rows", "Tape", "align"]


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


def _tail(data: Tensor | None, count: int) -> Tensor | None:
    """The last rows, as a copy: a view would hold all of them."""
    if data is None or count <= 0:
        return None
    return data[:, :, data.shape[2] - count :].clone()


def align(*maps: Rows) -> list[Rows]:
    """Wait for the slower of several maps of one height: return the rows that all have by now."""

    def step(kept: Any) -> tuple[list[Rows], Any]:
        before, done = kept if kept is not None else ((None,) * len(maps), 0)
        stop = min(m.stop for m in maps)
        out, left = [], []
        for m, rest in zip(maps, before, strict=True):
            data = m.below(rest)
            own = None if data is None or stop <= done else data[:, :, : stop - done]
            out.append(Rows(m.tape, own, done, m.shape))
            left.append(_tail(data, m.stop - stop))
        return out, (tuple(left), stop)

    if len(maps) == 1:
        return list(maps)
    assert len({m.shape[2] for m in maps}) == 1
    result: list[Rows] = maps[0].tape.turn(step)
    return result


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


def _cat(maps: Sequence[Rows], dim: int = 0) -> Rows:
    assert dim == 1
    aligned = align(*maps)
    channels = sum(m.shape[1] for m in maps)
    if aligned[0].data is None:
        return aligned[0].like(None, channels=channels)
    return aligned[0].like(torch.cat([m.data for m in aligned if m.data is not None], dim=1), channels=channels)


def _conv2d(
    x: Rows,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> Rows:
    reach = dilation[0] * (weight.shape[2] - 1)
    wide = dilation[1] * (weight.shape[3] - 1)
    n, _, h, w = x.shape
    height = (h + 2 * padding[0] - reach - 1) // stride[0] + 1
    shape = (n, weight.shape[0], height, (w + 2 * padding[1] - wide - 1) // stride[1] + 1)

    def convolve(block: Tensor) -> Tensor:
        return F.conv2d(block, weight, bias, stride, (0, padding[1]), dilation, groups)

    if reach == 0 and stride[0] == 1 and padding[0] == 0:
        return Rows(x.tape, None if x.data is None else convolve(x.data), x.start, shape)
    return _windowed(x, shape, convolve, step=stride[0], before=padding[0], reach=reach)


def _max_pool2d(x: Rows, kernel_size: int, stride: Any = None, *_: Any, **__: Any) -> Rows:
    assert kernel_size == 2
    assert stride in (None, 2)
    n, c, h, w = x.shape
    return _windowed(x, (n, c, h // 2, w // 2), lambda block: F.max_pool2d(block, 2), step=2, before=0, reach=1)


def _pixel_unshuffle(x: Rows, factor: int) -> Rows:
    n, c, h, w = x.shape
    shape = (n, c * factor**2, h // factor, w // factor)
    return _windowed(x, shape, lambda block: F.pixel_unshuffle(block, factor), step=factor, before=0, reach=factor - 1)


def _windowed(
    x: Rows,
    shape: tuple[int, ...],
    function: Callable[[Tensor], Tensor],
    *,
    step: int,
    before: int,
    reach: int,
) -> Rows:
    """Output row i is a function of rows i step - before ... i step - before + reach; beyond the map they are 0."""

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.below(rest)  # rows first ... x.stop
        ready = shape[2] if x.stop == x.shape[2] else max(done, (x.stop - 1 - reach + before) // step + 1)
        ready = min(ready, shape[2])
        out = None
        if ready > done and data is not None:
            top, bottom = done * step - before, (ready - 1) * step - before + reach + 1
            block = data[:, :, max(top, 0) - first : min(bottom, x.stop) - first]
            missing = max(0, -top), max(0, bottom - x.stop)
            if any(missing):
                block = F.pad(block, (0, 0, *missing))
            out = function(block)
        keep = min(max(ready * step - before, first), x.stop)
        return Rows(x.tape, out, done, shape), (_tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result


def _pad(x: Rows, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Rows:
    left, right, top, bottom = (*pad, 0, 0)[:4]
    n, c, h, w = x.shape
    shape = (n, c, h + top + bottom, w + left + right)

    def widened(data: Tensor | None) -> Tensor | None:
        if data is None or (left == 0 and right == 0):
            return data
        return F.pad(data, (left, right, 0, 0), mode=mode)

    if top == 0 and bottom == 0:
        return Rows(x.tape, widened(x.data), x.start, shape)

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.like(widened(x.data)).below(rest)  # rows first ... x.stop
        ends = x.stop == h
        if data is None or (x.stop <= top and not ends):  # a reflection needs one row more than it shows
            return Rows(x.tape, None, done, shape), (data, first, done)
        pieces = [data[:, :, max(done - top, 0) - first :]]
        if done == 0 and top:
            pieces.insert(0, _beyond(data[:, :, : top + 1], top, mode, above=True))
        if ends and bottom:
            pieces.append(_beyond(data[:, :, -bottom - 1 :], bottom, mode, above=False))
        out = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        count = min(bottom + 1, data.shape[2])
        ready = shape[2] if ends else x.stop + top
        return Rows(x.tape, out, done, shape), (_tail(data, count), x.stop - count, ready)

    result: Rows = x.tape.turn(turn)
    return result


def _beyond(edge: Tensor, count: int, mode: str, *, above: bool) -> Tensor:
    """The rows beyond a border, from `count` + 1 rows inside it."""
    if mode == "reflect":
        return (edge[:, :, 1:] if above else edge[:, :, :-1]).flip(2)
    if mode != "constant":
        raise NotImplementedError(f"padding {mode!r} does not work row by row")
    return edge.new_zeros((*edge.shape[:2], count, edge.shape[3]))


def _pixel_shuffle(x: Rows, factor: int) -> Rows:
    n, c, h, w = x.shape
    shape = (n, c // factor**2, h * factor, w * factor)
    return Rows(x.tape, None if x.data is None else F.pixel_shuffle(x.data, factor), x.start * factor, shape)


def _interpolate(
    x: Rows,
    size: Any = None,
    scale_factor: float | None = None,
    mode: str = "",
    align_corners: bool | None = None,
    **_: Any,
) -> Rows:
    assert mode == "bilinear"
    n, c, h, w = x.shape
    if size is None:
        assert scale_factor is not None
        size = (math.floor(h * scale_factor), math.floor(w * scale_factor))
    height, width = size
    shape = (n, c, height, width)
    factor, rest = divmod(height, h)

    def across(data: Tensor, rows: int) -> Tensor:
        return F.interpolate(data, size=(rows, width), mode="bilinear", align_corners=align_corners)

    if height == h:
        return Rows(x.tape, None if x.data is None else across(x.data, x.data.shape[2]), x.start, shape)
    if rest == 0 and factor % 2 == 0 and not align_corners:
        return _enlarged(x, shape, factor, across)
    return _resampled(x, shape, across, bool(align_corners))


def _enlarged(x: Rows, shape: tuple[int, ...], factor: int, across: Callable[[Tensor, int], Tensor]) -> Rows:
    """By a whole factor: torch's own enlargement, less the rows at a border that is none of the map's."""
    half = factor // 2

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        data = x.below(rest)  # rows first ... x.stop
        ready = shape[2] if x.stop == x.shape[2] else max(done, x.stop * factor - half)
        out = None
        if ready > done and data is not None:
            large = across(data, data.shape[2] * factor)
            out = large[:, :, done - first * factor : ready - first * factor]
        keep = max(first, x.stop - 1)
        return Rows(x.tape, out, done, shape), (_tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result


def _resampled(x: Rows, shape: tuple[int, ...], across: Callable[[Tensor, int], Tensor], aligned: bool) -> Rows:
    """By any factor: between the two nearest rows, found by torch's own float32 arithmetic."""
    h, height = x.shape[2], shape[2]
    # Torch computes the place in float32, too.
    if aligned:
        scale = torch.tensor((h - 1) / (height - 1) if height > 1 else 0.0, dtype=torch.float32)
        places = torch.arange(height, dtype=torch.float32) * scale
    else:
        scale = torch.tensor(h / height, dtype=torch.float32)
        places = ((torch.arange(height, dtype=torch.float32) + 0.5) * scale - 0.5).clamp_min(0)
    upper = places.long().clamp_max(h - 1)
    lower = (upper + 1).clamp_max(h - 1)

    def turn(kept: Any) -> tuple[Rows, Any]:
        rest, first, done = kept if kept is not None else (None, 0, 0)
        new = None if x.data is None else across(x.data, x.data.shape[2])
        data = x.like(new).below(rest)  # rows first ... x.stop
        ready = int(torch.searchsorted(lower, x.stop)) if x.stop < h else height
        ready = max(ready, done)
        out = None
        if ready > done and data is not None:
            place = slice(done, ready)
            weight = (places[place] - upper[place])[:, None].to(data.device)
            a, b = (data.index_select(2, (i[place] - first).to(data.device)) for i in (upper, lower))
            out = torch.lerp(a.float(), b.float(), weight).to(data.dtype)
        keep = int(upper[ready]) if ready < height else x.stop
        keep = min(max(keep, first), x.stop)
        return Rows(x.tape, out, done, shape), (_tail(data, x.stop - keep), keep, ready)

    result: Rows = x.tape.turn(turn)
    return result


_OPERATORS: dict[str, Callable[..., Rows]] = {
    "cat": _cat,
    "conv2d": _conv2d,
    "interpolate": _interpolate,
    "max_pool2d": _max_pool2d,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}
