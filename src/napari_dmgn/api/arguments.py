"""Arguments of `restore`, checked before any work: each error names the value seen and the value wanted."""

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_dmgn import zoo
from napari_dmgn.devices import resolve_device, resolve_precision
from napari_dmgn.words import brief

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["check_downscale", "check_dtype", "check_engine", "check_ensemble", "check_task", "find_source"]

_LOG = logging.getLogger(__name__)


def check_task(task: object) -> str:
    """Return a task that is one."""
    if isinstance(task, str) and task in zoo.TASKS:
        return task
    near = difflib.get_close_matches(str(task), zoo.TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown task {brief(task)}; {hint}The tasks are {', '.join(zoo.TASKS)}")


def check_dtype(wanted: npt.DTypeLike, own: np.dtype[Any]) -> np.dtype[Any]:
    """Return the background's type, which may be the image's own."""
    if isinstance(wanted, str) and wanted == "same":
        return own
    try:
        dtype = np.dtype(wanted)
    except (SyntaxError, TypeError, ValueError):  # NumPy parses text
        dtype = np.dtype(object)
    if wanted is None or dtype.kind not in "iuf":
        raise ValueError(f"dtype is 'same' or a type of integers or floats; got {brief(wanted)}")
    return dtype


def check_engine(device: str, precision: str, tile: object, halo: object) -> str:
    """Check the settings of the engine and return the device that they mean here."""
    if not (tile is None or _is_word(tile, "auto") or _is_whole(tile, 1)):
        raise ValueError(f"tile is 'auto', None or a whole number of pixels >= 1; got {brief(tile)}")
    if not (_is_word(halo, "exact") or _is_whole(halo, 0)):
        raise ValueError(f"halo is 'exact' or a whole number of pixels >= 0; got {brief(halo)}")
    resolved = resolve_device(device)
    resolve_precision(precision, resolved)
    return resolved


def check_downscale(downscale: object) -> int | str:
    """Return a factor by which images are made smaller for the network, or "auto"."""
    if _is_word(downscale, "auto"):
        return "auto"
    if not _is_whole(downscale, 1):
        raise ValueError(f"downscale is 'auto' or a whole number >= 1; got {brief(downscale)}")
    return int(cast("int", downscale))


def check_ensemble(ensemble: object) -> bool:
    """Return whether an image is restored mirrored, too."""
    if not isinstance(ensemble, (bool, np.bool_)):
        raise ValueError(f"ensemble is True or False; got {brief(ensemble)}")
    return bool(ensemble)


def _is_word(value: object, word: str) -> bool:
    return isinstance(value, str) and value == word  # an array would compare its entries


def _is_whole(value: object, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and int(cast("int", value)) >= least


def find_source(model: object, task: str) -> "zoo.ModelInfo | Model":
    """Find the model without loading it, so that a wrong one is told before any work."""
    if model is None:
        return zoo.find_model(task)
    if hasattr(model, "network") and hasattr(model, "metadata"):
        loaded = cast("Model", model)
        _tell_other_task(loaded.metadata.name, loaded.metadata.task, task)
        return loaded
    if not isinstance(model, (str, Path)):
        raise ValueError(f"model is a name, a checkpoint file or a Model; got {brief(model)}")
    info = zoo.find_model(model)
    _tell_other_task(info.name, info.task, task)
    return info


def _tell_other_task(name: str, trained: str, task: str) -> None:
    if trained != task:
        _LOG.warning("model %r was trained for %s; it is used for %s as asked", name, trained, task)
