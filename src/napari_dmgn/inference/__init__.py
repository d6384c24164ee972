"""The network over images of any size, one step at a time.

`iter_infer` restores planes on this machine. Its parts are there for those who have the image's windows on
several machines: `plan` cuts the image, `window_sums` is phase 1 of one window, `gains` joins the sums of all,
and `restore_window` is phase 2 of one window. `iter_infer_reduced` restores large planes from a smaller copy,
and `iter_infer_ensemble` restores planes mirrored, too.
"""

from napari_dmgn.inference.engine import iter_infer
from napari_dmgn.inference.ensemble import iter_infer_ensemble
from napari_dmgn.inference.phases import Gains, WindowSums, gains, read_window, restore_window, window_sums
from napari_dmgn.inference.planes import Mask, Part, Pixels, Planes, Sink, Step
from napari_dmgn.inference.plans import Plan, plan
from napari_dmgn.inference.reduced import iter_infer_reduced

__all__ = [
    "Gains",
    "Mask",
    "Part",
    "Pixels",
    "Plan",
    "Planes",
    "Sink",
    "Step",
    "WindowSums",
    "gains",
    "iter_infer",
    "iter_infer_ensemble",
    "iter_infer_reduced",
    "plan",
    "read_window",
    "restore_window",
    "window_sums",
]
