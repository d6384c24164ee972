"""What the command line says of a broken file is one line of its own, whatever the libraries say."""

import logging
import subprocess
import sys

import numpy as np
import tifffile

from napari_dmgn.cli import main


def test_a_truncated_tiff_is_told_in_one_line(tmp_path, tiny_checkpoint):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:-400])
    command = ["restore", str(path), "-o", str(tmp_path / "out"), "--model", str(tiny_checkpoint)]
    # A process of its own: pytest's handlers would keep the library's words from stderr.
    child = subprocess.run([sys.executable, "-m", "napari_dmgn", *command], capture_output=True, text=True)
    assert child.returncode == 1
    assert child.stderr.startswith("napari-dmgn: error: ")
    assert child.stderr.count("\n") == 1, child.stderr


def test_the_librarys_log_is_as_it_was_afterwards():
    before = logging.getLogger("tifffile").disabled
    assert main(["models", "list"]) == 0
    assert logging.getLogger("tifffile").disabled == before
