"""Pictures of napari with the plugin, on scikit-image's pictures: python docs/make_screenshot.py FOLDER

Writes napari.png (a run of "Restore background"), napari_compare.png and napari_masks.png, windows of 1280 x 800
pixels. It needs a display (xvfb-run -a -s "-screen 0 1440x900x24" will do) and takes the shipped model for rain, or
the first one of the models folder in $NAPARI_DMGN_MODELS. Times in the pictures are those of the machine; all else
is the same in every run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

SIZE = (1280, 800)


def settle(seconds: float) -> None:
    """Let Qt work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def restored(viewer: napari.Viewer, sample: str, *, masks: bool, wait: float) -> Any:
    """Open a sample, press Restore, wait for the layers; return the widget."""
    viewer.open_sample("napari-dmgn", sample)
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.form.masks_box.setChecked(masks)
    settle(1)
    before = len(viewer.layers)
    widget.restore_button.click()
    end = time.monotonic() + wait
    while not widget.restore_button.isEnabled() and time.monotonic() < end:
        settle(0.05)
    if len(viewer.layers) == before:
        raise SystemExit(f"no layers were added: {widget.status.text()}")
    return widget


def close_dock(viewer: napari.Viewer, widget: Any) -> None:
    """Close the dock widget round a widget."""
    widget.parent().close()
    settle(0.2)


def shot(viewer: napari.Viewer, path: Path) -> None:
    """Save a picture of the window."""
    viewer.reset_view()
    settle(1.5)
    viewer.window.screenshot(str(path), canvas_only=False, flash=False)
    print(path)


def restore(viewer: napari.Viewer, path: Path, wait: float) -> None:
    """Take the picture of a run: all layers in the grid."""
    restored(viewer, "heavy-rain", masks=False, wait=wait)
    grid = viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid
    grid.enabled, grid.shape = True, (2, 2)
    shot(viewer, path)


def compare(viewer: napari.Viewer, path: Path, wait: float) -> None:
    """Take the picture of the source and its background side by side."""
    close_dock(viewer, restored(viewer, "light-rain", masks=False, wait=wait))
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    settle(0.5)
    widget.side_button.click()
    shot(viewer, path)


def masks(viewer: napari.Viewer, path: Path, wait: float) -> None:
    """Take the picture of all masks, each with its label and its scale."""
    close_dock(viewer, restored(viewer, "light-rain", masks=True, wait=wait))
    settle(0.5)
    (widget,) = (w for w in viewer.window.dock_widgets.values() if type(w).__name__ == "MasksWidget")
    widget.all_button.click()
    shot(viewer, path)


def main() -> None:
    """Read the arguments and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to, made if missing")
    parser.add_argument("--wait", type=float, default=120, help="seconds to wait for a result")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("napari", restore), ("napari_compare", compare), ("napari_masks", masks)):
        viewer = napari.Viewer(show=True, show_welcome_screen=False)
        viewer.window.resize(*SIZE)
        make(viewer, given.folder / f"{name}.png", given.wait)
        viewer.close()


if __name__ == "__main__":
    main()
