"""A napari with our manifest, a restoration that waits for its test, and a clear word where there is no display."""

import functools
import gc
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: without a display Qt does not raise, it aborts.
PROBE = """
from qtpy.QtGui import QOpenGLContext
from qtpy.QtWidgets import QApplication
application = QApplication([])
raise SystemExit(0 if QOpenGLContext().create() else 3)
"""


@functools.cache
def display_problem() -> str | None:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display: run the tests under xvfb-run -a"
    process = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if process.returncode == 3:
        return "no OpenGL for Qt on this display (on Debian: libgl1-mesa-dri)"
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return f"Qt does not start here: {last}"
    return None


def pytest_collection_modifyitems(items):
    here = str(Path(__file__).parent)
    gui = {"qtbot", "make_napari_viewer"}
    ours = [item for item in items if str(item.path).startswith(here) and gui & set(item.fixturenames)]
    if ours and (problem := display_problem()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=problem))


class FakeRestore:
    """Stands in for `iter_restore`: `tiles` events, each let through by the test when `gated`."""

    def __init__(self, module):
        self.module = module
        self.tiles = 3
        self.gated = False
        self.error = None
        self.error_at = None  # None: when it is called, before any work
        self.noise_offset = 0.0
        self.reported = {}
        self.calls = []
        self.threads = []
        self.started = threading.Event()
        self.closed = threading.Event()
        self._gate = threading.Semaphore(0)

    def release(self, tiles=1):
        self._gate.release(tiles)

    def __call__(self, image, task="rain", **settings):
        self.calls.append((image, task, settings))
        if self.error is not None and self.error_at is None:
            raise self.error
        return self._events(np.asarray(image), task, settings)

    def _events(self, image, task, settings):
        self.threads.append(threading.current_thread())
        self.started.set()
        try:
            for tile in range(self.tiles):
                if self.gated and not self._gate.acquire(timeout=60):
                    raise TimeoutError("the test did not release a tile")
                if self.error is not None and self.error_at == tile:
                    raise self.error
                last = tile + 1 == self.tiles
                yield self.module.RestoreEvent(
                    done=tile + 1,
                    total=self.tiles,
                    frame=0,
                    frames=1,
                    restoration=self._restoration(image, task, settings) if last else None,
                )
        finally:
            self.closed.set()

    def _restoration(self, image, task, settings):
        noise = np.full(image.shape, 7.25, np.float32) + self.noise_offset
        pixels = image.shape[:-1] if settings["rgb"] else image.shape
        return self.module.Restoration(
            background=image // 2 if image.dtype.kind in "iu" else image / 2,
            noise=noise,
            noise_map=np.full(pixels, 0.25, np.float32),
            coarse=image,
            provenance={"task": task, "model": "fake", "device": "cpu", "seconds": 0.5, **self.reported},
            masks={"background/1": self._mask(image, settings)} if settings["masks"] else None,
        )

    def _mask(self, image, settings):
        *frames, height, width = image.shape[:-1] if settings["rgb"] else image.shape
        return np.full((*frames, -(-height // 4), -(-width // 4)), 0.5, np.float32)


_finished = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def no_collection_elsewhere():
    """Let no thread but this one free a closed viewer.

    Closed viewers wait for the garbage collector, which runs in whichever thread allocates last: a worker's, Dask's.
    Freed there, a canvas leaves its OpenGL context current here without being there any more, and Qt trips over it
    when the application ends.
    """
    gc.disable()
    yield
    _collect()
    gc.enable()


@pytest.fixture(autouse=True)
def collection_now_and_then():
    """Free the viewers of some tests, in this thread; of each test alone it would take a minute in all."""
    yield
    if next(_finished) % 4 == 0:
        _collect()


def _collect() -> None:
    from qtpy.QtCore import QCoreApplication, QEvent

    gc.collect()
    if QCoreApplication.instance() is not None:
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)


@pytest.fixture(autouse=True)
def own_files(monkeypatch, tmp_path):
    """No test reads or writes the user's cache, or the preferences of a napari in use."""
    pytest.importorskip("napari")
    from napari_dmgn.plugin import estimate, preferences

    monkeypatch.setattr(estimate, "speed_file", lambda: tmp_path / "cache" / "speed.json")
    read = preferences._read
    monkeypatch.setattr(preferences, "_read", preferences.Preferences)
    return read


@pytest.fixture
def fake_restore(monkeypatch):
    from napari_dmgn import api, zoo

    fake = FakeRestore(api)
    monkeypatch.setattr(api, "iter_restore", fake)
    monkeypatch.setattr(zoo, "shared_model", lambda *_, **__: None)
    yield fake
    fake.release(1000)


@pytest.fixture
def notices():
    """Tell what napari's notifications were given since the last time: pairs of severity and text."""
    from napari.utils.notifications import notification_manager

    notification_manager.records.clear()

    def new():
        found = [(record.severity.value, record.message) for record in notification_manager.records]
        notification_manager.records.clear()
        return found

    return new


@pytest.fixture(scope="session")
def small_sighted(tmp_path_factory, tiny_network) -> Path:
    """A model file whose card asks for pictures with a shorter side of 40 pixels."""
    from napari_dmgn import checkpoint

    path = tmp_path_factory.mktemp("models") / "small sighted.safetensors"
    checkpoint.save(path, tiny_network, task="haze", card={"name": "small sighted", "working_side": 40})
    return path


@pytest.fixture
def models(monkeypatch, tmp_path):
    """A list of models in the place of the installed ones: one shipped, for rain."""
    from napari_dmgn import zoo

    info = zoo.ModelInfo(
        name="rain",
        task="rain",
        path=tmp_path / "rain.safetensors",
        card={
            "training": {"pictures": 77},
            "scores": {"protocol": "rain-y", "light input": 28.04, "light output": 36.0},
            "not_trained_for": ["snow", "night"],
        },
        config={},
        parameters=1_234_567,
        bytes=5_000_000,
        shipped=True,
    )
    found = [info]
    broken = []
    monkeypatch.setattr(zoo, "list_models", lambda: list(found))
    monkeypatch.setattr(zoo, "broken_models", lambda: list(broken))
    found_and_broken = type("Models", (), {"found": found, "broken": broken, "info": info})
    return found_and_broken()


@pytest.fixture
def manifest():
    pytest.importorskip("npe2")
    from npe2 import PluginManifest

    return PluginManifest.from_file(ROOT / "napari.yaml")


@pytest.fixture
def viewer(npe2pm, manifest, make_napari_viewer):
    """A real viewer, hidden, that knows our plugin and no other."""
    npe2pm.register(manifest)
    return make_napari_viewer()
