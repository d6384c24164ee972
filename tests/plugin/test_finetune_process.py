"""Fine-tune model with its real process, a tiny network and a few steps."""

import time

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("pytestqt")

MINUTE = 60_000


@pytest.fixture
def home(monkeypatch, tmp_path, tiny_checkpoint):
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder.parent


@pytest.fixture
def open_widget(viewer, home, qtbot):
    from napari_dmgn.plugin.finetune_job import FineTuneJob

    def open_it(steps):
        _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Fine-tune model")
        widget.form.model_box.setCurrentText("tiny")
        widget.form.name_edit.setText("mine")
        widget.form.budget_unit.setCurrentText("steps")
        widget.form.budget_box.setValue(steps)
        return widget

    yield open_it
    for job in list(FineTuneJob.running.values()):
        job.abandon()
    qtbot.waitUntil(lambda: not FineTuneJob.running, timeout=MINUTE)


def press(qtbot, button):
    from qtpy.QtCore import Qt

    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def smooth(count):
    from skimage import data

    frames = [data.camera()[i * 48 : i * 48 + 48, 100:164] for i in range(count)]
    return np.stack(frames)


def test_pairs_of_layers_become_a_model_that_the_other_widget_offers(viewer, open_widget, home, qtbot):
    from napari_dmgn import checkpoint

    clean = smooth(6)
    noisy = clean.copy()
    noisy[:, :, ::6] = np.minimum(255, noisy[:, :, ::6].astype(int) + 60)
    viewer.add_image(noisy, name="noisy")
    viewer.add_image(clean, name="clean")
    _, other = viewer.window.add_plugin_dock_widget("napari-dmgn", "Restore background")
    widget = open_widget(24)
    press(qtbot, widget.panel.start_button)
    qtbot.waitUntil(lambda: not widget.busy, timeout=MINUTE)

    status = widget.panel.status.text().replace("\u200b", "")
    # The tiny network's last layers are random: learning anything is better.
    assert status.startswith("Better than tiny on the validation pictures: "), status
    assert status.endswith("Installed as 'mine'; Restore background offers it now.")
    plot = widget.panel.plot
    assert [step for step, _ in plot.losses] == list(range(1, 25))
    assert [step for step, _ in plot.scores] == list(range(2, 25, 2))
    card = checkpoint.read_header(home / "models/mine.safetensors").card
    assert card["fine_tuned_from"] == "tiny"
    assert card["comparison"]["before"] == pytest.approx(plot.base)
    assert card["comparison"]["after"] == pytest.approx(max(score for _, score in plot.scores))
    assert card["training"]["pictures"] == 5
    assert "mine" in [other.model_box.itemText(i) for i in range(other.model_box.count())]

    # The example is a held-out pair as the trainer cropped it, and the current model's view of it changed.
    shown = {layer.name.partition(",")[0].removeprefix("validation: "): layer.data for layer in viewer.layers[2:]}
    crops = [(frame, target) for frame, target in zip(noisy[:, :, 8:56], clean[:, :, 8:56], strict=True)]
    assert any(
        np.array_equal(shown["input"], frame) and np.array_equal(shown["target"], target) for frame, target in crops
    )
    assert (
        np.abs(shown["fine-tuned"].astype(float) - shown["target"]).mean()
        < np.abs(shown["tiny"].astype(float) - shown["target"]).mean()
    )


def test_closing_the_widget_saves_the_state_and_the_run_goes_on_to_its_verdict(viewer, open_widget, home, qtbot):
    from napari_dmgn.plugin.finetune_job import FineTuneJob

    viewer.add_image(smooth(5), name="clean")
    widget = open_widget(60)
    widget.form.data_form.way_box.setCurrentText("Clean layers + made noise")
    press(qtbot, widget.form.data_form.all_button)
    press(qtbot, widget.panel.start_button)
    qtbot.waitUntil(lambda: widget.panel.progress_bar.value() >= 8, timeout=MINUTE)
    folder = widget._job.folder
    viewer.window.remove_dock_widget(widget)
    qtbot.waitUntil(lambda: not FineTuneJob.running, timeout=MINUTE)
    assert (folder / "state.safetensors").exists()

    again = open_widget(60)
    label = again.panel.unfinished_box.currentText()
    stopped = int(label.removeprefix("mine: step ").removesuffix(" of 60"))
    assert 8 <= stopped < 60
    press(qtbot, again.panel.resume_button)
    assert len(again.panel.plot.losses) == stopped  # the earlier part is drawn
    qtbot.waitUntil(lambda: not again.busy, timeout=MINUTE)
    assert [step for step, _ in again.panel.plot.losses] == list(range(1, 61))
    assert "etter than tiny on the validation pictures" in again.panel.status.text()
    assert (home / "models/mine.safetensors").exists() == again._result["better"]
    assert again.panel.unfinished_box.isHidden() or not again.panel.unfinished_box.isEnabled()


def test_pairs_in_two_folders_are_matched_and_reported(open_widget, home, tmp_path, qtbot):
    from napari_dmgn.files import write_image

    widget = open_widget(8)
    form = widget.form.data_form
    form.way_box.setCurrentText("Pairs in two folders")
    folders = {"noisy": form.input_field, "clean": form.background_field}
    for i, frame in enumerate(smooth(3)):
        for kind, field in folders.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            write_image(tmp_path / kind / f"{kind}-{'abc'[i]}.png", frame)
            field.edit.setText(str(tmp_path / kind))
    (tmp_path / "noisy/noisy-d.png").write_bytes((tmp_path / "noisy/noisy-a.png").read_bytes())

    def report():
        press(qtbot, widget.panel.check_button)
        qtbot.waitUntil(lambda: not widget.busy, timeout=MINUTE)
        return widget.panel.status.text().replace("\u200b", ""), widget.panel.report_text.toPlainText()

    form.match_box.setCurrentText("name")  # no two files have one name
    assert "7 unmatched: noisy/noisy-a.png" in report()[0]
    form.match_box.setCurrentText("noisy-{} clean-{}")
    said, text = report()
    assert said == "This is what a training would see."
    assert "3 pairs" in text, text
    assert "noisy-d.png" in text, text
    assert list((home / "runs").iterdir()) == []


def test_pictures_that_cannot_be_used_and_the_end_of_napari(home, tmp_path, tiny_checkpoint):
    """Without napari: a folder with one picture is refused; an end of input, as when napari dies, is a stop."""
    import subprocess

    from napari_dmgn.files import write_image
    from napari_dmgn.plugin.finetune_job import command
    from napari_dmgn.plugin.finetune_request import EVENTS, FineTuneRequest, read_messages

    pictures, run = tmp_path / "pictures", tmp_path / "run"
    pictures.mkdir()
    run.mkdir()
    frames = smooth(3)
    write_image(pictures / "0.png", frames[0])
    (pictures / "broken.png").write_bytes(b"no picture")
    values = {"name": "mine", "base": str(tiny_checkpoint), "task": "rain", "kind": "stripes", "steps": 100_000}
    FineTuneRequest(**values, sources=({"clean": str(pictures)},)).write(run)
    process = subprocess.Popen(command(run, check=False), stdin=subprocess.PIPE)
    assert process.wait(timeout=60) == 1
    process.stdin.close()
    *_, last = read_messages(run / EVENTS)
    assert last["message"].startswith("1 picture to train on; wanted at least 2")

    for i in (1, 2):
        write_image(pictures / f"{i}.png", frames[i])
    process = subprocess.Popen(command(run, check=False), stdin=subprocess.PIPE)
    process.stdin.write(b"go\n")  # although one file is broken
    process.stdin.flush()
    end = time.monotonic() + 60
    while not any(m["kind"] == "step" for m in read_messages(run / EVENTS)):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    *_, last = read_messages(run / EVENTS)
    assert last["kind"] == "stopped"
    assert (run / "state.safetensors").exists()
    (report,) = [m for m in read_messages(run / EVENTS) if m["kind"] == "report"]
    assert report["asks"]
    assert "broken.png" in report["problems"][0]
    assert (report["training"], report["validation"]) == (2, 1)
