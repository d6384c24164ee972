"""Wheel and sdist: what they hold, and that an installed wheel finds its manifest and its weights."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from napari_dmgn import __version__

ROOT = Path(__file__).parents[1]
WEIGHTS = sorted(path.name for path in (ROOT / "weights").glob("*.safetensors"))


def build(source: Path, target: str, folder: Path) -> Path:
    """Build with the hatchling of this environment; no network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    process = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    (result,) = folder.iterdir()
    return result


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    pytest.importorskip("hatchling")
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def test_wheel_holds_modules_manifest_and_weights_once(wheel):
    names = names_in(wheel)
    assert {"napari_dmgn/__init__.py", "napari_dmgn/py.typed", "napari_dmgn/napari.yaml"} <= names
    assert {f"napari_dmgn/weights/{name}" for name in WEIGHTS} <= names
    assert {name.partition("/")[0] for name in names} == {
        "napari_dmgn",
        f"napari_dmgn-{__version__}.dist-info",
    }
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("napari_dmgn/napari.yaml") == (ROOT / "napari.yaml").read_bytes()
        assert len(archive.namelist()) == len(names)


def test_wheel_metadata_names_no_napari_no_qt_and_no_torchvision(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"napari_dmgn-{__version__}.dist-info/METADATA").decode()
        entry_points = archive.read(f"napari_dmgn-{__version__}.dist-info/entry_points.txt").decode()
    lines = metadata.splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert any("torch" in line for line in required)
    for unwanted in ("napari", "pyside", "pyqt", "torchvision"):
        assert not any(unwanted in line.lower() for line in required)
    assert "Classifier: Framework :: napari" in lines
    assert "napari-dmgn = napari_dmgn:napari.yaml" in entry_points
    assert "napari-dmgn = napari_dmgn.__main__:main" in entry_points


def test_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, Debian's, has no filters yet; 3.14 wants one.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "LICENSE").is_file()
    assert not (source / "src" / "napari_dmgn" / "napari.yaml").exists()
    assert names_in(build(source, "wheel", tmp_path / "wheel")) == names_in(wheel)


_REPORT = """
import importlib.metadata, json, pathlib
import napari_dmgn
from napari_dmgn.zoo import list_models
package = pathlib.Path(napari_dmgn.__file__).parent
try:
    from npe2 import PluginManifest
    manifest = PluginManifest.from_distribution("napari-dmgn").name
except ImportError:
    manifest = None
print(json.dumps({
    "package": str(package),
    "version": importlib.metadata.version("napari-dmgn"),
    "has manifest": (package / "napari.yaml").is_file(),
    "manifest": manifest,
    "models": [str(model.path) for model in list_models() if model.shipped],
}))
"""


def test_installed_wheel_finds_manifest_and_weights(wheel, tmp_path):
    pytest.importorskip("pip")
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    environment = os.environ | {
        "PYTHONPATH": str(target),
        "PYTHONWARNINGS": "ignore",
        "NAPARI_DMGN_MODELS": str(tmp_path / "none"),
    }
    process = subprocess.run(
        [sys.executable, "-c", _REPORT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(process.stdout.splitlines()[-1])
    package = target / "napari_dmgn"
    assert report["package"] == str(package)
    assert report["version"] == __version__
    assert report["has manifest"]
    assert report["manifest"] in ("napari-dmgn", None)
    assert sorted(report["models"]) == [str(package / "weights" / name) for name in WEIGHTS]
