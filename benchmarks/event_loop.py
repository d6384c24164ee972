"""How long napari's event loop is held up while a layer of 4 megapixels is restored on the CPU.

    xvfb-run -a -s "-screen 0 1440x900x24" python benchmarks/event_loop.py

A timer of 5 ms notes when it is called. "opening" is the five seconds after the widget was asked for, in which it loads
torch. The first run loads the model meanwhile, the second does not. "adding" is what comes after the last tile: napari
takes the three layers in and draws them.
"""

from __future__ import annotations

import time

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from skimage import data

from napari_dmgn.plugin.job import RestoreJob


def main() -> None:
    picture = np.tile(data.astronaut(), (4, 4, 1))
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.add_image(picture, rgb=True, name="large")
    wait(1.0)
    ticks: list[float] = []
    timer = QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start()
    print(f"{picture.shape[0] * picture.shape[1] / 1e6:.1f} megapixels; gaps of the event loop in ms")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.device_box.setCurrentText("CPU")
    opened = time.perf_counter()
    wait(5.0)
    print(f"opening: {summary(ticks, opened, time.perf_counter())}")
    for name in ("first run", "second run"):
        start = time.perf_counter()
        done: list[float] = []
        widget.restore_button.click()
        job = RestoreJob.current
        assert job is not None
        job.progressed.connect(lambda event, done=done: done.append(time.perf_counter()))
        while RestoreJob.current is not None:
            QApplication.processEvents()
            time.sleep(0.001)
        last = done[-1]
        wait(0.5)
        print(f"{name}: {last - start:.1f} s; ", end="")
        print(f"while restoring {summary(ticks, start, last)}; adding {summary(ticks, last, time.perf_counter())}")
    viewer.close()


def wait(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.001)


def summary(ticks: list[float], start: float, stop: float) -> str:
    times = np.array([start, *(tick for tick in ticks if start < tick < stop), stop])
    gaps = np.diff(times) * 1e3
    return f"at most {gaps.max():.0f}, 99th percentile {np.percentile(gaps, 99):.0f}"


if __name__ == "__main__":
    main()
