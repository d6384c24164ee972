"""A finished model goes to where all widgets look for models."""

from __future__ import annotations

from pathlib import Path

from napari_dmgn import zoo
from napari_dmgn.files import replacing
from napari_dmgn.plugin.preferences import preferences

__all__ = ["install"]


def install(path: Path, name: str) -> str:
    """Copy a model file into the user's models folder; return its name there, numbered where taken.

    The folder is that of the Preferences page, where it names one.

    Raises
    ------
    OSError
        The folder cannot be made or written to. Nothing is left behind.
    """
    preferences()
    folder = zoo.models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    taken = {model.name for model in zoo.list_models()}
    free, number = name, 1
    while free in taken or (folder / f"{free}.safetensors").exists():
        number += 1
        free = f"{name} {number}"
    with replacing(folder / f"{free}.safetensors") as file:
        file.write(path.read_bytes())
    return free
