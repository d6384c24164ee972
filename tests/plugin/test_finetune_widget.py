"""Fine-tune model as a user meets it, rough handling included; the training is a stand-in that loads no torch."""

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

STAND_IN = """
import json, os, pathlib, signal, sys, threading, time
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
words = []
def listen():
    while True:
        read = os.read(0, 99)
        words.append(read.decode() or "stop")
        if "stop" in words[-1]:
            return
threading.Thread(target=listen, daemon=True).start()
def tell(kind, **values):
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, **values}) + "\\n")
tell("report", lines=["4 files -> 4 pairs"], problems=["x"] * (mode == "asks"), training=3, validation=1,
     asks=mode == "asks")
if "--check" in sys.argv:
    sys.exit()
while mode == "asks" and not words:
    time.sleep(0.01)
if mode == "crash":
    raise RuntimeError("no more tensors")
if mode == "error":
    tell("error", message="the loss is nan", details="")
    sys.exit(1)
import numpy
def example(value):
    # As the process does it: the whole file appears at once.
    with (folder / "example.part").open("wb") as file:
        numpy.save(file, numpy.full((4, 8, 10, 3), value, numpy.uint8))
    (folder / "example.part").replace(folder / "example.npy")
    return str(folder / "example.npy")
(folder / "settings.toml").write_text("")
tell("base", model="tiny", mean=20.0, untouched=19.0, scores={}, example=example(0))
step = 0
while not any("stop" in word for word in words) and step < 3000:
    if step == 20 and mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    step += 1
    extra = {"mean": 20 + step / 100, "example": example(step % 200)} if step % 10 == 0 else {}
    tell("step", step=step, steps=3000, loss=1 / step, seconds=step / 100, **extra)
    time.sleep(0.01)
(folder / "result.safetensors").write_bytes((folder / "base").read_bytes() if (folder / "base").exists() else b"")
tell("stopped", result=str(folder / "result.safetensors"), verdict="better than tiny: 21 dB", better=True,
     untouched=19.0, helps=True)
"""


def plain(label):
    """A label's text without the places where it may break."""
    return label.text().replace("\u200b", "")


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def errors(monkeypatch):
    """What napari's notifications were given."""
    from napari_dmgn.plugin import finetune_widget

    shown = []
    monkeypatch.setattr(finetune_widget, "show_error", shown.append)
    monkeypatch.setattr(finetune_widget, "show_info", lambda text: None)
    return shown


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """The training process's stand-in: set `stand_in["mode"]`; `stand_in["started"]` counts."""
    from napari_dmgn.plugin import finetune_job

    script = tmp_path / "stand_in.py"
    script.write_text(textwrap.dedent(STAND_IN))
    state = {"mode": "trains", "started": 0}

    def command(folder: Path, *, check: bool):
        state["started"] += 1
        return [sys.executable, str(script), str(folder), state["mode"], *(["--check"] if check else [])]

    monkeypatch.setattr(finetune_job, "command", command)
    return state


@pytest.fixture
def home(monkeypatch, tmp_path, tiny_checkpoint):
    """The user's data folder, with a model of the user's."""
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    return folder.parent


@pytest.fixture
def open_widget(viewer, home, errors, stand_in, qtbot):
    """Open the widget through the manifest; end whatever it left running."""
    from napari_dmgn.plugin.finetune_job import FineTuneJob

    def open_it():
        _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Fine-tune model")
        widget.form.model_box.setCurrentText("tiny")
        widget.form.name_edit.setText("mine")
        return widget

    yield open_it
    for job in list(FineTuneJob.running.values()):
        job.abandon()
    qtbot.waitUntil(lambda: not FineTuneJob.running, timeout=10_000)


@pytest.fixture
def pairs(viewer):
    """Two layers that make a pair of four frames."""
    random = np.random.default_rng(0)
    clean = random.integers(0, 200, (4, 24, 32)).astype(np.uint8)
    placed = {"scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um")}
    return [viewer.add_image(data, name=name, **placed) for data, name in ((clean + 20, "noisy"), (clean, "clean"))]


def finish(qtbot, widget):
    qtbot.waitUntil(lambda: not widget.busy, timeout=10_000)


def running(qtbot, widget, step=1):
    qtbot.waitUntil(lambda: widget.panel.progress_bar.value() >= step, timeout=10_000)


def test_what_is_missing_is_said_and_nothing_is_started(viewer, open_widget, stand_in, home, qtbot):
    widget = open_widget()

    def says():
        press(qtbot, widget.panel.start_button)
        assert not widget.busy
        return plain(widget.panel.status)

    assert "Choose a layer with noise" in says()
    viewer.add_labels(np.zeros((24, 32), int), name="cells")
    assert "Choose a layer with noise" in says()
    viewer.add_image(np.zeros((24, 32), np.uint8), name="a")
    assert "'a' is chosen twice" in says()
    viewer.add_image(np.zeros((24, 30), np.uint8), name="b")
    assert widget.form.data_form.noisy_box.currentText() == "a"
    widget.form.data_form.clean_box.setCurrentText("b")
    assert "'a' is 24 × 32 and 'b' is 24 × 30. A pair has one size." in says()
    viewer.add_image(np.zeros((24, 32), np.float32), name="c")
    widget.form.data_form.clean_box.setCurrentText("c")
    assert "'a' is uint8 and 'c' is float32. A pair has one data type." in says()
    widget.form.data_form.way_box.setCurrentText("Clean layers + made noise")
    assert "Tick at least one clean layer." in says()
    widget.form.data_form.way_box.setCurrentText("Clean folder + made noise")
    assert "Choose the folder of clean pictures." in says()
    widget.form.data_form.clean_field.edit.setText(str(home / "no such place"))
    assert f"does not exist: {home / 'no such place'}" in says()
    widget.form.data_form.clean_field.edit.setText(str(home))
    widget.form.name_edit.setText("")
    assert "Give the new model a name." in says()
    for taken in ("rain", "tiny"):
        widget.form.name_edit.setText(taken)
        assert f"There is a model '{taken}' already" in says()
    widget.form.name_edit.setText("a/b")
    assert "'a/b' cannot be a model's name" in says()
    widget.form.name_edit.setText("mine")
    (home / "runs").write_text("a file in the way")
    assert "cannot make the run's folder" in says()
    assert stand_in["started"] == 0


def test_a_training_is_watched_stopped_and_installed(viewer, open_widget, pairs, home, stand_in, qtbot, errors):
    widget = open_widget()
    assert not widget.panel.stop_button.isEnabled()
    press(qtbot, widget.panel.start_button)
    press(qtbot, widget.panel.start_button)
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget, 25)
    assert stand_in["started"] == 1
    assert plain(widget.panel.status).startswith(f"Step {widget.panel.progress_bar.value()} of 3000, about ")
    assert plain(widget.panel.status).endswith(" dB; tiny: 20.00, untouched: 19.00.")
    plot = widget.panel.plot
    assert plot.base == 20
    assert plot.losses[:2] == [(1, 1.0), (2, 0.5)]
    assert plot.scores[:2] == [(10, 20.1), (20, 20.2)]

    names = [layer.name for layer in viewer.layers]
    assert names[:4] == ["noisy", "clean", "validation: input", "validation: tiny"]
    assert names[4].startswith("validation: fine-tuned, step ")
    assert names[5] == "validation: target"
    example = viewer.layers[4]
    assert example.data.max() >= 10
    np.testing.assert_array_equal(example.scale, (0.5, 0.5))
    assert [str(unit) for unit in example.units] == ["micrometer", "micrometer"]
    # In two rows, right of everything, in world units.
    corners = np.array([layer.extent.world[0] for layer in viewer.layers[2:]])
    assert corners[:, 1].min() > pairs[0].extent.world[1, 2]
    places = (corners - corners[0]) / (1.06 * 0.5 * np.array([8, 10]))
    np.testing.assert_allclose(places, [(0, 0), (1, 0), (1, 1), (0, 1)])
    # They are nothing to train on.
    assert widget.form.data_form.layer_list.count() == 2

    folder = next((home / "runs").iterdir())
    (folder / "base").write_bytes((home / "models/tiny.safetensors").read_bytes())
    press(qtbot, widget.panel.stop_button)
    assert not widget.panel.stop_button.isEnabled()
    finish(qtbot, widget)
    assert plain(widget.panel.status).startswith("Stopped; Resume goes on. So far: Better than tiny: 21 dB. Untouched")
    assert widget.panel.start_button.isEnabled()
    assert widget.panel.unfinished_box.currentText().startswith("mine: step ")

    press(qtbot, widget.panel.install_button)
    assert (home / "models/mine.safetensors").exists()
    assert "Installed as 'mine'" in plain(widget.panel.status)
    assert "mine" in [widget.form.model_box.itemText(i) for i in range(widget.form.model_box.count())]
    assert not widget.panel.install_button.isEnabled()
    assert not errors


def test_an_example_layer_that_was_removed_stays_away_and_sources_may_go(viewer, open_widget, pairs, qtbot):
    widget = open_widget()
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget, 12)
    viewer.layers.clear()
    running(qtbot, widget, 45)
    assert len(viewer.layers) == 0
    press(qtbot, widget.panel.stop_button)
    finish(qtbot, widget)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("crash", "The training process broke off (exit status 1). It last said: RuntimeError: no more tensors"),
        ("killed", "The training process broke off (ended by signal 9)."),
        ("error", "the loss is nan"),
    ],
)
def test_a_crash_is_told_and_the_widget_goes_on(viewer, open_widget, pairs, stand_in, qtbot, errors, mode, said):
    widget = open_widget()
    stand_in["mode"] = mode
    press(qtbot, widget.panel.start_button)
    finish(qtbot, widget)
    assert errors == [f"Fine-tuning 'mine' failed: {said}"]
    assert plain(widget.panel.status) == errors[0]
    assert widget.panel.progress_bar.isHidden()
    stand_in["mode"] = "trains"
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget)


def test_pictures_that_are_left_out_are_shown_before_the_start(open_widget, pairs, stand_in, qtbot):
    widget = open_widget()
    stand_in["mode"] = "asks"
    press(qtbot, widget.panel.start_button)
    qtbot.waitUntil(lambda: widget.panel.asking)
    assert widget.panel.start_button.text() == "Go on"
    assert "Go on trains with 3 and validates with 1" in plain(widget.panel.status)
    assert widget.panel.report_text.toPlainText() == "4 files -> 4 pairs"
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget)
    assert widget.panel.start_button.text() == "Start"
    assert stand_in["started"] == 1


def test_check_reports_and_leaves_nothing(open_widget, pairs, home, stand_in, qtbot):
    widget = open_widget()
    widget.form.name_edit.setText("")
    press(qtbot, widget.panel.check_button)
    finish(qtbot, widget)
    assert plain(widget.panel.status) == "This is what a training would see."
    assert not widget.panel.report_text.isHidden()
    assert list((home / "runs").iterdir()) == []


def test_closing_the_widget_stops_the_process_and_offers_the_run_again(viewer, open_widget, pairs, stand_in, qtbot):
    from napari_dmgn.plugin.finetune_job import FineTuneJob

    widget = open_widget()
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget, 5)
    pid = widget._job.pid
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not FineTuneJob.running, timeout=10_000)
    assert not alive(pid)
    again = open_widget()
    assert again.panel.unfinished_box.currentText().startswith("mine: step ")
    press(qtbot, again.panel.resume_button)
    running(qtbot, again)
    assert stand_in["started"] == 2
    assert len(again.panel.plot.losses) >= 1


def test_closing_the_widget_while_layers_are_written_starts_nothing(viewer, open_widget, home, stand_in, qtbot, pairs):
    widget = open_widget()
    press(qtbot, widget.panel.start_button)
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not list((home / "runs").iterdir()), timeout=10_000)
    assert stand_in["started"] == 0


def test_closing_napari_stops_the_process(viewer, open_widget, pairs, stand_in, qtbot):
    from napari_dmgn.plugin.finetune_job import FineTuneJob

    widget = open_widget()
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget, 5)
    pid = widget._job.pid
    viewer.close()
    qtbot.waitUntil(lambda: not FineTuneJob.running, timeout=10_000)
    assert not alive(pid)


def test_pairs_can_be_listed_and_vanish_with_their_layers(viewer, open_widget, pairs, qtbot):
    form = open_widget().form.data_form
    press(qtbot, form.add_button)
    press(qtbot, form.add_button)
    assert [form.pair_list.item(i).text() for i in range(form.pair_list.count())] == ["noisy → clean"]
    assert len(form.data().layers.items) == 1
    pairs[1].name = "tidy"
    assert form.pair_list.item(0).text() == "noisy → tidy"
    viewer.layers.remove(pairs[1])
    assert form.pair_list.count() == 0


def test_pairs_are_removed_and_a_pair_that_is_not_added_says_why(viewer, open_widget, pairs, qtbot):
    widget = open_widget()
    form = widget.form.data_form
    other = viewer.add_image(pairs[1].data + 1, name="other")
    press(qtbot, form.add_button)
    press(qtbot, form.add_button)
    assert plain(widget.panel.status) == "'noisy' → 'clean' is in the list already."
    form.clean_box.setCurrentText("noisy")
    press(qtbot, form.add_button)
    assert plain(widget.panel.status).startswith("'noisy' is chosen twice. A pair is")
    viewer.add_image(np.zeros((5, 5)), name="small")
    form.clean_box.setCurrentText("small")
    press(qtbot, form.add_button)
    assert plain(widget.panel.status).endswith("A pair has one size.")
    form.noisy_box.setCurrentText("other")
    form.clean_box.setCurrentText("clean")
    press(qtbot, form.add_button)

    def listed():
        return [form.pair_list.item(row).text() for row in range(form.pair_list.count())]

    assert listed() == ["noisy → clean", "other → clean"]
    press(qtbot, form.remove_button)
    assert plain(widget.panel.status) == "Select in the list which pairs to remove."
    form.pair_list.setCurrentRow(0)
    press(qtbot, form.remove_button)
    assert listed() == ["other → clean"]
    ((first, _),) = form.data().layers.items
    assert first.name == other.name
    form.pair_list.setCurrentRow(0)
    press(qtbot, form.remove_button)
    assert form.pair_list.isHidden()
    assert not form.remove_button.isEnabled()
    viewer.layers.clear()
    press(qtbot, form.add_button)
    assert "Choose a layer with noise" in plain(widget.panel.status)


def test_folders_are_chosen_with_their_buttons(open_widget, home, monkeypatch, qtbot):
    from qtpy.QtWidgets import QFileDialog

    asked, answers = [], []

    def choose(parent, title, start):
        asked.append((title, start))
        return answers.pop(0)

    monkeypatch.setattr(QFileDialog, "getExistingDirectory", choose)
    form = open_widget().form
    data = form.data_form
    for field, what in (
        (data.input_field, "folder of pictures with noise"),
        (data.background_field, "folder of clean pictures"),
        (data.clean_field, "folder of clean pictures"),
        (form.root_field, "folder for runs"),
    ):
        answers += [str(home), ""]
        press(qtbot, field.button)
        press(qtbot, field.button)  # cancelled: the folder stays
        assert field.folder() == str(home)
        assert asked[-2:] == [(f"Choose the {what}", ""), (f"Choose the {what}", str(home))]
    assert form.root() == home


def test_advanced_settings_reach_the_training(open_widget, pairs, home, tmp_path, stand_in, qtbot):
    from napari_dmgn.plugin.finetune_request import FineTuneRequest

    widget = open_widget()
    form = widget.form
    assert form.advanced.isHidden()
    press(qtbot, form.advanced_button)
    assert not form.advanced.isHidden()
    form.rate_box.setCurrentText("Bold (0.002)")
    form.device_box.setCurrentText("CPU")
    form.root_field.edit.setText(str(tmp_path / "elsewhere"))
    form.budget_box.setValue(7)
    form.share_box.setValue(35)
    press(qtbot, widget.panel.start_button)
    running(qtbot, widget)
    request = FineTuneRequest.read(tmp_path / "elsewhere/mine")
    assert (request.learning_rate, request.device, request.minutes, request.share) == (0.002, "cpu", 7, 0.35)
    assert not (home / "runs").exists()
    press(qtbot, widget.panel.stop_button)
    finish(qtbot, widget)
    assert widget.panel.unfinished_box.currentText().startswith("mine: step ")  # found in that folder
    press(qtbot, form.advanced_button)
    assert form.advanced.isHidden()


@pytest.mark.parametrize(
    ("better", "helps", "installed"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_only_what_is_better_is_installed_by_itself(open_widget, home, better, helps, installed):
    widget = open_widget()
    widget._name = "mine"
    widget._result = {
        "kind": "done",
        "result": str(home / "models/tiny.safetensors"),
        "verdict": "so and so",
        "better": better,
        "helps": helps,
        "untouched": 30.0,
    }
    widget._conclude()
    assert (home / "models/mine.safetensors").exists() == installed
    assert widget.panel.install_button.isEnabled() != installed
    assert plain(widget.panel.status).startswith("So and so. Untouched they have 30.00 dB.")
    assert ("NO model helps here" in plain(widget.panel.status)) != helps
    widget.install()
    assert (home / "models/mine.safetensors").exists()


def test_a_models_folder_that_cannot_be_written_is_said(open_widget, home, errors, monkeypatch):
    widget = open_widget()
    widget._result = {"result": str(home / "models/tiny.safetensors")}
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(home / "models/tiny.safetensors" / "x"))
    widget.install()
    assert errors[0].startswith("The model was not installed: ")
    assert errors[0].endswith(f"It is in {home / 'models/tiny.safetensors'}")


@pytest.fixture
def page(own_files, plugin_settings, viewer, monkeypatch):
    """The plugin's page in napari's Preferences, read as in real life."""
    from napari.settings import get_plugin_settings

    from napari_dmgn.plugin import preferences

    monkeypatch.setattr(preferences, "_read", own_files)
    return get_plugin_settings("napari-dmgn").restore


def models_in(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.safetensors").write_bytes((folder.parents[1] / "home/models/tiny.safetensors").read_bytes())
    return folder


def offered(widget):
    return [widget.form.model_box.itemText(row) for row in range(widget.form.model_box.count())]


def test_the_models_folder_of_the_preferences_page_counts(page, viewer, open_widget, home, tmp_path, qtbot, errors):
    from qtpy.QtGui import QShowEvent
    from qtpy.QtWidgets import QApplication

    first, second = models_in(tmp_path / "first/models", "one"), models_in(tmp_path / "second/models", "two")
    page.models_folder = str(first)
    widget = open_widget()  # the first of our widgets in this napari
    assert "one" in offered(widget)
    assert "tiny" not in offered(widget)
    assert str(first) in widget.form.model_box.toolTip()
    assert widget.form.root() == Path(widget.form.root_field.edit.placeholderText()) == tmp_path / "first/runs"
    widget._name, widget._result = "mine", {"result": str(home / "models/tiny.safetensors")}
    widget.install()
    assert (first / "mine.safetensors").exists()
    assert "mine" in offered(widget)

    # Changed while the widget is open: it looks again when the mouse comes back.
    page.models_folder = str(second)
    enter(widget)
    assert "two" in offered(widget)
    assert "one" not in offered(widget)
    assert str(second) in widget.form.model_box.toolTip()
    widget._name, widget._result = "later", {"result": str(home / "models/tiny.safetensors")}
    widget.install()
    assert (second / "later.safetensors").exists()
    # Emptied: what was there before the page named a folder.
    page.models_folder = ""
    QApplication.sendEvent(widget, QShowEvent())
    assert "tiny" in offered(widget)
    assert not errors


def enter(widget):
    from qtpy.QtCore import QPointF
    from qtpy.QtGui import QEnterEvent
    from qtpy.QtWidgets import QApplication

    place = QPointF(5, 5)
    QApplication.sendEvent(widget, QEnterEvent(place, place, place))


def test_a_models_folder_that_is_missing_is_made_by_the_first_result(open_widget, home, monkeypatch, qtbot, errors):
    folder = home / "not yet" / "models"
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    widget = open_widget()
    assert all(label.endswith("(shipped)") for label in offered(widget))
    assert not folder.exists()
    assert widget.panel.unfinished_box.isHidden() or not widget.panel.unfinished_box.isEnabled()
    widget._name, widget._result = "mine", {"result": str(home / "models/tiny.safetensors")}
    widget.panel.install_button.setEnabled(True)
    press(qtbot, widget.panel.install_button)
    assert (folder / "mine.safetensors").exists()
    assert "mine" in offered(widget)
    assert not errors


def test_no_model_at_all_is_said(open_widget, home, monkeypatch, qtbot):
    from napari_dmgn import zoo

    monkeypatch.setattr(zoo, "_shipped_folder", lambda: home / "nothing")
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(home / "nowhere"))
    widget = open_widget()
    said = f"No model is installed. Put a .safetensors file into {home / 'nowhere'}"
    assert said in plain(widget.form.model_note)
    press(qtbot, widget.panel.check_button)
    assert not widget.busy
