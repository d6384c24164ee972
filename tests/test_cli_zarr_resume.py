"""Runs on OME-Zarr that were stopped: what is gone on with, what is done anew, and who may."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.cli import main
from napari_dmgn.files import create_store, open_store, open_to_write
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.lazy import BusyError, Destination, Here, Input, StoreRun, UnfinishedError, destination
from napari_dmgn.lazy.lock import Lock
from napari_dmgn.lazy.recipe import Recipe

zarr = pytest.importorskip("zarr")

PARTS = ("background", "noise", "noise_map")


@pytest.fixture
def source(tmp_path) -> Path:
    path, image = tmp_path / "big.ome.zarr", np.random.default_rng(4).integers(0, 4000, (48, 48), dtype="u2")
    like = ImageFile(array=image)
    create_store(path, shape=image.shape, dtype=image.dtype, axes="YX", chunk=24, like=like, name="big")
    open_to_write(path, "YX")[...] = image
    return path


@pytest.fixture
def command(source, tmp_path, tiny_checkpoint) -> list[str]:
    model = ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]
    return ["restore", str(source), "-o", str(tmp_path / "out.ome.zarr"), "--tile", "16", "--json", *model]


@pytest.fixture
def stop(monkeypatch):
    """Do something that stops after so many windows."""

    def stopping(windows, act):
        real, left = Recipe.restore, iter(range(windows))

        def failing(self, *rest, **options):
            if next(left, None) is None:
                raise OSError("stopped")
            return real(self, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Recipe, "restore", failing)
            return act()

    return stopping


def results(folder: Path, prefix: str = "") -> list[np.ndarray]:
    names = [f"{prefix}{part}.ome.zarr" if prefix else part for part in PARTS]
    return [np.asarray(open_store(folder / name).array) for name in names]


def done_before(capsys) -> int:
    (report,) = json.loads(capsys.readouterr().out)
    return report["provenance"]["windows_done_before"]


def test_overwrite_starts_anew_and_a_plain_run_goes_on(command, stop, capsys):
    for options, done in (([], 3), (["--overwrite"], 0)):
        assert stop(3, lambda: main([*command, "--overwrite"])) == 1
        capsys.readouterr()
        assert main([*command, *options]) == 0
        assert done_before(capsys) == done
        shutil.rmtree(command[3])


def test_pixels_that_were_written_anew_are_not_mixed_with_the_old_ones(command, source, stop, tmp_path, capsys):
    assert stop(3, lambda: main(command)) == 1
    pixels = open_to_write(source, "YX")
    pixels[...] = pixels[...] // 2  # the metadata stay as they are
    capsys.readouterr()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "state of the input's pixels was" in error
    assert error.count("\n") == 1
    assert main([*command, "--overwrite"]) == 0
    fresh = tmp_path / "fresh.ome.zarr"
    assert main([str(fresh) if word == command[3] else word for word in command]) == 0
    for again, straight in zip(results(tmp_path / "out.ome.zarr"), results(fresh), strict=True):
        np.testing.assert_array_equal(again, straight)


def run_of(source, folder, model, overwrite=False, **changes) -> StoreRun:
    paths = {part: folder / f"big_{part}.ome.zarr" for part in PARTS}
    settings = {"model": model, "device": "cpu", "precision": "float32", "tile": 16, "halo": "exact"}
    others = {"rgb": None, "channel_axis": None, "intensity_range": "auto", "dtype": "same"}
    target = Destination.of(folder, paths, "big.ome.zarr")
    return StoreRun(Input(path=str(source)), target, "rain", overwrite=overwrite, **settings | others | changes)


def finish(run: StoreRun) -> dict:
    with closing(run.steps(Here())) as steps:
        for _ in steps:
            pass
    return run.provenance


def test_auto_that_means_another_device_or_precision_today_is_not_mixed_in(
    source, tmp_path, tiny_checkpoint, stop, monkeypatch
):
    auto = {"device": "auto", "precision": "auto"}
    monkeypatch.setattr("napari_dmgn.lazy.recipe.resolve_precision", lambda *_: "float32")
    with pytest.raises(OSError, match="stopped"):
        stop(3, lambda: finish(run_of(source, tmp_path, tiny_checkpoint, **auto)))
    monkeypatch.setattr("napari_dmgn.lazy.recipe.resolve_precision", lambda *_: "bf16")
    run = run_of(source, tmp_path, tiny_checkpoint, **auto)
    with pytest.raises(UnfinishedError, match="precision was 'float32', now 'bf16'"):
        finish(run)
    monkeypatch.setattr("napari_dmgn.lazy.recipe.resolve_precision", lambda *_: "float32")
    assert finish(run)["windows_done_before"] == 3


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_that_was_stopped_while_its_results_were_moved_is_finished(
    moved, older, source, tmp_path, tiny_checkpoint, monkeypatch
):
    straight, folder = tmp_path / "straight", tmp_path / "out"
    finish(run_of(source, straight, tiny_checkpoint))
    if older:
        finish(run_of(source, folder, tiny_checkpoint, intensity_range=(0, 9)))
    real, left = destination._replace, iter(range(moved))

    def failing(made, target, old):
        if next(left, None) is None:
            if target.exists():
                target.rename(old)
            raise KeyboardInterrupt
        real(made, target, old)

    with monkeypatch.context() as patch:
        patch.setattr(destination, "_replace", failing)
        with pytest.raises(KeyboardInterrupt):
            finish(run_of(source, folder, tiny_checkpoint))
    run = run_of(source, folder, tiny_checkpoint)
    assert run.destination.unfinished
    monkeypatch.setattr(Recipe, "restore", None)  # nothing is restored again
    assert finish(run)["windows_done_before"] == 9
    assert not run.destination.unfinished
    for again, wanted in zip(results(folder, "big_"), results(straight, "big_"), strict=True):
        np.testing.assert_array_equal(again, wanted)
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"big_{part}.ome.zarr" for part in PARTS)


def test_the_same_command_finishes_a_run_that_was_stopped_while_moving(source, command, tmp_path, monkeypatch, capsys):
    command = [*command[:3], str(tmp_path / "out"), *command[4:]]  # a folder: each part is moved by itself
    real, left = destination._replace, iter(range(1))

    def failing(*paths):
        if next(left, None) is None:
            raise OSError("stopped")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(destination, "_replace", failing)
        assert main(command) == 1
    monkeypatch.setattr(Recipe, "restore", None)  # nothing is restored again
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"big_{p}.ome.zarr" for p in PARTS)


def test_a_record_whose_images_are_gone_is_no_record(command, stop, tmp_path, capsys):
    assert stop(3, lambda: main(command)) == 1
    shutil.rmtree(tmp_path / ".out.ome.zarr.part" / "noise")
    capsys.readouterr()
    assert main(command) == 0
    assert done_before(capsys) == 0


def test_the_images_say_what_they_were_made_with_in_the_end(command, tmp_path, capsys):
    import torch

    command = [{"cpu": "auto", "float32": "auto"}.get(word, word) for word in command]
    assert main(command) == 0
    (report,) = json.loads(capsys.readouterr().out)
    told = report["provenance"]
    assert told["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert told["precision"] in ("bf16", "float32")
    assert told["torch"] == torch.__version__
    out = tmp_path / "out.ome.zarr"
    for path in (out, *(out / part for part in PARTS)):
        assert dict(zarr.open_group(path, mode="r").attrs)["napari_dmgn"] == told


def gone() -> int:
    """Return the number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("host", "pid"),
    [(socket.gethostname(), os.getpid()), ("another", 1), (None, None)],
    ids=["here", "there", "unknown"],
)
def test_two_runs_do_not_share_a_folder(host, pid, command, tmp_path, capsys):
    lock = tmp_path / ".out.ome.zarr.part.lock"
    lock.write_text(json.dumps({"host": host, "pid": pid}) if host else "")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"another run (process {pid or 'unknown'} on {host or 'an unknown host'}) writes these results" in error
    assert str(lock) in error
    assert sorted(path.name for path in tmp_path.iterdir()) == [lock.name, "big.ome.zarr"]


def test_the_lock_of_a_process_that_is_gone_is_taken_over_and_removed(command, tmp_path, stop):
    lock = tmp_path / ".out.ome.zarr.part.lock"
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": gone()}))
    assert stop(2, lambda: main(command)) == 1
    assert not lock.exists()
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.ome.zarr", "out.ome.zarr"]


def test_a_lock_holds_until_it_is_left(tmp_path):
    path = tmp_path / "new" / "lock"
    with Lock(path):
        with pytest.raises(BusyError), Lock(path):
            pass
        assert path.exists()
    assert not path.exists()
