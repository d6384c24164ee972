"""Restore the clean background of superimposed images with deep-masking generative networks.

The public names are resolved on first use, so that ``import napari_dmgn`` loads neither torch nor napari.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dmgn.api import Restoration, RestoreEvent, iter_restore, restore
    from napari_dmgn.checkpoint import CheckpointError
    from napari_dmgn.evaluation import evaluate, iter_evaluate
    from napari_dmgn.lazy import restore_lazy
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.synthesis import synthesize
    from napari_dmgn.training import TrainConfig, iter_train, train
    from napari_dmgn.zoo import list_models, load_model

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Model",
    "Restoration",
    "RestoreEvent",
    "TrainConfig",
    "__version__",
    "evaluate",
    "iter_evaluate",
    "iter_restore",
    "iter_train",
    "list_models",
    "load_model",
    "restore",
    "restore_lazy",
    "synthesize",
    "train",
]

_MODULE_OF = {
    "CheckpointError": "checkpoint",
    "Model": "model.descriptor",
    "Restoration": "api",
    "RestoreEvent": "api",
    "TrainConfig": "training",
    "evaluate": "evaluation",
    "iter_evaluate": "evaluation",
    "iter_restore": "api",
    "iter_train": "training",
    "list_models": "zoo",
    "load_model": "zoo",
    "restore": "api",
    "restore_lazy": "lazy",
    "synthesize": "synthesis",
    "train": "training",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name and keep the name here."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
