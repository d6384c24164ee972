"""The box of image layers that follows the viewer."""

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtCore", exc_type=ImportError)


@pytest.fixture
def choice(viewer, qtbot):
    """A choice with its box, and how often it told of a change."""
    from qtpy.QtWidgets import QComboBox

    from napari_dmgn.plugin.layer_choice import LayerChoice

    box = QComboBox()
    qtbot.addWidget(box)
    made = LayerChoice(viewer, box)
    made.told = []
    made.changed.connect(lambda: made.told.append(box.currentText()))
    made.follow()
    made.told.clear()
    return made


def gray(viewer, name):
    return viewer.add_image(np.zeros((8, 9), np.uint8), name=name)


def test_without_image_layers_it_says_so(choice, viewer):
    assert (choice.layer(), choice.image()) == (None, None)
    assert "image layer" in choice.hint()
    labels = viewer.add_labels(np.zeros((8, 9), int), name="cells")
    assert choice.layer() is labels  # selected, but no image
    assert choice.image() is None
    assert "cells" in choice.hint()


def test_the_active_image_is_chosen_and_told_of(choice, viewer):
    first, second = gray(viewer, "first"), gray(viewer, "second")
    assert choice.image() is second
    assert choice.hint() == "Ready."
    choice.told.clear()
    viewer.layers.selection.active = first
    assert choice.image() is first
    assert choice.told[-1] == "first"
    choice.told.clear()
    choice._box.setCurrentIndex(1)
    assert choice.image() is second
    assert choice.told == ["second"]
    second.name = "renamed"
    assert choice._box.currentText() == "renamed"


def test_another_kind_of_layer_keeps_the_choice_and_the_hint_tells(choice, viewer):
    image = gray(viewer, "image")
    viewer.add_labels(np.zeros((8, 9), int), name="cells")
    assert choice.image() is image
    assert "Restore would take 'image'" in choice.hint()


def test_a_removed_layer_is_no_choice(choice, viewer):
    first, second = gray(viewer, "first"), gray(viewer, "second")
    viewer.layers.remove(second)
    assert choice.image() is first
    viewer.layers.remove(first)
    assert choice.image() is None


def test_nothing_is_told_once_it_has_left(choice, viewer):
    choice.leave()
    gray(viewer, "late")
    assert choice.told == []
    assert choice._box.currentText() == "no image layer"
