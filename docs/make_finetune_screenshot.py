"""Picture of "Fine-tune model" while it trains: python docs/make_finetune_screenshot.py OUT.png

Clean pictures of scikit-image, made stripes, the shipped model; the picture is taken after so many
validations, then the training is stopped. It needs a display (xvfb-run -a -s "-screen 0 1440x900x24"
will do); models and runs go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

# The last are held out, and the first of these is what the training is watched by.
PICTURES = ("camera", "coins", "moon", "microaneurysms", "grass", "gravel", "cell", "brick")


def settle(seconds: float) -> None:
    """Let Qt work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def stack() -> np.ndarray:
    """Centres of the pictures, (N, 256, 256) uint8, at half the resolution where they are large."""
    from skimage import data, transform

    frames = []
    for name in PICTURES:
        image = getattr(data, name)()
        factor = max(256 / min(image.shape), 0.5) if min(image.shape) > 256 else 1.0
        size = [max(256, round(side * factor)) for side in image.shape]
        small = transform.resize(image / 255, size, anti_aliasing=True)
        top, left = ((side - 256) // 2 for side in size)
        frames.append(np.rint(small[top : top + 256, left : left + 256] * 255).astype(np.uint8))
    return np.stack(frames)


def make_screenshot(out: str, *, size: tuple[int, int], minutes: float, validations: int) -> str:
    """Train until there have been enough validations, save the window, stop; return the status line."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    window = viewer.window
    window.resize(*size)
    viewer.add_image(stack(), name="clean pictures")
    _, widget = window.add_plugin_dock_widget("napari-dmgn", "Fine-tune model")
    form = widget.form
    form.data_form.way_box.setCurrentText("Clean layers + made noise")
    form.data_form.all_button.click()
    form.budget_box.setValue(minutes)
    form.name_edit.setText("stripes")
    settle(1)
    widget.panel.start_button.click()
    while widget.busy and len(widget.panel.plot.scores) < validations:
        settle(0.05)
    settle(1)
    status = str(widget.panel.status.text())
    window.screenshot(out, canvas_only=False, flash=False)
    widget.panel.stop_button.click()
    while widget.busy:
        settle(0.05)
    viewer.close()
    return status


def main() -> None:
    """Read the arguments and make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="PNG file to write")
    parser.add_argument("--size", default="1280x800", help="width and height of the window in pixels")
    parser.add_argument("--minutes", type=float, default=3.0, help="budget of the training")
    parser.add_argument("--validations", type=int, default=6, help="validations to wait for")
    given = parser.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_DMGN_MODELS"] = str(Path(folder) / "models")
        print(make_screenshot(given.out, size=(width, height), minutes=given.minutes, validations=given.validations))


if __name__ == "__main__":
    main()
