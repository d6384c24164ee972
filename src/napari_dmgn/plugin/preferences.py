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
    downscale: str = "auto"
    ensemble: bool = False
    tile: str = "auto"
    output_type: str = "same"
    models_folder: str = ""
    keep_model: bool = True

    def downscale_setting(self) -> str | int:
        """Return the factor of the working size as `restore` takes it."""
        return "auto" if self.downscale == "auto" else int(self.downscale)

    def tile_setting(self) -> str | int | None:
        """Return the tile as `restore` takes it."""
        if self.tile == "auto":
            return "auto"
        return None if self.tile == "whole" else int(self.tile)


def preferences() -> Preferences:
    """Read the page, and let a models folder that is named there be the one that everything looks at.

    From the first call on the folder follows the page without another one.
    """
    found = _read()
    # The environment, since the processes that train have to see the same folder.
    now = os.environ.get(_FOLDER)
    before = _REPLACED.get(now, now) if now is not None else None
    if found.models_folder:
        os.environ[_FOLDER] = found.models_folder
        _REPLACED[found.models_folder] = before
    elif now in _REPLACED:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before
    return found


# Folders that the page has put into the environment, each with the one that was there before the page's.
_REPLACED: dict[str, str | None] = {}


def _follow(event: object) -> None:
    preferences()


def _read() -> Preferences:
    try:
        from napari.settings import get_plugin_settings

        page = get_plugin_settings(_PLUGIN).restore
        page.events.models_folder.connect(_follow)  # once, however often
    except (ImportError, KeyError, AttributeError) as error:
        logger.debug("no preferences page: %s", error)
        return Preferences()
    return Preferences(**{field.name: getattr(page, field.name) for field in fields(Preferences)})
