"""Work of one phase, done piece by piece, in pieces that can be made smaller: windows, or strips of rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from napari_dmgn.inference import phases
from napari_dmgn.inference.phases import Gains, WindowSums
from napari_dmgn.inference.plans import Plan, round_up
from napari_dmgn.inference.strips import Strips
from napari_dmgn.tiling import Window, halved, widened

if TYPE_CHECKING:
    from napari_dmgn.inference.noise import NoiseStore
    from napari_dmgn.inference.planes import Part, Pixels
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.model.network import Separated

__all__ = ["Job", "StripWork", "WindowWork", "Work", "begin", "pieces"]


@dataclass(kw_only=True)
class Job:
    """What the phases of one batch share.

    Attributes
    ----------
    model, pixels, plan, masks
        See `iter_infer`; the plan changes where memory runs out.
    put : function
        Takes the restored parts.
    sums : WindowSums or None
        Of phase 1 so far.
    known : Gains or None
        None in phase 1.
    separated : Separated or None
        Phase 1's result, where one window is all.
    noise : NoiseStore or None
        Phase 1's noise, where the strips keep it.
    fallbacks : list of str
        What was done where memory ran out.
    errors : list of float
        Of the windows whose halo was measured.
    """

    model: Model
    pixels: Pixels
    plan: Plan
    masks: bool
    put: Callable[[Part], None]
    sums: WindowSums | None = None
    known: Gains | None = None
    separated: Separated | None = None
    noise: NoiseStore | None = None
    fallbacks: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, sums: WindowSums) -> None:
        """Take the sums of a piece of phase 1."""
        self.sums = sums if self.sums is None else self.sums + sums


class Work(Protocol):
    """Pieces of one phase."""

    @property
    def left(self) -> int:
        """Number of pieces that are not done."""

    def step(self) -> None:
        """Do the next piece; where it fails, it is still the next."""

    def smaller(self) -> Work | None:
        """Return what is left in pieces of half the size, None where they cannot be smaller."""

    def moved(self) -> None:
        """Heed that the plan's device has changed."""

    @property
    def what(self) -> str:
        """Words for a piece."""


def begin(job: Job) -> Work:
    """Return a phase's work as the plan has it."""
    return WindowWork(job) if job.plan.strip is None else StripWork(job, job.plan.strip)


def pieces(made: Plan) -> int:
    """Number of pieces in a phase, as a plan has it."""
    return len(made.parts) if made.strip is None else -(-made.parts[0].rows.paste[1] // made.strip)


class WindowWork:
    """Windows with a halo."""

    def __init__(self, job: Job, windows: tuple[Window, ...] | None = None) -> None:
        self.job = job
        self.windows = deque(job.plan.parts if windows is None else windows)
        self.measured = _samples(list(self.windows)) if job.plan.halo < _exact_halo(job) else []

    @property
    def left(self) -> int:
        """Number of windows that are not done."""
        return len(self.windows)

    @property
    def what(self) -> str:
        """Words for the next window."""
        rows, columns = (s.paste[1] - s.paste[0] for s in (self.windows[0].rows, self.windows[0].columns))
        return f"windows of {columns}x{rows} pixels"

    def step(self) -> None:
        """Do the next window."""
        job, window = self.job, self.windows[0]
        if job.known is None:
            self._gather(window)
        else:
            self._restore(window, job.known)
        self.windows.popleft()

    def _gather(self, window: Window) -> None:
        job = self.job
        whole = len(job.plan.parts) == 1
        part = phases.read_window(job.pixels, window)
        separated = phases.separate(job.model, part, job.plan, masks=job.masks and whole)
        job.add(phases.sums_of(job.model.network, separated, window, job.plan))
        if whole:
            job.separated = separated

    def _restore(self, window: Window, known: Gains) -> None:
        job = self.job
        # Handed over, not kept: the last step needs the memory of what it has used up.
        separated, job.separated = job.separated, None
        if separated is None:
            pixels = phases.read_window(job.pixels, window)
            separated = phases.separate(job.model, pixels, job.plan, masks=job.masks)
        part = phases.refined(job.model.network, separated, window, known, job.plan, masks=job.masks)
        if window in self.measured:
            job.errors.append(self._error(part, window, known))
        job.put(part)

    def _error(self, part: Part, window: Window, known: Gains) -> float:
        """Restore a window with the whole halo, too, and return the largest difference of a pixel."""
        job, config = self.job, self.job.model.config
        wider = widened(
            window, size=config.working_size(*job.plan.shape), halo=config.receptive_radius, stride=config.stride
        )
        exact = phases.restore_window(job.model, phases.read_window(job.pixels, wider), wider, known, job.plan)
        names = ("background", "noise", "noise_map")
        return max(float(np.abs(getattr(part, name) - getattr(exact, name)).max()) for name in names)

    def smaller(self) -> Work | None:
        """Return the windows that are left in halves along each axis; a whole image in strips."""
        job = self.job
        job.separated = None
        config, made = job.model.config, job.plan
        if made.tile is None:
            rows = made.parts[0].rows.paste[1]
            if rows <= config.stride:
                return None
            job.plan = replace(made, strip=round_up(-(-rows // 2), config.stride), halo=0)
            return begin(job)
        if made.tile <= config.stride:
            return None
        size = config.working_size(*made.shape)

        def cut(windows: Iterable[Window]) -> tuple[Window, ...]:
            return tuple(h for w in windows for h in halved(w, size=size, halo=made.halo, stride=config.stride))

        job.plan = replace(made, tile=round_up(made.tile // 2, config.stride), parts=cut(made.parts))
        return WindowWork(job, cut(self.windows))

    def moved(self) -> None:
        """Forget what lies on the old device."""
        self.job.separated = None


def _exact_halo(job: Job) -> int:
    return 0 if job.plan.tile is None else job.model.config.receptive_radius


def _samples(windows: list[Window]) -> list[Window]:
    """Choose three windows, spread evenly, to measure a halo's error at; all where they are fewer."""
    count = min(len(windows), 3)
    return [windows[(2 * i + 1) * len(windows) // (2 * count)] for i in range(count)]


class StripWork:
    """Strips of whole rows, from top to bottom, without a halo."""

    def __init__(self, job: Job, rows: int) -> None:
        self.job = job
        self.rows = rows
        # The noise branch's masks come from the branch itself: it has to run again.
        self.strips = Strips(job.model, job.pixels, job.plan, None if job.masks else job.noise)
        self.height = self.strips.size[0]
        self.at = 0
        # What the last strip gave, until it is handed over: the operators have seen its rows, and it cannot be done
        # again where memory runs out in between.
        self.result: WindowSums | Part | None = None

    @property
    def left(self) -> int:
        """Number of strips that are not done, or not handed over."""
        return -(-(self.height - self.at) // self.rows) + (self.result is not None)

    @property
    def what(self) -> str:
        """Words for a strip."""
        return f"strips of {self.rows} rows"

    def step(self) -> None:
        """Do the next strip."""
        job = self.job
        if self.result is None:
            rows = (self.at, min(self.at + self.rows, self.height))
            if job.known is None:
                self.result = self.strips.sums(rows)
            else:
                self.result = self.strips.restore(rows, job.known, masks=job.masks)
            self.at = rows[1]
        if isinstance(self.result, WindowSums):
            job.add(self.result)
        elif self.result is not None:
            job.put(self.result)
        self.result = None

    def smaller(self) -> Work | None:
        """Halve the strips that are to come; what the operators keep stays."""
        stride = self.job.model.config.stride
        if self.rows <= stride:
            return None
        self.rows = round_up(self.rows // 2, stride)
        self.job.plan = replace(self.job.plan, strip=self.rows)
        return self

    def moved(self) -> None:
        """Take what the operators keep to the plan's device."""
        self.strips.plan = self.job.plan
        self.strips.tape.to(self.job.plan.device)
