"""Many images one after the other: the next is read and the last is written while one is worked on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["overlapped"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
Written = TypeVar("Written")


def overlapped(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Done],
    write: Callable[[Item, Done], Written],
) -> Iterator[tuple[Item, Written | Exception]]:
    """Yield what became of each item, in order; an item that fails yields its error and stops no other.

    `work` runs here, `read` and `write` on a thread each. At most one item is read ahead and one
    waits to be written, so three are in memory at most. Any error is an item's own: decoders and
    drivers raise what they like. An interrupt stops all, after what became of the item before it.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = [reader.submit(read, item) for item in items[:1]]
        last: tuple[Item, Future[Any]] | None = None
        for place, item in enumerate(items):
            reading += [reader.submit(read, following) for following in items[place + 1 : place + 2]]
            try:
                done = work(item, reading.pop(0).result())
            except Exception as error:
                writing: Future[Any] = Future()
                writing.set_exception(error)
            except BaseException:
                if last is not None:  # it is written by now, and whoever sums up has to know
                    yield _outcome(last)
                raise
            else:
                writing = writer.submit(write, item, done)
            if last is not None:
                yield _outcome(last)
            last = item, writing
        if last is not None:
            yield _outcome(last)


def _outcome(written: tuple[Item, Future[Any]]) -> tuple[Item, Any]:
    try:
        return written[0], written[1].result()
    except Exception as error:
        return written[0], error
