"""The plugin's page in napari's Preferences, or its defaults where napari has no such pages (before 0.9)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields

__all__ = ["Preferences", "preferences"]

logger = logging.getLogger(__name__)

_PLUGIN = "napari-dmgn"
_FOLDER = "NAPARI_DMGN_MODELS"


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """What the widgets and quick commands start with; the names and defaults are the manifest's."""

    device: str = "auto"
    precision: str = "auto"
    tile: str = "auto"
    output_type: str = "same"
    models_folder: str = ""
    keep_model: bool = True

    def tile_setting(self) -> str | int | None:
        """Return the tile as `restore` takes it."""
        if self.tile == "auto":
            return "auto"
        return None if self.tile == "whole" else int(self.tile)


def preferences() -> Preferences:
    """Read the page, and let a models folder that is named there be the one that everything looks at."""
    found = _read()
    if found.models_folder:
        # The environment, since the processes that train have to see the same folder.
        os.environ[_FOLDER] = found.models_folder
        _ours.add(found.models_folder)
    elif os.environ.get(_FOLDER) in _ours:
        del os.environ[_FOLDER]
    return found


_ours: set[str] = set()


def _read() -> Preferences:
    try:
        from napari.settings import get_plugin_settings

        page = get_plugin_settings(_PLUGIN).restore
    except (ImportError, KeyError, AttributeError) as error:
        logger.debug("no preferences page: %s", error)
        return Preferences()
    return Preferences(**{field.name: getattr(page, field.name) for field in fields(Preferences)})
