"""The run itself, without a viewer: every end that it can come to."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtCore", exc_type=ImportError)

from napari.layers import Image

from napari_dmgn import api
from napari_dmgn.plugin.source import capture
from napari_dmgn.plugin.summary import summary
from napari_dmgn.plugin.worker import Cancelled, Failed, Request, Restored, explain, run

EARLY = """
import sys, threading
from napari_dmgn.plugin import beside_gui
print("torch" in sys.modules)
for _ in range(2):  # the second call finds the first one's thread
    beside_gui.load_early()
started = [thread for thread in threading.enumerate() if thread.name == beside_gui._EARLY]
print(len(started))
for thread in started:
    thread.join()
beside_gui.load_early()
print("torch" in sys.modules, len([t for t in threading.enumerate() if t.name == beside_gui._EARLY]))
"""


def test_torch_is_loaded_early_once_and_in_a_thread():
    process = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    assert process.stdout.split() == ["False", "1", "True", "0"], process.stdout + process.stderr


def request_for(data, *, rgb=False, **settings):
    return Request(source=capture(Image(data, name="x", rgb=rgb, contrast_limits=(0, 1))), **settings)


def outcome_of(events):
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def test_real_run_on_the_real_network(tiny_checkpoint, rainy):
    request = request_for(rainy, rgb=True, model=tiny_checkpoint, device="cpu", precision="float32", tile=64)
    seen, outcome = outcome_of(run(request, lambda: False))
    assert [event.done for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].done == seen[-1].total > 1
    assert isinstance(outcome, Restored)
    noise_map, noise, background = outcome.layers
    assert noise_map.data.shape == rainy.shape[:2]
    assert (noise_map.data.dtype, background.data.dtype) == (np.float32, np.uint8)
    assert noise.data.shape in (rainy.shape, rainy.shape[:2])
    assert outcome.provenance["sha256"]


@pytest.mark.parametrize(("asked", "factor"), [("auto", 2), (1, 1), (3, 3)])
def test_working_size_reaches_the_network_and_is_said(small_sighted, rainy, asked, factor):
    fixed = {"model": small_sighted, "device": "cpu", "precision": "float32"}
    _, outcome = outcome_of(run(request_for(rainy, rgb=True, task="haze", downscale=asked, **fixed), bool))
    assert outcome.provenance["downscale"] == factor
    background = outcome.layers[-1]
    assert background.settings["metadata"]["napari_dmgn"]["downscale"] == factor
    results = {k: api.restore(rainy, "haze", downscale=k, **fixed).background for k in (1, 2, 3)}
    same = [k for k, expected in results.items() if np.array_equal(background.data, expected)]
    assert same == [factor]
    said = summary("x", outcome, gone=False).partition("\n")[0]
    assert said.endswith(" s on CPU." if factor == 1 else f" s on CPU, the network at 1/{factor} size.")


@pytest.mark.parametrize("asked", [True, False])
def test_a_mirrored_view_reaches_the_network_and_is_said(tiny_checkpoint, rainy, asked):
    fixed = {"model": tiny_checkpoint, "device": "cpu", "precision": "float32"}
    _, outcome = outcome_of(run(request_for(rainy, rgb=True, ensemble=asked, **fixed), bool))
    assert outcome.provenance["ensemble"] is asked
    background = outcome.layers[-1]
    assert background.settings["metadata"]["napari_dmgn"]["ensemble"] is asked
    expected = {both: api.restore(rainy, ensemble=both, **fixed).background for both in (True, False)}
    np.testing.assert_array_equal(background.data, expected[asked])
    assert (expected[True] != expected[False]).any()
    said = summary("x", outcome, gone=False).partition("\n")[0]
    assert said.endswith(" s on CPU, and mirrored." if asked else " s on CPU.")


def test_a_region_is_seen_at_the_size_of_its_whole(small_sighted, rainy):
    picture = np.tile(rainy, (2, 2, 1))  # 192 x 256
    fixed = {"model": small_sighted, "device": "cpu", "precision": "float32", "task": "haze"}
    layer = Image(picture, name="x", rgb=True, contrast_limits=(0, 1))
    region = Request(source=capture(layer, crop=((10, 80), (20, 120))), **fixed)
    _, outcome = outcome_of(run(region, bool))
    assert outcome.provenance["downscale"] == 4
    expected = api.restore(picture[10:80, 20:120], downscale=4, **fixed).background
    np.testing.assert_array_equal(outcome.layers[-1].data, expected)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (2, 9, 8)])
def test_real_run_on_odd_images(tiny_checkpoint, shape):
    request = request_for(np.full(shape, 0.5), model=tiny_checkpoint)
    _, outcome = outcome_of(run(request, lambda: False))
    assert isinstance(outcome, Restored), outcome
    assert all(layer.data.shape == shape for layer in outcome.layers)


def test_cancelled_before_the_first_tile(fake_restore):
    seen, outcome = outcome_of(run(request_for(np.zeros((4, 4))), lambda: True))
    assert (seen, outcome) == ([], Cancelled())
    assert not fake_restore.calls


def test_lazy_data_are_computed_in_the_run(fake_restore):
    da = pytest.importorskip("dask.array")
    computed = []

    def block(part):
        computed.append(part.shape)
        return part + 1

    lazy = da.zeros((4, 6), chunks=-1).map_blocks(block, meta=np.zeros((0, 0)))
    request = request_for(lazy)
    # napari has looked at a slice of its own by now.
    computed.clear()
    events = run(request, lambda: False)
    assert not computed
    outcome_of(events)
    assert computed
    np.testing.assert_array_equal(fake_restore.calls[0][0], np.ones((4, 6)))


def test_unreadable_lazy_data_are_a_failure_in_words(fake_restore):
    class Torn:
        shape, dtype, ndim, size = (4, 4), np.dtype(float), 2, 16

        def __array__(self, *args, **kwargs):
            raise OSError("chunk 0.0 cannot be read")

        __getitem__ = __array__

    request = request_for(np.zeros((4, 4)))
    object.__setattr__(request.source, "data", Torn())
    _, outcome = outcome_of(run(request, lambda: False))
    assert outcome.message == "chunk 0.0 cannot be read"


def test_wrong_setting_is_a_failure_in_words(tiny_checkpoint):
    _, outcome = outcome_of(run(request_for(np.zeros((4, 4)), model=tiny_checkpoint, tile=-3), lambda: False))
    assert isinstance(outcome, Failed)
    assert "tile" in outcome.message
    assert "-3" in outcome.message
    assert not outcome.details


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "a smaller tile"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "a smaller tile"),
        (OSError("[WinError 1114] DLL initialization failed"), "PyTorch could not be loaded"),
        (ImportError("no torch"), "PyTorch could not be loaded (no torch)"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "PyTorch could not be loaded"),
        (ModuleNotFoundError("OME-Zarr needs the package zarr", name="zarr"), "OME-Zarr needs the package zarr"),
        (FileNotFoundError(2, "No such file", "a.safetensors"), "a.safetensors"),
        (ValueError("one\n  line"), "one line"),
        (KeyError("x"), "Unexpected KeyError: 'x'"),
        (ZeroDivisionError(), "Unexpected ZeroDivisionError"),
    ],
)
def test_errors_in_words(error, words):
    assert words in explain(error)
    assert ("PyTorch" in explain(error)) == ("PyTorch" in words)
    assert "\n" not in explain(error)


def test_steps_are_told_in_order_though_the_bar_lets_later_ones_in(qtbot):
    """napari's bar handles waiting events when it moves: the next step's may be among them."""
    from napari_dmgn.api import RestoreEvent
    from napari_dmgn.plugin.job import RestoreJob

    job = RestoreJob(Request(source=capture(Image(np.zeros((4, 5)), contrast_limits=(0, 1)))))
    later = iter([RestoreEvent(done=2, total=3, frame=0, frames=1), RestoreEvent(done=3, total=3, frame=0, frames=1)])
    told = []
    job.progressed.connect(lambda event: told.append(event.done))

    class Bar:
        n = total = 0

        def update(self, steps):
            self.n += steps
            if (event := next(later, None)) is not None:
                job._on_yielded(event)

    job._progress = bar = Bar()
    job._on_yielded(RestoreEvent(done=1, total=3, frame=0, frames=1))
    assert told == [1, 2, 3]
    assert (bar.n, bar.total) == (3, 3)
