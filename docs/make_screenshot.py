"""Picture of napari after a run of "Restore background" on the sample: python docs/make_screenshot.py OUT.png

It needs a display (xvfb-run -a -s "-screen 0 1440x900x24" will do) and takes the shipped model,
or the first one of the models folder in $NAPARI_DMGN_MODELS.
"""

from __future__ import annotations

import argparse
import time

import napari
from qtpy.QtWidgets import QApplication


def settle(seconds: float) -> None:
    """Let Qt work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def make_screenshot(out: str, *, sample: str, size: tuple[int, int], advanced: bool, grid: bool, wait: float) -> str:
    """Open a sample, press Restore, wait for the layers, save the window; return the status line."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    window = viewer.window
    window.resize(*size)
    viewer.open_sample("napari-dmgn", sample)
    _, widget = window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.advanced_button.setChecked(advanced)
    settle(1)
    before = len(viewer.layers)
    widget.restore_button.click()
    end = time.monotonic() + wait
    while not widget.restore_button.isEnabled() and time.monotonic() < end:
        settle(0.05)
    status = str(widget.status.text())
    if len(viewer.layers) == before:
        raise SystemExit(f"no layers were added: {status}")
    if grid:
        viewer.grid.enabled = True
        viewer.grid.shape = (2, 2)
    viewer.reset_view()
    settle(1.5)
    window.screenshot(out, canvas_only=False, flash=False)
    viewer.close()
    return status


def main() -> None:
    """Read the arguments and make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="PNG file to write")
    parser.add_argument("--sample", default="heavy-rain", help="light-rain or heavy-rain")
    parser.add_argument("--size", default="1280x800", help="width and height of the window in pixels")
    parser.add_argument("--advanced", action="store_true", help="with the Advanced section open")
    parser.add_argument("--no-grid", action="store_true", help="layers on top of each other")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for the result")
    given = parser.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    status = make_screenshot(
        given.out,
        sample=given.sample,
        size=(width, height),
        advanced=given.advanced,
        grid=not given.no_grid,
        wait=given.wait,
    )
    print(status)


if __name__ == "__main__":
    main()
