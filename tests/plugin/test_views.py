"""The widgets Compare and Masks on a real viewer, every button."""

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

from napari_dmgn.plugin.viewstate import grid_of

PLACED = {"scale": (0.5, 2), "rotate": 30, "translate": (7, -3), "units": ("um", "um")}


@pytest.fixture
def cat():
    return np.random.default_rng(0).integers(0, 256, (24, 33, 3), np.uint8)


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def restored(viewer, qtbot, image, **settings):
    from napari_dmgn.plugin.job import RestoreJob

    viewer.add_image(image, rgb=True, name="cat", **settings)
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget.form.masks_box.setChecked(True)
    press(qtbot, widget.restore_button)
    qtbot.waitUntil(lambda: RestoreJob.current is None, timeout=60_000)
    qtbot.wait(10)
    return widget


def visible(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


def test_compare(viewer, models, fake_restore, qtbot, cat):
    restored(viewer, qtbot, cat)
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    assert (widget.source_box.currentText(), widget.result_box.currentText()) == ("cat", "cat background")
    assert widget.numbers.text().startswith("Means: input ")
    viewer.layers["cat noise"].visible = False
    before = visible(viewer)

    press(qtbot, widget.side_button)
    assert visible(viewer) == ["cat", "cat background"]
    assert grid_of(viewer).enabled
    assert widget.status.text() == "Left: cat. Right: cat background."

    press(qtbot, widget.toggle_button)
    assert visible(viewer) == ["cat"]
    assert not grid_of(viewer).enabled
    press(qtbot, widget.toggle_button)
    assert visible(viewer) == ["cat background"]
    press(qtbot, widget.blink_box)
    assert visible(viewer) == ["cat"]
    qtbot.waitUntil(lambda: visible(viewer) == ["cat background"], timeout=3000)

    press(qtbot, widget.off_button)
    assert visible(viewer) == before
    assert not widget.off_button.isEnabled()
    assert not widget._timer.isActive()


def test_compared_layer_is_removed_and_the_widget_closed(viewer, models, fake_restore, qtbot, cat):
    restored(viewer, qtbot, cat)
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    press(qtbot, widget.blink_box)
    viewer.layers.remove("cat background")
    assert not widget._timer.isActive()
    assert visible(viewer) == ["cat", "cat noise map", "cat noise"]
    widget.result_box.setCurrentText("cat noise")
    press(qtbot, widget.side_button)
    assert visible(viewer) == ["cat", "cat noise"]
    press(qtbot, widget.parent().title.close_button)
    assert visible(viewer) == ["cat", "cat noise map", "cat noise"]
    assert not grid_of(viewer).enabled


def test_nothing_to_compare_is_said(viewer, models, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    for button in (widget.side_button, widget.toggle_button, widget.blink_box):
        press(qtbot, button)
        assert "Choose two image layers" in widget.status.text()
    assert not widget.blink_box.isChecked()
    assert not widget._timer.isActive()


def masks_widget(viewer):
    (widget,) = (w for w in viewer.window.dock_widgets.values() if type(w).__name__ == "MasksWidget")
    return widget


def test_masks(viewer, models, fake_restore, qtbot, cat):
    restored(viewer, qtbot, cat, **PLACED)
    widget = masks_widget(viewer)  # opened by itself
    assert widget.layer_box.currentText() == "cat background"
    assert [widget.list.item(i).text() for i in range(widget.list.count())] == ["Background 1: 50% pass, yellow is 50%"]
    widget.list.setCurrentRow(0)
    mask, source = viewer.layers["cat mask: Background 1 (0–50%)"], viewer.layers["cat"]
    assert mask.contrast_limits == [0, 0.5]
    assert mask.opacity < 1  # the picture below is seen
    assert "yellow is the second percentage in the list" in widget.status.text().replace("\u200b", "")
    # A position of the mask covers 4 x 4 pixels, and lies in their middle.
    for place in ((0, 0), (3, 5)):
        expected = source.data_to_world(np.multiply(place, 4) + 1.5)
        np.testing.assert_allclose(mask.data_to_world(place), expected, atol=1e-6)
    assert mask.units == source.units

    before = visible(viewer)
    press(qtbot, widget.all_button)
    assert visible(viewer) == ["Background 1 (0–50%)"]
    assert grid_of(viewer).enabled
    press(qtbot, widget.all_button)
    assert visible(viewer) == before
    assert not grid_of(viewer).enabled

    viewer.layers.remove(mask)
    widget.list.setCurrentRow(-1)
    widget.list.setCurrentRow(0)
    assert "cat mask: Background 1 (0–50%)" in viewer.layers
    viewer.layers.remove("cat background")
    assert widget.list.count() == 0
    assert "tick Masks" in widget.status.text()


def test_masks_that_let_little_pass_are_seen_and_say_which_they_are(viewer, models, qtbot):
    from napari_dmgn.plugin.results import MASKS_KEY

    random = np.random.default_rng(0)
    faint = random.uniform(0, 0.1, (50, 60)).astype(np.float32)
    faint[0, 0] = 1  # a single position sets no scale
    masks = {f"background/{i}": faint for i in (1, 2, 3, 4)} | {f"refine/{i}": faint * 0 for i in (1, 2)}
    viewer.add_image(np.zeros((200, 240), np.uint8), name="dull", metadata={MASKS_KEY: masks})
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Masks")
    rows = [widget.list.item(row).text() for row in range(widget.list.count())]
    assert rows[0] == "Background 1: 5% pass, yellow is 10%"
    assert rows[-1] == "Refinement 2: 0% pass, yellow is 5%"  # nothing passes, and nothing is made of noise
    assert widget.list.item(0).toolTip() == "60 × 50 positions"
    press(qtbot, widget.all_button)
    shown = viewer.layers[1:]
    assert [layer.name for layer in shown] == [row.partition(":")[0] + f" (0–{row[-3:].strip()})" for row in rows]
    assert shown[0].contrast_limits == pytest.approx([0, 0.1], rel=0.02)
    assert shown[-1].contrast_limits == pytest.approx([0, 0.05])
    assert tuple(grid_of(viewer).shape) == (3, 2)  # no row mixes the branch and the refinement
    assert all(layer.opacity == 1 for layer in shown)
    if hasattr(shown[0], "name_overlay"):
        assert all(layer.name_overlay.visible for layer in shown)

    press(qtbot, widget.all_button)
    widget.list.setCurrentRow(0)
    widget.list.setCurrentRow(5)  # the layer takes the other cell's scale
    assert viewer.layers["dull mask: Refinement 2 (0–5%)"].contrast_limits == pytest.approx([0, 0.05])


def test_masks_widget_without_masks_and_closed(viewer, models, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Masks")
    assert "No masks yet" in widget.status.text()
    assert not widget.all_button.isEnabled()
    press(qtbot, widget.parent().title.close_button)
    viewer.add_image(np.zeros((4, 4)))


@pytest.mark.parametrize("title", ["Masks", "Compare", "Fine-tune model"])
def test_everything_that_can_be_pressed_has_a_tooltip(viewer, models, title):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox

    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", title)
    found = [part for kind in (QAbstractButton, QAbstractSpinBox, QComboBox) for part in widget.findChildren(kind)]
    assert len(found) >= 2
    assert [part.parent().objectName() + type(part).__name__ for part in found if not part.toolTip()] == []


@pytest.mark.parametrize("first", ["masks", "compare"])
def test_a_second_widget_ends_the_first_ones_view_and_both_ways_lead_back(
    viewer, models, fake_restore, qtbot, cat, first
):
    restored(viewer, qtbot, cat)
    masks = masks_widget(viewer)
    _, compare = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    viewer.layers["cat noise"].visible = False
    before, layers = visible(viewer), list(viewer.layers)

    if first == "masks":
        press(qtbot, masks.all_button)
        press(qtbot, compare.side_button)
        assert not masks.all_button.isChecked()
        assert visible(viewer) == ["cat", "cat background"]
        press(qtbot, masks.all_button)
        assert not compare.off_button.isEnabled()
        assert compare.status.text() == ""
        press(qtbot, masks.all_button)
    else:
        press(qtbot, compare.blink_box)
        press(qtbot, masks.all_button)
        assert not compare.blink_box.isChecked()
        assert not compare._timer.isActive()
        assert not compare.off_button.isEnabled()
        assert set(visible(viewer)).isdisjoint(before)
        press(qtbot, compare.toggle_button)
        assert not masks.all_button.isChecked()
        assert visible(viewer) == ["cat"]
        press(qtbot, compare.off_button)
    assert visible(viewer) == before
    assert list(viewer.layers) == layers
    assert not grid_of(viewer).enabled


def test_a_mask_that_is_only_shown_side_by_side_cannot_be_compared(viewer, models, fake_restore, qtbot, cat):
    restored(viewer, qtbot, cat)
    masks = masks_widget(viewer)
    _, compare = viewer.window.add_plugin_dock_widget("napari-dmgn", "Compare")
    press(qtbot, masks.all_button)
    compare.result_box.setCurrentText(viewer.layers[-1].name)
    assert compare.pair() is not None
    press(qtbot, compare.side_button)  # the mask goes with the view that it was made for
    assert visible(viewer) == ["cat", "cat background"]
    assert compare.status.text() == "Left: cat. Right: cat background."


@pytest.mark.parametrize(
    ("shape", "factor"), [((96, 128), 2), ((97, 131), 3), ((131, 97), 8), ((24, 131), 8), ((131, 24), 8)]
)
def test_masks_of_a_working_size_lie_on_the_image(tiny_checkpoint, shape, factor):
    from napari.layers import Image

    from napari_dmgn.plugin.masks_widget import _settings
    from napari_dmgn.plugin.results import MASKS_KEY
    from napari_dmgn.plugin.source import capture
    from napari_dmgn.plugin.worker import Request, run

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    source = Image(pixels, contrast_limits=(0, 1), name="x", **PLACED)
    request = Request(source=capture(source), model=tiny_checkpoint, device="cpu", masks=True, downscale=factor)
    events = run(request, bool)
    try:
        while True:
            next(events)
    except StopIteration as end:
        top = end.value.layers[-1]
    layer = Image(top.data, **top.settings)
    strides = set()
    for name, mask in layer.metadata[MASKS_KEY].items():
        # The tiny network's branches go down to half of the trunk's resolution, a quarter of what it sees.
        side = factor * (8 if name.endswith("/2") and not name.startswith("refine") else 4)
        strides.add(side)
        assert mask.shape == tuple(-(-pixels // side) for pixels in shape)
        overlay = Image(**_settings(layer, name, mask))
        last = np.subtract(mask.shape, 1)
        for place in (np.zeros(2), last):
            middle = np.multiply(place, side) + (side - 1) / 2
            np.testing.assert_allclose(overlay.data_to_world(place), source.data_to_world(middle), atol=1e-6)
    assert len(strides) == 2


@pytest.mark.parametrize(("length", "positions", "side"), [(300, 75, 4), (451, 57, 8), (7, 1, 8), (5, 5, 1)])
def test_pixels_of_a_position(length, positions, side):
    from napari_dmgn.plugin.masks_widget import cell_side

    assert cell_side(length, positions) == side
