"""Which models exist and where: the shipped ones and those in the user's models folder."""

from __future__ import annotations

import copy
import difflib
import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn import checkpoint
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.paths import expanded

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = [
    "TASKS",
    "ModelInfo",
    "broken_models",
    "find_model",
    "forget_models",
    "list_models",
    "load_model",
    "models_folder",
    "shared_model",
]

log = logging.getLogger(__name__)

TASKS = ("rain", "haze", "reflection")
"""What the network restores, by name."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model file, as its header describes it.

    Attributes
    ----------
    name : str
        File name without suffix; what `load_model` takes.
    task : str
    path : Path
    card, config : dict
        The model card and the network's settings.
    parameters, bytes : int
        Number of weights, and size of the file.
    shipped : bool
        Whether the model came with the package.
    """

    name: str
    task: str
    path: Path
    card: dict[str, Any]
    config: dict[str, Any]
    parameters: int
    bytes: int
    shipped: bool

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def models_folder() -> Path:
    """Return the user's models folder: $NAPARI_DMGN_MODELS, or the platform's place for user data."""
    if chosen := os.environ.get("NAPARI_DMGN_MODELS"):
        return expanded(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-dmgn", appauthor=False)) / "models"


def _shipped_folder() -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "weights"
    # In a checkout the weights lie at the project's root, two folders above the package.
    return installed if installed.is_dir() else package.parents[1] / "weights"


def _files() -> list[tuple[Path, bool]]:
    files = [(p, True) for p in sorted(_shipped_folder().glob("*.safetensors"))]
    try:
        folder = models_folder()
    except ImportError:  # without platformdirs there are the shipped models
        return files
    return files + [(p, False) for p in sorted(folder.glob("*.safetensors"))]


def _info(path: Path, *, shipped: bool) -> ModelInfo:
    header = checkpoint.read_header(path)
    return ModelInfo(
        name=path.stem,
        task=header.task,
        path=path,
        card=header.card,
        config=header.config.to_dict(),
        parameters=header.parameters,
        bytes=header.bytes,
        shipped=shipped,
    )


def list_models() -> list[ModelInfo]:
    """Return the shipped models, in the order of `TASKS`, and those in the user's models folder.

    Only headers are read. A broken file is left out with a logged warning; `broken_models` tells
    what is wrong with it.
    """
    models = []
    for path, shipped in _files():
        try:
            models.append(_info(path, shipped=shipped))
        except CheckpointError as error:
            log.warning("model left out: %s", error)
    # The first is what a widget shows before anything is chosen.
    places = {task: place for place, task in enumerate(TASKS)}
    return sorted(models, key=lambda m: places.get(m.task, len(TASKS)) if m.shipped else len(TASKS) + 1)


def broken_models() -> list[tuple[Path, str]]:
    """Return the model files that cannot be used, each with what is wrong with it."""
    broken = []
    for path, shipped in _files():
        try:
            _info(path, shipped=shipped)
        except CheckpointError as error:
            broken.append((path, str(error)))
    return broken


def find_model(name: str | Path) -> ModelInfo:
    """Find a model by task, by name, or by the path of its file.

    A task's name means the shipped model of that task, or else the user's model of that name, or the
    only one of that task; any other name is looked for among all models, the user's first.

    Raises
    ------
    ValueError
        There is no such model.
    CheckpointError
        The file named is broken.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".safetensors") or os.sep in text:
        path = expanded(name)
        return _info(path, shipped=path.resolve().parent == _shipped_folder())
    models = list_models()
    if text in TASKS:
        for model in models:
            if model.task == text and model.shipped:
                return model
    for model in reversed(models):
        if model.name == text:
            return model
    if text in TASKS:
        own = [model for model in models if model.task == text]
        if len(own) == 1:
            return own[0]
        if own:
            raise ValueError(f"several models for {text}: {', '.join(m.name for m in own)}; name one as the model")
    # A broken file under this name says more than "no such model".
    for path, shipped in _files():
        if path.stem == text:
            return _info(path, shipped=shipped)
    names = sorted({m.name for m in models})
    near = difflib.get_close_matches(text, [*names, *TASKS], n=1)
    hint = f"; did you mean {near[0]!r}?" if near and near[0] in names else ""
    raise ValueError(f"no model {text!r}{hint} (there are: {', '.join(names) or 'none'})")


def load_model(name: str | Path, device: str = "cpu") -> Model:
    """Load a model by task, name or path; a file loaded before is not read again.

    What is done to it changes no other: `restore` by a task, a name or a path has the model as its file has it. The
    sha256 in the provenance of a changed one is still that of the file that it came from.

    Parameters
    ----------
    name : str or Path
        See `find_model`.
    device : str
        As in `restore`: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        There is no such model or device.
    CheckpointError
        The file is broken.
    """
    return copy.deepcopy(shared_model(name, device))


def shared_model(name: str | Path, device: str = "cpu") -> Model:
    """Load a model as `load_model` does, but without a copy: all who ask share it, and none may change it."""
    from napari_dmgn.devices import resolve_device

    path = find_model(name).path.resolve()
    status = path.stat()
    # The time and size stand for the content: a file that was replaced is loaded anew.
    return _load(path, resolve_device(device), status.st_mtime_ns, status.st_size)


def forget_models() -> None:
    """Free the memory of the models that are kept from one restoration to the next."""
    _load.cache_clear()


@lru_cache(maxsize=4)
def _load(path: Path, device: str, changed: int, size: int) -> Model:
    model = checkpoint.load(path)
    model.network.place(device)
    return model
