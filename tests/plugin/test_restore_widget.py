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
    from napari_dmgn.plugin.job import RestoreJob

    def open_it():
        _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
        return widget

    yield open_it
    fake_restore.release(1000)
    qtbot.waitUntil(lambda: RestoreJob.current is None)


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def finish(qtbot, timeout=30_000):
    from napari_dmgn.plugin.job import RestoreJob

    qtbot.waitUntil(lambda: RestoreJob.current is None, timeout=timeout)
    qtbot.wait(10)


def says(qtbot, widget, text):
    """Wait until the status holds a text; where it never does, what it holds is in the error."""

    def said():
        assert text in widget.status.text()

    qtbot.waitUntil(said, timeout=60_000)


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
    np.testing.assert_array_equal(image, cat)
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
    says(qtbot, widget, "tile 1 of 3")
    assert (widget.progress_bar.value(), widget.progress_bar.maximum()) == (1, 3)
    assert not widget.restore_button.isEnabled()
    assert widget.cancel_button.isEnabled()
    fake_restore.release(2)
    finish(qtbot)
    assert fake_restore.threads[0] is not threading.main_thread()
    assert set(shown_in) == {threading.main_thread()}


def test_cancel_stops_at_the_next_tile_and_adds_nothing(viewer, open_widget, fake_restore, qtbot, cat, notices):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated, fake_restore.tiles = True, 1000
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    fake_restore.release()
    says(qtbot, widget, "tile 1 of")
    press(qtbot, widget.cancel_button)
    assert "Stopping" in widget.status.text()
    fake_restore.release()
    finish(qtbot)
    assert fake_restore.closed.is_set()
    assert widget.status.text() == "Cancelled. Nothing was added."
    assert notices() == [("info", "Restoring 'cat' was cancelled. Nothing was added.")]
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


def test_second_click_starts_no_second_run(viewer, open_widget, fake_restore, qtbot, cat, notices):
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
    assert [severity for severity, _ in notices()] == ["info"]


def test_a_run_of_another_widget_is_said(viewer, open_widget, fake_restore, qtbot, cat, notices):
    from napari_dmgn.plugin.commands import quick_restore

    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    quick_restore(viewer, "rain")
    press(qtbot, widget.restore_button)
    assert widget.status.text().startswith("Another restoration is still running.")
    assert notices() == [("warning", widget.status.text())]
    assert widget.restore_button.isEnabled()


def test_where_the_widget_is_seen_it_alone_tells_of_success(
    make_napari_viewer, npe2pm, manifest, models, fake_restore, qtbot, cat, notices
):
    npe2pm.register(manifest)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(cat, rgb=True, name="cat")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    qtbot.waitUntil(widget.isVisible)
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text().startswith("Restored 'cat'")
    assert notices() == []


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
    widget.form.advanced_box.size_box.setCurrentText("1/3")
    widget.form.advanced_box.views_box.setCurrentText("And mirrored")
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
        "downscale": 3,
        "ensemble": True,
        "tile": None,
        "halo": "exact",
        "dtype": "same",
        "masks": False,
        "intensity_range": "auto",
    }
    assert names(viewer) == ["gray", "gray noise map", "gray background"]


def test_nothing_to_add_is_said(viewer, open_widget, fake_restore, qtbot, cat, notices):
    viewer.add_image(cat, rgb=True)
    widget = open_widget()
    for box in widget.output_boxes.values():
        box.setChecked(False)
    press(qtbot, widget.restore_button)
    assert "Choose at least one layer to add" in widget.status.text()
    assert [severity for severity, _ in notices()] == ["warning"]
    assert not fake_restore.calls


def test_layer_choice_follows_the_viewer(viewer, open_widget, fake_restore, qtbot, cat, notices):
    widget = open_widget()
    assert "No image layer is selected" in widget.status.text()
    assert not widget.layer_box.isEnabled()
    assert notices() == []  # a hint is no answer to a click
    press(qtbot, widget.restore_button)
    assert "No image layer is selected" in widget.status.text()
    assert notices() == [("warning", widget.status.text())]

    labels = viewer.add_labels(np.zeros((24, 32), int), name="cells")
    assert "'cells' is a Labels layer. Select an image layer." in widget.status.text()
    press(qtbot, widget.restore_button)
    assert "'cells' is a Labels layer" in widget.status.text()
    assert notices() == [("warning", "'cells' is a Labels layer. Select an image layer.")]
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


def test_layers_are_added_in_a_turn_of_the_event_loop_each(viewer, open_widget, fake_restore, qtbot, cat):
    from qtpy.QtCore import QTimer

    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    turns, added_in = [], []
    timer = QTimer()
    timer.timeout.connect(lambda: turns.append(None))
    viewer.layers.events.inserted.connect(lambda event: added_in.append(len(turns)))
    press(qtbot, widget.restore_button)
    timer.start(0)
    finish(qtbot)
    timer.stop()
    assert len(set(added_in)) == 3
    assert widget.status.text().startswith("Restored 'cat'")
    assert widget.restore_button.isEnabled()


@pytest.mark.parametrize("closed", ["widget", "viewer"])
def test_closed_between_two_layers(npe2pm, manifest, make_napari_viewer, models, fake_restore, qtbot, cat, closed):
    from qtpy.QtCore import QTimer

    npe2pm.register(manifest)
    viewer = make_napari_viewer()
    viewer.add_image(cat, rgb=True, name="cat")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    dock = widget.parent()
    del widget

    def close_now():
        press(qtbot, dock.title.close_button) if closed == "widget" else viewer.close()

    def close(event):
        viewer.layers.events.inserted.disconnect(close)
        QTimer.singleShot(0, close_now)

    viewer.layers.events.inserted.connect(close)
    fake_restore.release(3)
    finish(qtbot)
    if closed == "widget":  # the run was over: its results are the viewer's
        assert names(viewer) == ["cat", "cat noise map", "cat noise", "cat background"]


def test_a_result_that_cannot_be_added_costs_none_of_the_others(
    viewer, open_widget, fake_restore, qtbot, cat, notices, monkeypatch
):
    from napari_dmgn.plugin import job

    real, calls = job.add_layers, iter(range(9))

    def failing(*args):
        if next(calls) == 0:
            raise RuntimeError("no texture left")
        return real(*args)

    monkeypatch.setattr(job, "add_layers", failing)
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert len(names(viewer)) == 3  # the source, and two results of three
    assert "Not all results of 'cat' could be added: " in widget.status.text()
    ((severity, text),) = notices()
    assert severity == "error"
    assert "no texture left" in text


def test_layer_deleted_during_the_run(viewer, open_widget, fake_restore, qtbot, cat, notices):
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
    ((severity, text),) = notices()
    assert severity == "info"
    assert text == widget.status.text().partition("\n")[0]


def test_widget_closed_during_the_run(viewer, open_widget, fake_restore, qtbot, cat, notices):
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
    assert notices() == []
    # The closed widget listens no more, and a new one works.
    viewer.add_image(cat, rgb=True, name="dog")
    fake_restore.gated, fake_restore.tiles = False, 2
    widget = open_widget()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "dog background" in names(viewer)


def test_hidden_widget_goes_on(viewer, open_widget, fake_restore, qtbot, cat, notices):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    widget.parent().hide()
    fake_restore.release(3)
    finish(qtbot)
    assert len(viewer.layers) == 4
    ((severity, text),) = notices()
    assert severity == "info"
    assert text.startswith("Restored 'cat' in ")


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


def test_broken_checkpoint(viewer, open_widget, fake_restore, qtbot, cat, notices):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.error = ValueError("rain.safetensors: truncated: 100 bytes of 4000")
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text() == "Could not restore 'cat': rain.safetensors: truncated: 100 bytes of 4000"
    assert notices() == [("error", widget.status.text())]
    assert names(viewer) == ["cat"]
    assert widget.restore_button.isEnabled()


def test_exception_in_the_worker(viewer, open_widget, fake_restore, qtbot, cat, notices):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.error, fake_restore.error_at = RuntimeError("shapes\ndo not fit"), 1
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert widget.status.text() == "Could not restore 'cat': Unexpected RuntimeError: shapes do not fit"
    assert "Traceback" in widget.status.toolTip()
    assert notices() == [("error", widget.status.text())]
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


def test_no_model(viewer, models, open_widget, fake_restore, qtbot, cat, notices):
    models.found.clear()
    models.broken.append((models.info.path, "not a safetensors file"))
    viewer.add_image(cat, rgb=True)
    widget = open_widget()
    assert not widget.model_box.isEnabled()
    press(qtbot, widget.restore_button)
    assert "No model is installed." in widget.status.text()
    assert "rain.safetensors: not a safetensors file" in widget.status.text()
    ((severity, text),) = notices()
    assert severity == "warning"
    assert text.startswith("No model is installed.")
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
    assert widget.model_note.text() == "Removes rain. 3 thousand parameters."  # of a file that is gone: no sha256


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


def test_restored_whole_and_by_a_rectangle_lies_on_the_layer(viewer, open_widget, fake_restore, qtbot):
    placed = {
        "scale": (0.5, 2.0),
        "translate": (10.0, -3.5),
        "rotate": 33.0,
        "shear": (0.4,),
        "affine": [[1.1, 0.2, 5.0], [-0.1, 0.9, -7.0], [0.0, 0.0, 1.0]],
        "units": ("um", "um"),
        "axis_labels": ("down", "right"),
    }
    image = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    source = viewer.add_image(image, name="a", **placed)
    corners = [source.data_to_world(c) for c in ((9.5, 4.5), (9.5, 30.5), (29.5, 30.5), (29.5, 4.5))]
    viewer.add_shapes(np.array(corners), shape_type="polygon", units=("um", "um"))
    viewer.layers.selection.active = source
    widget = open_widget()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    widget.form.region_box.setCurrentText("Shapes rectangle")
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert fake_restore.calls[1][0].shape == (20, 26)
    added = [layer for layer in viewer.layers if "napari_dmgn" in layer.metadata]
    assert len(added) == 6
    for layer, offset in zip(added, [(0, 0)] * 3 + [(10, 5)] * 3, strict=True):
        for pixel in ((0, 0), (7, 3), (19, 25)):
            expected = source.data_to_world(np.add(pixel, offset))
            np.testing.assert_allclose(layer.data_to_world(pixel), expected, atol=1e-6, rtol=0)
        assert (layer.units, layer.axis_labels) == (source.units, source.axis_labels)
    np.testing.assert_array_equal(added[-1].data, image[10:30, 5:31] // 2)


def test_visible_window_is_what_the_canvas_shows(make_napari_viewer, npe2pm, manifest, models, fake_restore, qtbot):
    npe2pm.register(manifest)
    viewer = make_napari_viewer(show=True)
    image = np.random.default_rng(0).integers(0, 256, (3, 200, 300), np.uint8)
    viewer.add_image(image, name="a")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    viewer.dims.set_point(0, 2)
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.center, camera.zoom = (100, 150), 40
    qtbot.wait(100)
    widget.form.region_box.setCurrentText("Visible window")
    press(qtbot, widget.restore_button)
    finish(qtbot)
    layer = viewer.layers["a background"]
    _, rows, columns = layer.data.shape
    assert layer.data.shape[0] == 1
    assert 0 < rows < 60
    assert 0 < columns < 60
    z, top, left = np.round(layer.translate).astype(int)
    assert (z, top + rows // 2, left + columns // 2) == pytest.approx((2, 100, 150), abs=2)
    np.testing.assert_array_equal(layer.data, image[2:3, top : top + rows, left : left + columns] // 2)


def test_level_of_a_pyramid(viewer, open_widget, fake_restore, qtbot):
    full = np.zeros((64, 80), np.uint8)
    viewer.add_image([full, full[::2, ::2]], multiscale=True, name="p")
    widget = open_widget()
    assert widget.form.level_box.isVisibleTo(widget)
    assert [widget.form.level_box.itemText(i) for i in range(2)] == ["0: 80 × 64", "1: 40 × 32"]
    widget.form.level_box.setCurrentIndex(1)
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert fake_restore.calls[0][0].shape == (32, 40)
    np.testing.assert_array_equal(viewer.layers["p background"].scale, (2, 2))
    viewer.add_image(full)
    assert not widget.form.level_box.isVisibleTo(widget)


def test_stop_a_stack_and_resume_it(viewer, open_widget, fake_restore, qtbot):
    stack = np.random.default_rng(0).integers(0, 256, (4, 400, 360), np.uint8)
    viewer.add_image(stack, name="s")
    widget = open_widget()
    assert not widget.resume_button.isVisibleTo(widget)
    fake_restore.gated, fake_restore.tiles = True, 2
    press(qtbot, widget.restore_button)
    fake_restore.release(5)

    says(qtbot, widget, "frame 3 of 4")
    press(qtbot, widget.cancel_button)
    fake_restore.release(5)
    finish(qtbot)
    assert "Stopped: 2 of 4 frames of 's' are done" in widget.status.text()
    partial = viewer.layers["s background"]
    np.testing.assert_array_equal(partial.data[:2], stack[:2] // 2)
    assert not partial.data[2:].any()

    fake_restore.gated = False
    press(qtbot, widget.resume_button)
    finish(qtbot)
    assert len(fake_restore.calls) == 5  # two frames, one that was stopped, and two more
    np.testing.assert_array_equal(viewer.layers["s background"].data, stack // 2)
    assert names(viewer) == ["s", "s noise map", "s noise", "s background"]
    assert not widget.resume_button.isVisibleTo(widget)


def test_a_stopped_store_is_named_and_one_without_frames_is_removed(
    viewer, open_widget, models, fake_restore, qtbot, tmp_path, monkeypatch
):
    from napari_dmgn import zoo

    pytest.importorskip("zarr")
    models.info.path.write_bytes(b"weights")
    monkeypatch.setattr(zoo, "find_model", lambda _: models.info)
    folder = tmp_path / "results"
    folder.mkdir()
    viewer.add_image(np.random.default_rng(0).integers(0, 256, (3, 400, 360), np.uint8), name="s")
    widget = open_widget()
    widget.form.advanced_box.set_store(folder / "out.zarr")
    fake_restore.gated, fake_restore.tiles = True, 2
    for tiles, text in ((1, "tile 1 of"), (3, "frame 2 of 3")):
        press(qtbot, widget.restore_button)
        fake_restore.release(tiles)
        says(qtbot, widget, text)
        press(qtbot, widget.cancel_button)
        fake_restore.release(1)
        finish(qtbot)
        if tiles == 1:
            assert widget.status.text() == "Cancelled. Nothing was added."
            assert list(folder.iterdir()) == []
    status = widget.status.text().replace("\u200b", "")
    assert "Stopped: 1 of 3 frames" in status
    assert f"They are in the folder {folder / '.out.zarr.part'}, where a later run" in status
    assert (folder / ".out.zarr.part").is_dir()


def test_a_frame_that_fails_leaves_those_before_it(viewer, open_widget, fake_restore, qtbot, notices):
    stack = np.random.default_rng(0).integers(0, 256, (3, 400, 360), np.uint8)
    viewer.add_image(stack, name="s")
    widget = open_widget()
    fake_restore.gated, fake_restore.tiles = True, 2
    press(qtbot, widget.restore_button)
    fake_restore.release(3)
    says(qtbot, widget, "frame 2 of 3")
    fake_restore.error, fake_restore.error_at = OSError("the card is gone"), 1
    fake_restore.release(5)
    finish(qtbot)
    assert widget.status.text().startswith("Frame 2 failed: the card is gone\nStopped: 1 of 3 frames")
    text = "Could not restore all of 's': the card is gone. The first 1 of 3 frames were added."
    assert notices() == [("error", text)]
    np.testing.assert_array_equal(viewer.layers["s background"].data[:1], stack[:1] // 2)
    assert widget.resume_button.isVisibleTo(widget)


def test_layer_renamed_and_changed_during_the_run(viewer, open_widget, fake_restore, qtbot, cat):
    layer = viewer.add_image(cat, rgb=True, name="cat", scale=(3, 4))
    widget = open_widget()
    fake_restore.gated = True
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(fake_restore.started.is_set)
    layer.name, layer.scale, layer.data = "dog", (1, 1), cat[:5, :5]
    fake_restore.release(3)
    finish(qtbot)
    assert names(viewer) == ["dog", "cat noise map", "cat noise", "cat background"]
    np.testing.assert_array_equal(viewer.layers[-1].data, cat // 2)
    np.testing.assert_array_equal(viewer.layers[-1].scale, (3, 4))


def test_empty_layer(viewer, open_widget, fake_restore, qtbot, notices):
    viewer.add_image(np.zeros((0, 4, 5)), name="nothing", contrast_limits=(0, 1))
    widget = open_widget()
    press(qtbot, widget.restore_button)
    assert "'nothing' is empty: its shape is (0, 4, 5)." in widget.status.text()
    assert notices() == [("warning", widget.status.text())]
    assert not fake_restore.calls


def test_missing_models_folder(viewer, qtbot, tmp_path, monkeypatch, cat):
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(tmp_path / "no" / "such"))
    viewer.add_image(cat, rgb=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    assert widget.model_box.currentText() == "rain (shipped)"


def test_nothing_is_left_behind(viewer, open_widget, fake_restore, qtbot, cat):
    from napari.utils.progress import progress
    from qtpy.QtCore import QThreadPool

    viewer.add_image(cat, rgb=True)
    widget = open_widget()
    for error in (None, RuntimeError("broken")):
        fake_restore.error, fake_restore.error_at = error, 1
        press(qtbot, widget.restore_button)
        finish(qtbot)
    assert not progress._all_instances
    # napari's pool keeps its thread for the next run; nobody else holds one.
    assert QThreadPool.globalInstance().activeThreadCount() == 0


def test_input_unlike_the_training_data_is_noted(viewer, open_widget, fake_restore, qtbot, cat):
    viewer.add_image(cat // 30, rgb=True, name="night")
    widget = open_widget()
    assert "very dark" in widget.form.input_note.text()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "very dark" in widget.status.text()
    assert viewer.layers["night background"].metadata["napari_dmgn"]["unlike"]


def test_microscopy_is_noted_for_the_model_that_excludes_it(viewer, open_widget, models, fake_restore, qtbot):
    excluding = {"not_trained_for": ["snow", "microscopy images (fine-tune first)"]}
    models.found.append(dataclasses.replace(models.info, name="mine", shipped=False, card=excluding))
    viewer.open_sample("napari-dmgn", "striped-cells")
    widget = open_widget()
    assert widget.form.input_note.text() == ""
    widget.model_box.setCurrentText("mine")
    assert "not trained for microscopy images (fine-tune first)" in widget.form.input_note.text()
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "not trained for microscopy images" in widget.status.text()
    assert viewer.layers[-1].metadata["napari_dmgn"]["unlike"]
    widget.model_box.setCurrentText("rain (shipped)")
    assert widget.form.input_note.text() == ""


def test_every_control_says_what_it_does(viewer, open_widget):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit

    widget = open_widget()
    kinds = (QAbstractButton, QAbstractSpinBox, QComboBox)
    controls = [control for kind in kinds for control in widget.findChildren(kind)]
    assert {widget.restore_button, widget.cancel_button, widget.advanced_button, widget.layer_box} < set(controls)
    controls += [edit for edit in widget.findChildren(QLineEdit) if not isinstance(edit.parent(), QComboBox)]
    assert [control for control in controls if not control.toolTip()] == []


def test_estimate_of_a_part_tells_of_the_whole(viewer, open_widget, monkeypatch):
    from napari_dmgn.plugin import estimate

    viewer.add_image(np.zeros((9, 1000, 1000), np.uint8), name="s")
    widget = open_widget()
    assert "Whole layer" not in widget.bar.estimate.text()
    pace = estimate.Pace(seconds=7, device="cpu", precision="float32", bytes_per_pixel=100, strip_pixels=10**6)
    unknown = (None, "Time: not known yet", "Whole layer: ")
    for known, part, whole in (unknown, (pace, "About 7 s", "Whole layer: about 63 s, ")):
        monkeypatch.setattr(estimate, "pace", lambda *_, known=known, **__: known)
        widget.form.region_box.setCurrentText("Current slice")
        text = widget.bar.estimate.text()
        assert text.startswith(part)
        assert whole in text
        widget.form.region_box.setCurrentText("Whole layer")
        memory = widget.bar.estimate.text().removesuffix(" of memory.").removesuffix(".").rpartition(" ")[0].split()[-1]
        assert f"{whole}{memory} MiB." in text


def test_estimate_follows_working_size_views_and_the_card(viewer, open_widget, models, monkeypatch):
    from napari_dmgn.plugin import estimate

    sighted = dataclasses.replace(models.info, name="sighted", card={"working_side": 250}, shipped=False)
    models.found.append(sighted)
    viewer.add_image(np.zeros((1000, 1000), np.uint8), name="s")
    widget = open_widget()
    box = widget.form.advanced_box.size_box

    def pace(model, device, precision, factor, *, ensemble):  # 80 s at full size
        return estimate.Pace(
            seconds=80 / factor * (1 + ensemble),
            device="cpu",
            precision="float32",
            bytes_per_pixel=100,
            strip_pixels=10**6,
        )

    monkeypatch.setattr(estimate, "pace", pace)
    for model, size, seconds in (
        ("rain (shipped)", "Full size", 80),
        ("rain (shipped)", "1/2", 40),
        ("rain (shipped)", "Automatic", 80),
        ("sighted", "Automatic", 20),
        ("sighted", "1/8", 10),
        ("sighted", "Full size", 80),
    ):
        widget.model_box.setCurrentText(model)
        box.setCurrentText(size)
        assert widget.bar.estimate.text().startswith(f"About {seconds} s and "), (model, size)
    for views, seconds in (("And mirrored", 160), ("As it is", 80)):
        widget.form.advanced_box.views_box.setCurrentText(views)
        assert widget.bar.estimate.text().startswith(f"About {estimate.duration(seconds)} and "), views


def test_masks_do_not_hide_what_came_of_the_run(make_napari_viewer, npe2pm, manifest, models, fake_restore, qtbot, cat):
    npe2pm.register(manifest)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(cat, rgb=True, name="cat")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    qtbot.waitUntil(widget.isVisible)
    widget.form.masks_box.setChecked(True)
    press(qtbot, widget.restore_button)
    finish(qtbot)
    qtbot.wait(200)
    assert any(type(other).__name__ == "MasksWidget" for other in viewer.window.dock_widgets.values())
    assert not widget.status.visibleRegion().isEmpty()
    assert widget.status.text().startswith("Restored 'cat'")


def test_copy_buttons(viewer, open_widget, qtbot, cat):
    from qtpy.QtGui import QGuiApplication

    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    press(qtbot, widget.bar.python_button)
    assert "layer = viewer.layers['cat']" in QGuiApplication.clipboard().text()
    press(qtbot, widget.bar.command_button)
    assert QGuiApplication.clipboard().text().startswith("napari-dmgn restore IMAGE.tif -o restored --task rain")
    assert "save it first" in widget.status.text()
    viewer.layers.clear()
    press(qtbot, widget.bar.python_button)
    assert "No image layer is selected" in widget.status.text()


def test_showing_the_widget_loads_torch_early(viewer, models, monkeypatch):
    from qtpy.QtGui import QShowEvent

    from napari_dmgn.plugin import restore_widget

    asked = []
    monkeypatch.setattr(restore_widget, "load_early", lambda: asked.append("torch"))
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.showEvent(QShowEvent())  # the viewer of the tests is hidden
    assert asked


def test_card_button(open_widget, models, qtbot):
    from qtpy.QtWidgets import QPlainTextEdit

    widget = open_widget()
    press(qtbot, widget.form.card_button)
    text = widget.form.card_dialog.findChild(QPlainTextEdit).toPlainText()
    for part in ("task: rain", "sha256: ", "light output: 36.0", "        snow"):
        assert part in text or part.strip() in text
    widget.form.card_dialog.close()


def test_measure_button_tells_how_long_it_will_take(viewer, qtbot, tiny_checkpoint, tmp_path, monkeypatch, cat):
    from napari_dmgn.plugin import restore_widget
    from napari_dmgn.plugin.job import RestoreJob

    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(tiny_checkpoint.parent))
    viewer.add_image(cat, rgb=True, name="cat")
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.model_box.setCurrentText("tiny")
    assert "not known yet" in widget.bar.estimate.text()
    assert widget.bar.measure_button.isVisibleTo(widget)
    spared = []
    real = restore_widget.beside_gui
    monkeypatch.setattr(restore_widget, "beside_gui", lambda: spared.append("core") or real())
    press(qtbot, widget.bar.measure_button)
    assert not widget.restore_button.isEnabled()
    assert not widget.resume_button.isEnabled()
    widget.restore()
    assert RestoreJob.current is None
    qtbot.waitUntil(lambda: widget.bar.estimate.text().startswith("About 1 s and "), timeout=20_000)
    assert not widget.bar.measure_button.isVisibleTo(widget)
    assert widget.restore_button.isEnabled()
    assert spared == ["core"]


def test_advanced_settings_reach_the_run(viewer, open_widget, models, fake_restore, qtbot, tmp_path, monkeypatch, cat):
    from qtpy.QtWidgets import QFileDialog

    from napari_dmgn import zoo

    pytest.importorskip("zarr")
    models.info.path.write_bytes(b"weights")
    monkeypatch.setattr(zoo, "find_model", lambda _: models.info)
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    box = widget.form.advanced_box
    assert [box.halo_box.itemText(i) for i in range(box.halo_box.count())] == [
        "Exact (272 pixels)",
        "Half (136 pixels)",
        "Quarter, approximate (68 pixels)",
    ]
    box.halo_box.setCurrentIndex(1)
    assert not box.halo_box.isEnabled()  # strips need none
    assert box.values()["halo"] == "exact"
    box.tile_box.setCurrentText("128 × 128 pixels")
    assert box.halo_box.isEnabled()
    box.type_box.setCurrentText("Float (float32)")
    box.range_box.setCurrentText("From … to …")
    box.low_edit.setText("3")
    box.high_edit.setText("2")
    press(qtbot, widget.restore_button)
    assert "The range under Advanced is '3' to '2'" in widget.status.text()
    box.high_edit.setText("200.5")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "out"), ""))
    box.place_box.setCurrentIndex(1)
    box.place_box.activated.emit(1)
    assert box.place_box.currentText() == "Store out.zarr"
    press(qtbot, widget.restore_button)
    finish(qtbot)
    settings = fake_restore.calls[0][2]
    assert (settings["tile"], settings["halo"]) == (128, 136)
    assert (settings["dtype"], settings["intensity_range"]) == ("float32", (3.0, 200.5))
    assert (tmp_path / "out.zarr").is_dir()
    assert viewer.layers["cat background"].metadata["napari_dmgn"]["store"] == str(tmp_path / "out.zarr")
    press(qtbot, widget.restore_button)
    finish(qtbot)
    assert "out.zarr exists" in widget.status.text()


def test_halos_follow_the_model(viewer, open_widget, models):
    small = {"width": 8, "head_levels": 2, "branch_widths": (8, 12), "bottleneck_cells": 1, "refine_dilations": (1, 2)}
    for name, config in (("small", small), ("of a later version", {"no such setting": 1})):
        models.found.append(dataclasses.replace(models.info, name=name, shipped=False, config=config))
    widget = open_widget()
    box = widget.form.advanced_box
    box.tile_box.setCurrentText("128 × 128 pixels")
    box.halo_box.setCurrentIndex(2)
    assert box.values()["halo"] == 68
    widget.model_box.setCurrentText("small")
    assert 0 < box.values()["halo"] < 68
    assert box.halo_box.currentText() == f"Quarter, approximate ({box.values()['halo']} pixels)"
    widget.model_box.setCurrentText("of a later version")
    assert (box.halo_box.count(), box.values()["halo"]) == (1, "exact")
    assert box.halo_box.isEnabled()


@pytest.mark.parametrize(("error", "words"), [(0.0316, "3.2 %"), (0.23, "23 %"), (0.0046, "0.46 %"), (1e-7, "0.01 %")])
def test_what_a_short_halo_costs_is_said(viewer, open_widget, fake_restore, qtbot, cat, error, words):
    viewer.add_image(cat, rgb=True, name="cat")
    widget = open_widget()
    fake_restore.reported = {"halo_error": error}
    press(qtbot, widget.restore_button)
    finish(qtbot)
    said = f"Tiles differ from the whole by up to {words} of the range at a pixel (3 windows)."
    assert said in widget.status.text()
    assert viewer.layers["cat background"].metadata["napari_dmgn"]["halo_error"] == error


def test_every_working_size_of_the_preferences_can_be_chosen(manifest, qtbot):
    from napari_dmgn.plugin.advanced import SIZES, AdvancedBox
    from napari_dmgn.plugin.preferences import Preferences

    offered = manifest.contributions.configurations["restore"].properties["downscale"].enum
    assert len(offered) == len(SIZES)
    for name in offered:
        start = Preferences(downscale=name)
        box = AdvancedBox(start)
        qtbot.addWidget(box)
        assert box.values()["downscale"] == start.downscale_setting()
        assert str(start.downscale_setting()) == name


def test_a_mirrored_view_of_the_preferences_is_chosen(qtbot):
    from napari_dmgn.plugin.advanced import AdvancedBox
    from napari_dmgn.plugin.preferences import Preferences

    for wanted in (True, False):
        box = AdvancedBox(Preferences(ensemble=wanted))
        qtbot.addWidget(box)
        assert box.values()["ensemble"] is wanted


def test_preferences_page_is_read(own_files, plugin_settings, npe2pm, manifest, monkeypatch, tmp_path):
    from napari.settings import get_plugin_settings

    from napari_dmgn import zoo
    from napari_dmgn.plugin import preferences

    monkeypatch.setattr(preferences, "_read", own_files)
    monkeypatch.setenv("NAPARI_DMGN_MODELS", "/elsewhere")
    npe2pm.register(manifest)
    page = get_plugin_settings("napari-dmgn").restore
    assert preferences.preferences() == preferences.Preferences()  # the manifest's defaults
    page.device, page.tile, page.output_type, page.keep_model = "cpu", "256", "float32", False
    page.downscale, page.ensemble = "3", True
    found = preferences.preferences()
    assert found.ensemble is True
    assert found.downscale_setting() == 3
    assert (found.device, found.tile_setting(), found.output_type, found.keep_model) == ("cpu", 256, "float32", False)
    assert str(zoo.models_folder()) == "/elsewhere"
    page.models_folder = str(tmp_path)
    preferences.preferences()
    assert zoo.models_folder() == tmp_path
    page.models_folder = ""
    preferences.preferences()
    assert zoo.models_folder() != tmp_path
