"""A window in one piece, or in smaller ones where memory runs out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from napari_dmgn.tiling import Window, halved

if TYPE_CHECKING:
    from napari_dmgn.inference import Plan
    from napari_dmgn.model.config import NetworkConfig

__all__ = ["Outcome", "in_pieces", "try_once"]

_LOG = logging.getLogger(__name__)

# Of a window on a graphics card. Beyond, a piece is hardly more than its halo: the CPU's memory is the better chance.
_HALVINGS = 4

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Value]):
    """What became of a window.

    Attributes
    ----------
    value : what was asked for
    fallbacks : what was done where memory ran out
    halo_error : largest difference that a wider halo makes to a pixel, where it was measured
    """

    value: Value
    fallbacks: tuple[str, ...] = ()
    halo_error: float | None = None


def in_pieces(
    work: Callable[[Window, Plan], Value], window: Window, plan: Plan, config: NetworkConfig
) -> tuple[list[Value], list[str]]:
    """Do a window; where memory runs out, in halves along each axis and at last on the CPU.

    Parameters
    ----------
    work : does a window, or a piece of one; it may run out of memory
    window, plan : as in `window_sums`
    config : of the network

    Returns
    -------
    list
        What `work` returned for each piece; the pieces cover the window.
    list of str
        What was done about the memory.

    Raises
    ------
    MemoryError
        If the smallest piece does not fit.
    """
    from napari_dmgn.inference.memory import release, words

    size = config.working_size(*plan.shape)
    left, done, said, cuts = deque([window]), [], [], 0
    while left:
        outcome, failure = try_once(work, left[0], plan)
        if failure is None:
            done += outcome
            left.popleft()
            continue
        message = words(failure)
        release(failure, plan.device)
        text = f"out of memory on {plan.device} with windows of {_size(left[0])} pixels"
        smaller = [h for w in left for h in halved(w, size=size, halo=plan.halo, stride=config.stride)]
        if len(smaller) > len(left) and (cuts < _HALVINGS or plan.device == "cpu"):
            left, cuts = deque(smaller), cuts + 1
            text += f": halved to {_size(left[0])}"
        elif plan.device != "cpu":
            left, done, cuts, plan = deque([window]), [], 0, replace(plan, device="cpu")
            text += ": went on on the CPU"
        else:
            raise MemoryError(f"{text}, which cannot be smaller: {message}")
        said.append(text)
        _LOG.warning("%s (%s)", text, message)
    return done, said


def try_once(
    work: Callable[[Window, Plan], Value], window: Window, plan: Plan
) -> tuple[list[Value], BaseException | None]:
    """Return what a piece gives, or the error where memory ran out."""
    from napari_dmgn.inference.memory import is_out_of_memory

    try:
        return [work(window, plan)], None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [], error  # handled outside of this block, which keeps what the failed piece holds alive


def _size(window: Window) -> str:
    rows, columns = (span.paste[1] - span.paste[0] for span in (window.rows, window.columns))
    return f"{columns}x{rows}"
