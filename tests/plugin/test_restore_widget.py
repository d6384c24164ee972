"""The widget as a user meets it: opened through the manifest, its buttons pressed."""

import dataclasses
import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

OUTPUTS = ("background", "noise", "noise map")


@pytest.fixture
def cat():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def open_widget(viewer, models, fake_restore, qtbot):
    """Open the widget through the manifest; end whatever it left running."""
    from napari_dmgn.plugin.worker import RestoreJob

    def open_it():
        _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
        return widget

    yield open_it
    fake_restore.release(1000)
    qtbot.waitUntil(lambda: RestoreJob.current is None)


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def finish(qtbot, timeout=5000):
    from napari_dmgn.plugin.worker import RestoreJob

    qtbot.waitUntil(lambda: RestoreJob.current is None, timeout=timeout)
    qtbot.wait(10)


def names(viewer):
    return [layer.name for layer in viewer.layers]


def test_restore_adds_three_aligned_layers(viewer, open_widget, fake_restore, qtbot, cat):
    placed = {"scale": (0.5, 2), "rotate": 30, "translate": (7, -3), "units": ("um", "um"), "axis_labels": ("y", "x")}
    source = viewer.add_image(cat, rgb=True, name="cat", **placed)
    widget = open_widget()
    assert widget.layer_box.currentText() == "cat"
    assert widget.status.text() == "Ready."
    press(qtbot, widget.restore_button)
    finish(qtbot)

    assert names(viewer) == ["cat", "cat noise map", "cat noise", "cat background"]
    for layer in viewer.layers:
        np.testing.assert_allclose(layer.data_to_world((5, 6)), source.data_to_world((5, 6)), atol=1e-6)
        assert layer.units == source.units
        assert layer.axis_labels == source.axis_labels
    record = viewer.layers["cat background"].metadata["napari_dmgn"]
    assert record["task"] == "rain"
    assert record["source_layer"] == "cat"
    assert "Restored 'cat' in 0.5 s on CPU." in widget.status.text()
    assert viewer.layers.selection.active is source
    assert widget.restore_button.isEnabled()
    assert not widget.cancel_button.isEnabled()
    ((image, task, settings),) = fake_restore.calls
    assert image is cat
    assert task == "rain"
    assert settings["rgb"] is True
    assert (settings["device"], settings["precision"], settings["tile"]) == ("auto", "auto", "auto")


def test_work_is_done_off_the_gui_thread_and_shown_in_it(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    shown_in = []
    press(qtbot, widget.restore_button)
    widget._job.progressed.connect(lambda event: shown_in.append(threading.current_thread()))
    qtbot.waitUntil(fake_restore.started.is_set)
    fake_restore.release()
    qtbot.waitUntil(lambda: "tile 1 of 3" in widget.status.text())
    assert (widget.progress_bar.value(), widget.progress_bar.maximum()) == (1, 3)
    assert not widget.restore_button.isEnabled()
    assert widget.cancel_button.isEnabled()
    fake_restore.release(2)
    finish(qtbot)
    assert fake_restore.threads[0] is not threading.main_thread()
    assert set(shown_in) == {threading.main_thread()}


def test_cancel_stops_at_the_next_tile_and_adds_nothing(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated, fake_restore.tiles = True, 1000
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    fake_restore.release()
    qtbot.waitUntil(lambda: "tile 1 of" in widget.status.text())
    press(qtbot, widget.cancel_button)
    assert "Stopping" in widget.status.text()
    fake_restore.release()
    finish(qtbot)
    assert fake_restore.closed.is_set()
    assert widget.status.text() == "Cancelled. Nothing was added."
    assert names(viewer) == ["cat"]

    fake_restore.gated, fake_restore.tiles = False, 2
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert len(viewer.layers) == 4


def test_cancel_in_the_activity_dock_works_too(viewer, open_widget, fake_restore, qtbot, cat):
    from napari.utils.progress import progress

    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    (bar,) = progress._all_instances
    bar.cancel()
    fake_restore.release(1)
    finish(qtbot)
    assert not progress._all_instances
    assert "Cancelled" in widget.status.text()
    assert names(viewer) == ["cat"]


def test_second_click_starts_no_second_run(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    press(qtbot, widget.restore_button)
    widget.restore()
    fake_restore.release(3)
    finish(qtbot)
    assert len(fake_restore.calls) == 1
    assert len(viewer.layers) == 4


def test_an_earlier_result_is_not_overwritten(viewer, open_widget, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    for _ in range(2):
        press(qtbot, widget.restore_button)
        finish(qtbot)
    assert len(set(names(viewer))) == 7


def test_settings_reach_the_run(viewer, open_widget, models, fake_restore, qtbot, cat):
    viewer.add_image(cat[..., 0], name="gray")
    widget = open_widget()
    assert not widget.advanced.isVisibleTo(widget)
    press(qtbot, widget.advanced_button)
    assert widget.advanced.isVisibleTo(widget)
    widget.device_box.setCurrentText("CPU")
    widget.precision_box.setCurrentText("Full (float32)")
    widget.tile_box.setCurrentText("Whole image")
    widget.output_boxes["noise"].setChecked(False)
    press(qtbot, widget.restore_button)
    finish(qtbot)
    _, task, settings = fake_restore.calls[0]
    assert task == "rain"
    assert settings == {
        "model": models.info.path,
        "rgb": False,
        "device": "cpu",
        "precision": "float32",
        "tile": None,
    }
    assert names(viewer) == ["gray", "gray noise map", "gray background"]


def test_nothing_to_add_is_said(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True)
    widget = open_widget()
    for box in widget.output_boxes.values():
        box.setChecked(False)
    press(qtbot, widget.restore_button)
    assert "Choose at least one layer to add" in widget.status.text()
    assert not fake_restore.calls


def test_layer_choice_follows_the_viewer(viewer, open_widget, fake_restore, qtbot, cat):
    widget = open_widget()
    assert "No image layer is selected" in widget.status.text()
    assert not widget.layer_box.isEnabled()
    press(qtbot, widget.restore_button)
    assert "No image layer is selected" in widget.status.text()

    labels = viewer.add_labels(np.zeros((24, 32), int), name="cells")
    assert "'cells' is a Labels layer. Select an image layer." in widget.status.text()
    press(qtbot, widget.restore_button)
    assert "'cells' is a Labels layer" in widget.status.text()
    assert not fake_restore.calls

    first, second = viewer.add_image(cat, rgb=True, name="a"), viewer.add_image(cat, rgb=True, name="b")
    assert widget.layer() is second
    viewer.layers.selection.active = first
    assert widget.layer_box.currentText() == "a"
    first.name = "renamed"
    assert widget.layer_box.currentText() == "renamed"
    assert widget.layer_box.count() == 2
    viewer.layers.selection.active = labels
    assert "'cells' is a Labels layer. Select an image layer. Restore would take 'renamed'." in widget.status.text()
    viewer.layers.remove(first)
    assert widget.layer() is second


def test_layer_deleted_during_the_run(viewer, open_widget, fake_restore, qtbot, cat):
    layer = viewer.add_image(cat, rgb=True, name="cat", scale=(3, 4))
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    viewer.layers.remove(layer)
    fake_restore.release(3)
    finish(qtbot)
    assert names(viewer) == ["cat noise map", "cat noise", "cat background"]
    np.testing.assert_array_equal(viewer.layers[0].scale, (3, 4))
    assert "removed meanwhile" in widget.status.text()


def test_widget_closed_during_the_run(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated, fake_restore.tiles = True, 1000
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    dock = widget.parent()
    del widget
    press(qtbot, dock.title.close_button)
    fake_restore.release()
    finish(qtbot)
    assert fake_restore.closed.is_set()
    assert names(viewer) == ["cat"]
    # The closed widget listens no more, and a new one works.
    viewer.add_image(cat, rgb=True, name="dog")
    fake_restore.gated, fake_restore.tiles = False, 2
    widget = open_widget()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "dog background" in names(viewer)


def test_hidden_widget_goes_on(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    widget.parent().hide()
    fake_restore.release(3)
    finish(qtbot)
    assert len(viewer.layers) == 4


def test_viewer_closed_during_the_run(npe2pm, manifest, make_napari_viewer, models, fake_restore, qtbot, cat):
    npe2pm.register(manifest)
    viewer = make_napari_viewer()
    viewer.add_image(cat, rgb=True, name="cat")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    fake_restore.gated, fake_restore.tiles = True, 1000
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    del widget
    viewer.close()
    fake_restore.release()
    finish(qtbot)
    assert fake_restore.closed.is_set()


def test_broken_checkpoint(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.error = ValueError("rain.safetensors: truncated: 100 bytes of 4000")
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text() == "Could not restore 'cat': rain.safetensors: truncated: 100 bytes of 4000"
    assert names(viewer) == ["cat"]
    assert widget.restore_button.isEnabled()


def test_exception_in_the_worker(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.error, fake_restore.error_at = RuntimeError("shapes\ndo not fit"), 1
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text() == "Could not restore 'cat': Unexpected RuntimeError: shapes do not fit"
    assert "Traceback" in widget.status.toolTip()
    assert widget.restore_button.isEnabled()
    fake_restore.error = None
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert len(viewer.layers) == 4


def test_real_model_and_a_file_that_breaks(viewer, qtbot, tiny_checkpoint, rainy, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(tmp_path))
    model = tmp_path / "mine.safetensors"
    model.write_bytes(tiny_checkpoint.read_bytes())
    (tmp_path / "torn.safetensors").write_bytes(b"not a model")
    viewer.add_image(rainy, rgb=True, name="street")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    assert "Left out: " in widget.model_note.text()
    assert "torn.safetensors" in widget.model_note.text()
    widget.model_box.setCurrentText("mine")
    widget.device_box.setCurrentText("CPU")
    press(qtbot, widget.restore_button)
    finish(qtbot, timeout=60_000)
    assert widget.status.text().startswith("Restored 'street' in ")
    assert viewer.layers["street background"].data.shape == rainy.shape
    assert viewer.layers["street noise map"].data.shape == rainy.shape[:2]
    assert viewer.layers["street background"].metadata["napari_dmgn"]["model"] == "tiny"

    model.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text().startswith("Could not restore 'street': ")
    assert "mine.safetensors" in widget.status.text()
    assert len(viewer.layers) == 4


def test_no_model(viewer, models, open_widget, fake_restore, qtbot, cat):
    models.found.clear()
    models.broken.append((models.info.path, "not a safetensors file"))
    viewer.add_image(cat, rgb=True)
    widget = open_widget()
    assert not widget.model_box.isEnabled()
    press(qtbot, widget.restore_button)
    assert "No model is installed." in widget.status.text()
    assert "rain.safetensors: not a safetensors file" in widget.status.text()
    assert not fake_restore.calls


def test_card_is_shown(open_widget, models):
    models.broken.append((models.info.path.with_name("mine.safetensors"), "truncated"))
    widget = open_widget()
    assert widget.model_box.currentText() == "rain (shipped)"
    note = widget.model_note.text()
    for part in (
        "Removes rain. 1.2 million parameters. Trained on 77 pictures.",
        "light 28.0 to 36.0 dB.",
        "Not trained for snow, night.",
        "Left out: mine.safetensors: truncated",
    ):
        assert part in note


@pytest.mark.parametrize("card", [{}, {"training": 3, "scores": [1]}, {"scores": {"a output": "b"}}])
def test_card_of_other_origin_is_shown_too(open_widget, models, card):
    models.found[:] = [dataclasses.replace(models.info, name="mine", card=card, shipped=False, parameters=2100)]
    widget = open_widget()
    assert widget.model_box.currentText() == "mine"
    assert widget.model_note.text() == "Removes rain. 3 thousand parameters."


def test_long_names_are_wrapped_not_cut(open_widget, fake_restore, qtbot, viewer, cat):
    viewer.add_image(cat, rgb=True, name="scan_" * 30)
    widget = open_widget()
    fake_restore.error = ValueError("/a/very/long/path" * 10)
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "/a/very/long/path" * 10 in widget.status.text().replace("\u200b", "")
    assert widget.minimumSizeHint().width() <= widget.minimumWidth()


def test_fits_a_small_laptop(viewer, open_widget):
    widget = open_widget()
    widget.advanced_button.setChecked(True)
    hint = widget.minimumSizeHint()
    assert hint.width() <= widget.minimumWidth() <= 320
    assert hint.height() <= 400
