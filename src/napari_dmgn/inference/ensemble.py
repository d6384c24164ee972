"""Restoring planes twice, as they are and as a mirrored, enlarged copy, and taking the mean.

What a network takes for noise depends a little on which side is left, and on how many pixels a thing has; what lies
over a picture does not. The mean of what two views of it bring has fewer such errors (geometric self-ensemble: Timofte,
Rothe and Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016; there the views
are mirrored and turned).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_dmgn.inference.engine import count_steps, iter_infer
from napari_dmgn.inference.memory import is_out_of_memory, words
from napari_dmgn.inference.planes import Collector, Mask, Part, Pixels, Planes, Sink, Step, finished, whole_mask

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["iter_infer_ensemble"]

_PUT_PIXELS = 1 << 20
"""Pixels that are put at a time."""


def iter_infer_ensemble(
    model: Model,
    batch: Pixels,
    *,
    enlarged: float,
    masks: bool = False,
    sink: Sink | None = None,
    **engine: Any,
) -> Generator[Step | Planes, None, None]:
    """Restore planes and a mirrored, enlarged copy of them, one step at a time; the last item holds the mean.

    Beside what one view takes, some 13 float32 values of every pixel are in memory, and 23 of every pixel of the copy.

    Parameters
    ----------
    model : Model
    batch : (N, 3, H, W) float32 array in [0, 1], or what reads like one
        Read as a whole.
    enlarged : float
        1 or more. How much larger the copy is along each axis.
    masks : bool
        Keep every cell's mask, those of the planes as they are.
    sink : Sink or None
        As in `iter_infer`.
    **engine
        The other arguments of `iter_infer`.

    Raises
    ------
    ValueError
        As `iter_infer` does.
    MemoryError
        Two views do not fit.
    """
    n, _, h, w = batch.shape
    size = round(h * enlarged), round(w * enlarged)
    strips = range(0, h, max(1, _PUT_PIXELS // max(1, n * w)))
    later = count_steps(model, (n, 3, *size), **engine) + len(strips)
    try:
        kept = Collector(n, h, w) if sink is None else None
        put = kept.put if kept is not None else sink.put  # type: ignore[union-attr]
        own, done = yield from _passed_on(iter_infer(model, batch, masks=masks, **engine), 0, later)
        own_masks = {name: whole_mask(mask) for name, mask in (own.masks or {}).items()}
        report = own.report
        image = torch.from_numpy(np.require(batch[0:n, 0:3, 0:h, 0:w], np.float32, ["C", "W"]))
        # A view's changes, not its pixels, are carried back: edges and texture stay the image's own.
        mean = _changes(image, own)
        del own

        copy = F.interpolate(image, size, mode="bicubic", align_corners=False).clamp_(0, 1).flip(-1)
        other, done = yield from _passed_on(iter_infer(model, copy.numpy(), **engine), done, len(strips))
        report = _joined(report, other.report)
        changes = _changes(copy, other)
        del copy, other
        for channel in range(mean.shape[1]):  # one after the other, for the memory's sake
            values = changes[:, channel : channel + 1]
            back = F.interpolate(values, (h, w), mode="bilinear", antialias=True, align_corners=False).flip(-1)
            mean[:, channel : channel + 1].lerp_(back, 0.5)
        del changes

        for number, start in enumerate(strips, 1):
            rows = slice(start, min(start + strips.step, h))
            put(_part(image, mean, rows, own_masks if number == 1 else {}))
            yield Step(done=done + number, total=done + len(strips))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"out of memory with two views of {w}x{h} pixels; one takes less: {words(error)}") from error
    yield finished(n, kept, masks=masks, report=report)


def _passed_on(
    steps: Generator[Step | Planes, None, None], done: int, later: int
) -> Generator[Step, None, tuple[Planes, int]]:
    """Pass steps on, between those that are done and those to come; return the planes and how many are done then."""
    own = 0
    with closing(steps):
        for item in steps:
            if isinstance(item, Planes):
                return item, done + own
            own = item.done
            yield Step(done=done + own, total=done + item.total + later)
    raise RuntimeError("inference ended without a result")


def _changes(image: Tensor, planes: Planes) -> Tensor:
    """Return what a network makes of (N, 3, H, W) images as (N, 10, H, W): changes of both images, noise, its map."""
    n, _, h, w = image.shape
    changes = torch.empty((n, 10, h, w), dtype=torch.float32)
    torch.sub(torch.from_numpy(planes.background), image, out=changes[:, 0:3])
    torch.sub(torch.from_numpy(planes.coarse), image, out=changes[:, 3:6])
    changes[:, 6:9] = torch.from_numpy(planes.noise)
    changes[:, 9] = torch.from_numpy(planes.noise_map)
    return changes


def _part(image: Tensor, changes: Tensor, rows: slice, masks: dict[str, Mask]) -> Part:
    image, changes = image[:, :, rows], changes[:, :, rows]
    background, coarse = ((image + changes[:, i : i + 3]).clamp_(0, 1).numpy() for i in (0, 3))
    return Part(
        rows=(rows.start, rows.stop),
        columns=(0, image.shape[-1]),
        background=background,
        coarse=coarse,
        noise=changes[:, 6:9].numpy(),
        noise_map=changes[:, 9].numpy(),
        masks=masks,
    )


def _joined(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the report of both views: device and settings are those of the second, the larger one."""
    joined = other | {
        "windows": own["windows"] + other["windows"],
        "fallbacks": list(dict.fromkeys([*own["fallbacks"], *other["fallbacks"]])),
    }
    errors = [report["halo_error"] for report in (own, other) if "halo_error" in report]
    return joined | ({"halo_error": max(errors)} if errors else {})
