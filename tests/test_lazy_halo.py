"""Windows in OME-Zarr runs that differ from a whole image tell by how much."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import napari_dmgn as dmgn
from napari_dmgn import checkpoint
from napari_dmgn.cli import main
from napari_dmgn.files import create_store, open_store, open_to_write
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.lazy.recipe import Recipe
from napari_dmgn.model.network import DMGN

pytest.importorskip("zarr")


@pytest.fixture
def restored(tmp_path, capsys):
    """Restore a (128, 96) image of floats in [0, 1], and return its provenance."""
    image, source = np.random.default_rng(3).random((128, 96), np.float32), tmp_path / "big.ome.zarr"
    create_store(
        source, shape=image.shape, dtype=image.dtype, axes="YX", chunk=32, like=ImageFile(array=image), name="big"
    )
    open_to_write(source, "YX")[...] = image

    def run(model, *options):
        settings = ["--model", str(model), "--device", "cpu", "--precision", "float32", "--range", "0,1"]
        out = tmp_path / "out.ome.zarr"
        assert main(["restore", str(source), "-o", str(out), "--json", "--overwrite", *settings, *options]) == 0
        return image, np.asarray(open_store(out).array), json.loads(capsys.readouterr().out)[0]["provenance"]

    return run


@pytest.fixture
def corners(tiny_network, tmp_path):
    """A model whose result depends on where a pixel lies."""
    path = tmp_path / "corners.safetensors"
    network = DMGN(replace(tiny_network.config, align_corners=True))
    network.load_state_dict(tiny_network.state_dict())
    checkpoint.save(path, network, task="rain", card={"name": "corners", "licence": "BSD-3-Clause"})
    return path


def test_the_error_of_a_halo_is_measured_at_three_windows(restored, tiny_checkpoint, monkeypatch):
    real, measured = Recipe.restore, []

    def counting(self, *arguments, **options):
        outcome = real(self, *arguments, **options)
        measured.append(outcome.halo_error)
        return outcome

    monkeypatch.setattr(Recipe, "restore", counting)
    image, _, told = restored(tiny_checkpoint, "--tile", "32", "--halo", "0")
    errors = [error for error in measured if error is not None]
    assert (len(measured), len(errors)) == (12, 3)
    assert told["halo_error"] == max(errors) > 0
    # Here `restore` cuts the image in the same places, and measures at the same three.
    settings = {"tile": 32, "halo": 0, "device": "cpu", "precision": "float32", "intensity_range": (0, 1)}
    wanted = dmgn.restore(image, model=tiny_checkpoint, **settings).provenance
    assert told["halo_error"] == pytest.approx(wanted["halo_error"], rel=1e-4)
    assert told["fallbacks"] == []


@pytest.mark.parametrize("options", [["--tile", "32"], ["--tile", "none", "--halo", "0"]])
def test_exact_windows_have_no_error_to_tell(options, restored, tiny_checkpoint):
    assert "halo_error" not in restored(tiny_checkpoint, *options)[2]


def test_a_network_that_depends_on_positions_tells_the_number(restored, corners):
    told = restored(corners, "--tile", "32", "--halo", "8")[2]
    (text,) = told["fallbacks"]
    assert told["halo_error"] > 0
    assert text.startswith("tiles are approximate")
    assert text.endswith(f"; twice the halo changed a pixel by {told['halo_error']:.1e} at most")


def test_where_the_wider_window_does_not_fit_the_result_is_the_same_and_it_is_told(
    restored, tiny_checkpoint, monkeypatch
):
    from napari_dmgn.lazy import recipe

    wanted = restored(tiny_checkpoint, "--tile", "32", "--halo", "0")[1]
    monkeypatch.setattr(recipe, "try_once", lambda *_: ([], torch.OutOfMemoryError("full")))
    _, found, told = restored(tiny_checkpoint, "--tile", "32", "--halo", "0")
    np.testing.assert_array_equal(found, wanted)
    assert "halo_error" not in told
    assert told["fallbacks"] == ["out of memory: the halo's error was not measured everywhere"]
