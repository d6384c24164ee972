"""The package root: lazy, and exactly what `__all__` says."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import napari_dmgn

HEAVY = {"torch", "napari", "qtpy", "PySide6", "magicgui", "superqt"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines()[-1].split())


def imports_for_type_checkers() -> dict[str, str]:
    """The names that `__init__` imports under TYPE_CHECKING, with their modules."""
    tree = ast.parse(Path(napari_dmgn.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    return {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


@pytest.mark.parametrize("name", napari_dmgn.__all__)
def test_every_public_name_resolves(name):
    assert getattr(napari_dmgn, name) is not None
    assert name in dir(napari_dmgn)


def test_lazy_names_are_what_all_says_and_what_type_checkers_see():
    for_type_checkers = imports_for_type_checkers()
    assert {*for_type_checkers, "__version__"} == set(napari_dmgn.__all__)
    for name, module in for_type_checkers.items():
        assert getattr(napari_dmgn, name) is getattr(importlib.import_module(module), name)


def test_all_is_sorted_and_without_repeats():
    assert napari_dmgn.__all__ == sorted(set(napari_dmgn.__all__))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'resture'"):
        _ = napari_dmgn.resture


def test_import_loads_nothing_heavy():
    assert loaded_after("import napari_dmgn").isdisjoint(HEAVY | {"numpy", "skimage", "PIL", "tifffile", "dask"})


def test_listing_models_needs_no_torch():
    assert loaded_after("import napari_dmgn; napari_dmgn.list_models()").isdisjoint(HEAVY)


def test_help_loads_no_torch_and_no_napari():
    statement = "from napari_dmgn.cli import main; main(['restore', '--help'])"
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_restore_needs_no_napari_and_no_qt():
    assert loaded_after("from napari_dmgn.api import restore").isdisjoint(HEAVY)


def test_restoring_loads_no_compiler():
    # torch's takes seconds, and holds up whoever waits for Python's lock; sympy is what only it needs.
    statement = "import numpy, napari_dmgn; napari_dmgn.restore(numpy.zeros((16, 16, 3), numpy.uint8), device='cpu')"
    assert "sympy" not in loaded_after(statement)


def test_version_is_the_one_that_is_installed():
    from importlib import metadata

    try:
        installed = metadata.version("napari-dmgn")
    except metadata.PackageNotFoundError:
        pytest.skip("runs from a source tree that is not installed")
    assert installed == napari_dmgn.__version__
