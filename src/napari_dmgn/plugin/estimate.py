"""How long a run will take and how much memory: from what this machine did before, or a quick measurement."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.plugin.source import Source
from napari_dmgn.plugin.volumes import result_shape
from napari_dmgn.tiling import downscale_factor

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari_dmgn.plugin.worker import Request

__all__ = [
    "Estimate",
    "Pace",
    "estimate",
    "estimate_request",
    "measure",
    "pace",
    "remember",
    "speed_file",
    "working_factor",
]

logger = logging.getLogger(__name__)

# The network's: smaller runs are mostly overhead, and say nothing of the pace.
_LEAST_PIXELS = 200_000
_MEASURED_SIDE = 512
# To carry the results of a smaller image back to all pixels, which one core of a CPU does: seconds per million pixels,
# bytes per pixel of a strip, pixels of a strip, and bytes per pixel of the smaller image.
_CARRIED_SECONDS, _CARRIED_BYTES, _CARRIED_PIXELS, _SMALL_BYTES = 0.3, 200, 1 << 20, 60
_FIRST_VIEW_BYTES = 40  # of each pixel that the network sees, where the image is restored mirrored, too


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What was measured of a model on a device of this machine.

    Attributes
    ----------
    seconds : per million pixels of the image
    device, precision : resolved
    bytes_per_pixel, strip_pixels : of the working memory
    """

    seconds: float
    device: str
    precision: str
    bytes_per_pixel: float
    strip_pixels: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a run: seconds (None where the pace is not known) and bytes of memory beside the layer's own."""

    seconds: float | None
    memory: int

    def sentence(self, whole: Estimate | None = None) -> str:
        """Put it into words, and beside it what the whole layer would take where this is a part."""
        if self.seconds is None:
            text = f"Time: not known yet on this machine. Memory for the results: {_size(self.memory)}."
        else:
            text = f"About {duration(self.seconds)} and {_size(self.memory)} of memory."
        if whole is None:
            return text
        time = "" if whole.seconds is None else f"about {duration(whole.seconds)}, "
        return f"{text} Whole layer: {time}{_size(whole.memory)}."


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Put a time into words, as exactly as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def estimate_request(request: Request, source: Source, card: Mapping[str, Any]) -> Estimate:
    """Estimate what a request for a source takes, by the card of its model."""
    factor = working_factor(request.downscale, card, source)
    known = pace(request.model, request.device, request.precision, factor, ensemble=request.ensemble)
    kept = () if request.store is not None else request.outputs
    return estimate(source, kept, request.result_type(), known, factor, ensemble=request.ensemble)


def working_factor(downscale: str | int, card: Mapping[str, Any], source: Source) -> int:
    """Return the factor by which an image is made smaller for a network with this card: a region as its whole."""
    height, width = source.uncropped().plain_shape[-2:]
    return downscale_factor(downscale, card, (height, width))


def estimate(
    source: Source,
    outputs: Collection[str],
    dtype: np.dtype[Any],
    known: Pace | None,
    downscale: int = 1,
    *,
    ensemble: bool = False,
) -> Estimate:
    """Estimate a run.

    Parameters
    ----------
    source : what is restored
    outputs : results that are kept in memory; none where they go to the disk
    dtype : of background and coarse
    known : the pace of the model at this working size, if it was measured
    downscale : factor by which the image is made smaller for the network
    ensemble : whether it is restored mirrored, too
    """
    sizes = {"background": dtype.itemsize, "coarse": dtype.itemsize}
    memory = sum(math.prod(result_shape(source, output)) * sizes.get(output, 4) for output in outputs)
    # While a frame is at work all of its results are there, the input once more, and the kept noise.
    memory += source.frame_pixels * 3 * (2 * dtype.itemsize + 12)
    if source.lazy:
        memory += source.frame_pixels * (3 if source.rgb else 1) * source.dtype.itemsize
    seen = source.frame_pixels // downscale**2
    memory += seen * _FIRST_VIEW_BYTES if ensemble else 0
    if known is None:
        return Estimate(seconds=None, memory=memory)
    working = min(seen, known.strip_pixels) * known.bytes_per_pixel
    if downscale > 1:  # first the network is at work, then its results are carried back
        working = max(working, min(source.frame_pixels, _CARRIED_PIXELS) * _CARRIED_BYTES) + seen * _SMALL_BYTES
    memory += int(working)
    seconds = known.seconds * source.frames * source.frame_pixels / 1e6
    return Estimate(seconds=seconds, memory=memory)


def speed_file() -> Path:
    """Return the file that keeps the paces."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("napari-dmgn", appauthor=False)) / "speed.json"


def pace(model: Path | None, device: str, precision: str, downscale: int = 1, *, ensemble: bool = False) -> Pace | None:
    """Return what is known of a model with these settings ("auto" is the last run with them).

    Of a working size at which there was no run, the pace is reckoned from that at full size, and of two views from that
    of one.
    """
    try:
        return Pace(**_read()[_key(model, device, precision, downscale, ensemble)])
    except (KeyError, TypeError):
        if downscale == 1 and not ensemble:
            return None
    if ensemble:
        one = pace(model, device, precision, downscale)
        carried = _CARRIED_SECONDS if downscale > 1 else 0.0  # once, in the end
        return one and replace(one, seconds=max(one.seconds, 2 * one.seconds - carried))
    full = pace(model, device, precision)
    return full and replace(full, seconds=full.seconds / downscale**2 + _CARRIED_SECONDS)


def remember(model: Path | None, device: str, precision: str, report: Mapping[str, Any], pixels: int) -> None:
    """Keep the pace of some frames, if they were enough to tell it; device and precision as they were asked for."""
    seen = pixels // report.get("downscale", 1) ** 2
    if seen < _LEAST_PIXELS or report.get("windows") is None or report.get("fallbacks"):
        return
    _write(model, device, precision, report, float(report["seconds"]) / pixels * 1e6)


def measure(model: Path, device: str, precision: str) -> Pace:
    """Restore a small picture twice, which takes a second or so, and keep the pace of the second time.

    Raises
    ------
    ValueError, OSError, MemoryError
        As `restore` does.
    """
    from napari_dmgn import api

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (_MEASURED_SIDE, _MEASURED_SIDE, 3), np.uint8)
    report: Mapping[str, Any] = {}
    for _ in range(2):
        report = api.restore(picture, model=model, device=device, precision=precision, downscale=1).provenance
    _write(model, device, precision, report, float(report["seconds"]) / _MEASURED_SIDE**2 * 1e6)
    found = pace(model, device, precision)
    if found is None:
        raise OSError(f"the measurement could not be kept in {speed_file()}")
    return found


def _write(model: Path | None, device: str, precision: str, report: Mapping[str, Any], seconds: float) -> None:
    if model is None:
        return
    found = {
        "seconds": seconds,
        "device": report["device"],
        "precision": report["precision"],
        **_memory(model, str(report["device"]), str(report["precision"])),
    }
    everything = _read()
    for asked in ((device, precision), (str(report["device"]), str(report["precision"]))):
        everything[_key(model, *asked, report.get("downscale", 1), report.get("ensemble", False))] = found
    try:
        path = speed_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(everything), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:  # a read-only home: estimates are a comfort
        logger.info("the pace is not kept: %s", error)


def _memory(model: Path, device: str, precision: str) -> dict[str, float]:
    from types import SimpleNamespace
    from typing import cast

    from napari_dmgn import zoo
    from napari_dmgn.inference import plan
    from napari_dmgn.inference.plans import bytes_per_pixel
    from napari_dmgn.model.config import NetworkConfig

    config = NetworkConfig.from_dict(zoo.find_model(model).config)
    side = 8192
    sized = cast("Any", SimpleNamespace(config=config))  # all of a model that a plan looks at
    made = plan(sized, (side, side), device=device, precision=precision, tile="strips")
    return {
        "bytes_per_pixel": bytes_per_pixel(config, precision),
        "strip_pixels": side * (made.strip or side),
    }


def _key(model: Path | None, device: str, precision: str, downscale: int, ensemble: bool) -> str:
    size = model.stat().st_size if model is not None and model.is_file() else 0
    name = "" if model is None else model.name
    views = f"{f' 1/{downscale}' if downscale > 1 else ''}{' and mirrored' if ensemble else ''}"
    return f"{name} {size} {device} {precision}{views}"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(speed_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
