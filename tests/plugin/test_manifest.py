"""What napari reads: the manifest, its menus, and the commands behind them."""

import dataclasses
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("npe2")
pytest.importorskip("napari")

ROOT = Path(__file__).parents[2]


def test_package_reads_the_manifest_of_the_root():
    assert (ROOT / "src/napari_dmgn/napari.yaml").read_text() == (ROOT / "napari.yaml").read_text()


def test_npe2_validates_the_manifest_with_imports():
    # Of npe2's own pydantic nothing is said here: deprecations there are not errors of ours.
    command = [sys.executable, "-m", "npe2", "validate", "--imports", str(ROOT / "napari.yaml")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "valid" in process.stdout.lower()


def test_every_name_in_the_manifest_resolves(manifest):
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(import_module(module), name)), command.python_name


def test_every_contribution_names_a_command(manifest):
    known = {command.id for command in manifest.contributions.commands}
    used = {widget.command for widget in manifest.contributions.widgets}
    used |= {sample.command for sample in manifest.contributions.sample_data}
    used |= {writer.command for writer in manifest.contributions.writers}
    menus = manifest.contributions.menus
    used |= {item.command for items in menus.values() for item in items if hasattr(item, "command")}
    assert used == known


def test_plugin_modules_and_the_list_of_models_do_not_load_torch(manifest, tiny_checkpoint):
    modules = {command.python_name.partition(":")[0] for command in manifest.contributions.commands}
    code = f"""
import sys, {", ".join(sorted(modules))}
from napari_dmgn.plugin.models import model_label, model_summary, zoo
print("tiny" in [model_label(model) for model in zoo.list_models() if model_summary(model)])
print("torch" in sys.modules)
"""
    environment = {**os.environ, "NAPARI_DMGN_MODELS": str(tiny_checkpoint.parent)}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert process.stdout.split() == ["True", "False"], process.stdout + process.stderr


def entries(menu):
    """All entries of a Qt menu by text, submenus included."""
    found = {}
    menu.aboutToShow.emit()
    for action in menu.actions():
        if action.menu() is None:
            found[action.text()] = action
        else:
            found[action.text()] = entries(action.menu())
    return found


def test_layers_filter_menu_opens_the_widget_and_removes_rain(viewer, models, fake_restore, qtbot):
    submenu = entries(viewer.window.layers_menu)["Filter"]["Restore background"]
    assert sorted(text.removesuffix(" (DMGN)") for text in submenu if text) == [
        "Compare",
        "Fine-tune model",
        "Masks",
        "Remove haze",
        "Remove rain",
        "Remove reflections",
        "Restore background",
        "Save layer as OME-TIFF or OME-Zarr",
    ]
    restore, remove = submenu["Restore background (DMGN)"], submenu["Remove rain (DMGN)"]
    assert not remove.isEnabled()

    restore.trigger()
    (widget,) = viewer.window.dock_widgets.values()
    assert type(widget).__name__ == "RestoreWidget"

    viewer.add_image(np.zeros((24, 32)), name="gray")
    submenu = entries(viewer.window.layers_menu)["Filter"]["Restore background"]
    assert submenu[remove.text()].isEnabled()
    submenu[remove.text()].trigger()
    finish(qtbot)
    assert "gray background" in viewer.layers


def test_building_the_menus_does_not_load_torch():
    code = """
import sys
from pathlib import Path
from npe2 import PluginManager, PluginManifest
PluginManager.instance().register(PluginManifest.from_file(sys.argv[1]))
from napari.plugins import _npe2
for manifest in _npe2.iter_manifests():
    if manifest.name == "napari-dmgn":
        _npe2._register_manifest_actions(manifest)
print("torch" in sys.modules, "napari_dmgn.plugin.restore_widget" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(ROOT / "napari.yaml")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "False False", process.stdout + process.stderr


def notifications(monkeypatch):
    from napari_dmgn.plugin import commands

    shown = []
    for kind in ("show_info", "show_warning", "show_error"):
        monkeypatch.setattr(commands, kind, lambda text, kind=kind: shown.append((kind, text)))
    return shown


def run_remove_rain():
    from napari._app_model import get_app_model

    get_app_model().commands.execute_command("napari-dmgn.remove_rain").result()


def finish(qtbot):
    from napari_dmgn.plugin.job import RestoreJob

    qtbot.waitUntil(lambda: RestoreJob.current is None)


def test_remove_rain_on_the_active_layer(viewer, models, fake_restore, qtbot, monkeypatch):
    shown = notifications(monkeypatch)
    image = np.zeros((24, 32, 3), np.uint8)
    source = viewer.add_image(image, rgb=True, name="cat", scale=(2, 3))
    run_remove_rain()
    finish(qtbot)
    assert [layer.name for layer in viewer.layers] == ["cat", "cat noise map", "cat noise", "cat background"]
    np.testing.assert_array_equal(viewer.layers[-1].scale, (2, 3))
    assert fake_restore.calls[0][2]["model"] == models.info.path
    assert viewer.layers.selection.active == source
    assert not shown


def test_quick_commands_start_with_the_preferences(viewer, models, fake_restore, qtbot, monkeypatch):
    from napari_dmgn.plugin import preferences

    chosen = preferences.Preferences(device="cpu", precision="float32", downscale="3", ensemble=True, tile="whole")
    monkeypatch.setattr(preferences, "_read", lambda: chosen)
    viewer.add_image(np.zeros((24, 32)), name="gray")
    run_remove_rain()
    finish(qtbot)
    settings = fake_restore.calls[0][2]
    expected = {"device": "cpu", "precision": "float32", "downscale": 3, "ensemble": True, "tile": None}
    assert {name: settings[name] for name in expected} == expected


def test_a_quick_command_loads_torch_off_the_gui_thread(viewer, models, fake_restore, qtbot, monkeypatch):
    from napari_dmgn.plugin import commands

    asked = []
    monkeypatch.setattr(commands, "load_early", lambda: asked.append(len(fake_restore.calls)))
    viewer.add_image(np.zeros((24, 32)), name="gray")
    run_remove_rain()
    finish(qtbot)
    assert asked == [0]


def test_remove_rain_says_what_is_missing(viewer, models, fake_restore, qtbot, monkeypatch):
    shown = notifications(monkeypatch)
    viewer.add_labels(np.zeros((24, 32), int), name="cells")
    run_remove_rain()
    assert "'cells' is a Labels layer" in shown.pop()[1]
    viewer.layers.clear()
    run_remove_rain()
    assert "No image layer is selected" in shown.pop()[1]
    viewer.add_image(np.zeros((24, 32)), name="gray")
    models.found.clear()
    run_remove_rain()
    kind, text = shown.pop()
    assert kind == "show_warning"
    assert text.startswith("No model for rain is installed. Put its .safetensors file into ")
    assert not fake_restore.calls


def test_remove_rain_clicked_twice_and_failing(viewer, models, fake_restore, qtbot, monkeypatch):
    shown = notifications(monkeypatch)
    viewer.add_image(np.zeros((24, 32)), name="gray")
    fake_restore.gated = True
    fake_restore.error, fake_restore.error_at = ValueError("no such thing"), 0
    run_remove_rain()
    run_remove_rain()
    assert "still running" in shown.pop()[1]
    fake_restore.release(3)
    finish(qtbot)
    assert shown == [("show_error", "Could not restore 'gray': no such thing")]
    assert len(fake_restore.calls) == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("light-rain", "rainy cat"),
        ("heavy-rain", "rainy astronaut"),
        ("haze", "hazy rocket"),
        ("reflection", "coffee behind glass"),
        ("striped-cells", "striped cells"),
    ],
)
def test_samples_open(npe2pm, manifest, key, name):
    from napari.components import ViewerModel

    npe2pm.register(manifest)
    viewer = ViewerModel()
    (layer,) = viewer.open_sample("napari-dmgn", key)
    assert layer.name == name
    if key == "striped-cells":
        assert (layer.ndim, layer.rgb, layer.data.dtype) == (3, False, np.uint16)
        np.testing.assert_array_equal(layer.scale, (2, 0.5, 0.5))
        assert str(layer.units[0]) == "micrometer"
    else:
        assert (layer.rgb, layer.data.dtype) == (True, np.uint8)


def test_quick_command_takes_a_model_that_comes_later(viewer, models, fake_restore, qtbot, monkeypatch):
    from napari._app_model import get_app_model

    shown = notifications(monkeypatch)
    viewer.add_image(np.zeros((24, 32)), name="gray")
    command = get_app_model().commands.execute_command
    command("napari-dmgn.remove_haze").result()
    assert "No model for haze is installed" in shown.pop()[1]
    models.found.append(dataclasses.replace(models.info, name="mine", task="haze", shipped=False))
    command("napari-dmgn.remove_haze").result()
    finish(qtbot)
    assert fake_restore.calls[0][1] == "haze"
    assert "gray background" in viewer.layers


def test_save_command_writes_pixel_size_and_units(viewer, qtbot, monkeypatch, tmp_path):
    from napari._app_model import get_app_model
    from qtpy.QtWidgets import QFileDialog
    from tifffile import TiffFile

    shown = notifications(monkeypatch)
    path = tmp_path / "cells"
    answer = (str(path), "OME-TIFF (*.ome.tif)")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: answer)
    viewer.add_image(np.ones((8, 9), np.uint16), name="a", scale=(0.5, 0.25), units=("um", "um"), translate=(1, 0))
    get_app_model().commands.execute_command("napari-dmgn.save_layer").result()
    qtbot.waitUntil(lambda: bool(shown))
    assert shown[0][1].startswith(f"Saved 'a' as {path}.ome.tif. The file does not hold the layer's translation.")
    written = Path(f"{path}.ome.tif").stat().st_mtime_ns
    get_app_model().commands.execute_command("napari-dmgn.save_layer").result()  # the dialog asked about "cells" only
    qtbot.waitUntil(lambda: len(shown) > 1)
    assert f"{path}.ome.tif exists" in shown[1][1]
    assert Path(f"{path}.ome.tif").stat().st_mtime_ns == written
    with TiffFile(f"{path}.ome.tif") as file:
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
        assert 'PhysicalSizeYUnit="µm"' in file.ome_metadata
