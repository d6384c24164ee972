"""The direction of imports, held by import-linter's contracts in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way():
    pytest.importorskip("importlinter")
    folders = [str(Path(sys.executable).parent), os.defpath]
    command = shutil.which("lint-imports", path=os.pathsep.join(folders))
    assert command, "lint-imports is not beside this Python"
    process = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def test_contract_of_the_layers_covers_every_module():
    import tomllib

    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert contract["exhaustive"] is True
    named = {word.strip("() ") for layer in contract["layers"] for word in layer.split("|")}
    package = ROOT / "src" / "napari_dmgn"
    present = {path.stem for path in package.glob("*.py")} - {"__init__"}
    present |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert present <= named
