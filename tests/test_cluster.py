"""A real cluster of two worker processes: the same results, also where a worker dies in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import napari_dmgn as dmgn
from napari_dmgn.cli import main
from napari_dmgn.files import create_store, open_store, open_to_write
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.lazy.recipe import Recipe

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
pytest.importorskip("zarr")

PARTS = ("background", "noise", "noise_map", "coarse")
SETTINGS = {"device": "cpu", "precision": "float32"}


def noise(shape):
    return np.random.default_rng(9).integers(0, 4000, shape, dtype=np.uint16)


def same(found, wanted):
    """Compare up to rounding: workers of one thread add in another order than two threads here, on some processors."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    atol = 1 if found.dtype.kind in "iu" else 1e-6 * max(1, np.abs(wanted).max())
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes of one thread each."""
    before = dict(os.environ)  # Dask sets the workers' limits of threads here too, for every child that comes later
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        os.environ.clear()
        os.environ.update(before)
        client.run(_one_thread)
        yield client


def _one_thread():
    import torch

    torch.set_num_threads(1)


def test_two_worker_processes_equal_one_memory(cluster, tiny_checkpoint):
    image = noise((2, 70, 60))
    settings = SETTINGS | {"model": tiny_checkpoint, "tile": 16}
    lazy = dmgn.restore_lazy(da.from_array(image, chunks=(1, 25, 60)), **settings)
    results = cluster.gather(cluster.compute([getattr(lazy, part) for part in PARTS]))
    expected = dmgn.restore(image, **settings)
    for part, array in zip(PARTS, results, strict=True):
        same(array, getattr(expected, part))


def slowly(block):
    time.sleep(0.1)
    return block


def test_a_killed_worker_is_made_up_for(cluster, tiny_checkpoint):
    image = noise((160, 64))
    settings = SETTINGS | {"model": tiny_checkpoint, "tile": 16, "intensity_range": "dtype"}
    source = da.from_array(image, chunks=(8, 64)).map_blocks(slowly, dtype=image.dtype)
    lazy = dmgn.restore_lazy(source, **settings)
    before = cluster.run(os.getpid)
    futures = cluster.compute([getattr(lazy, part) for part in PARTS])
    time.sleep(0.6)
    assert not any(future.done() for future in futures)
    os.kill(min(before.values()), signal.SIGKILL)
    results = cluster.gather(futures)
    expected = dmgn.restore(image, **settings)
    for part, array in zip(PARTS, results, strict=True):
        same(array, getattr(expected, part))
    cluster.wait_for_workers(2, timeout=30)
    assert set(cluster.run(os.getpid).values()) != set(before.values())


def test_the_command_line_sends_the_windows_of_a_store_to_the_workers(cluster, tiny_checkpoint, tmp_path, capsys):
    image = noise((2, 400, 340))
    source = tmp_path / "big.ome.zarr"
    create_store(
        source, shape=image.shape, dtype=image.dtype, axes="TYX", chunk=100, like=ImageFile(array=image), name="big"
    )
    open_to_write(source, "TYX")[...] = image
    options = ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32", "--tile", "128", "--json"]
    here, there = tmp_path / "here.ome.zarr", tmp_path / "there.ome.zarr"
    assert main(["restore", str(source), "-o", str(here), *options]) == 0
    address = cluster.scheduler_info()["address"]
    words = ["restore", str(source), "-o", str(there), "--scheduler", address, *options]
    # In a process of its own, which has no client but the command's.
    done = subprocess.run([sys.executable, "-m", "napari_dmgn", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"windows": 24' in done.stdout
    for part in ("background", "noise", "noise_map"):
        local, remote = (np.asarray(open_store(folder / part).array) for folder in (here, there))
        assert local.any()
        same(remote, local)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert '"windows": 24' in captured.out
    # What a run here left undone is done there.
    work = tmp_path / ".third.ome.zarr.part"
    frames, gains = iter((1, 2)), Recipe.gains

    def fails_at_the_second_frame(recipe, sums):
        if next(frames) == 2:
            raise OSError("stopped")
        return gains(recipe, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "gains", fails_at_the_second_frame)
        assert main(["restore", str(source), "-o", str(tmp_path / "third.ome.zarr"), *options]) == 1
    assert work.is_dir()
    capsys.readouterr()
    assert main(["restore", str(source), "-o", str(tmp_path / "third.ome.zarr"), "--scheduler", address, *options]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["provenance"]["windows_done_before"] == 12
    same(np.asarray(open_store(tmp_path / "third.ome.zarr").array), np.asarray(open_store(here).array))
