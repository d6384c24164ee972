"""What shells, batch systems and disks do to a command: odd names, signals, closed outputs, locked folders."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.cli import main
from napari_dmgn.cli.sources import find_sources
from napari_dmgn.files import read_image, write_image

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.png", "c.png"):
        write_image(root / name, PICTURE)
    return root


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]


def child(*words, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    environment = dict(pipes.pop("env", os.environ))
    environment.pop("PYTHONUNBUFFERED", None)  # users' output waits for the end of a command
    pipes["env"] = environment
    return subprocess.Popen([sys.executable, "-m", "napari_dmgn", *map(str, words)], **pipes)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_name_that_is_no_text_stops_no_batch(folder, model, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/b\xe9.png"))
    write_image(odd, PICTURE)
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    run = child("restore", folder, "-o", tmp_path / "out", *model, env=environment)
    out, err = run.communicate()
    assert run.returncode == 0, err
    assert b"b\\udce9.png -> " in out
    assert b"3 images: 3 restored" in out
    for wish in (["--clean"], ["--synthetic", "rain", "--parts", "light", "--pairs", "3"]):
        words = ["evaluate", str(folder), *wish, "--overwrite", "-o", str(tmp_path / "report"), *model]
        assert main(words) == 0
        assert "b\\udce9" in (tmp_path / "report" / "report.md").read_text()


def test_a_locked_folder_is_told_and_the_rest_is_done(folder, model, tmp_path, monkeypatch, capsys):
    locked, iterdir = folder / "locked", Path.iterdir
    locked.mkdir()

    def refused(path):
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refused)  # permissions bind no tests that run as root
    with pytest.warns(UserWarning, match=r"left out: .*locked: Permission denied"):
        found = find_sources([folder], recursive=True)
    assert len(found) == 2
    assert main(["restore", str(folder), "-o", str(tmp_path / "out"), *model]) == 0
    assert "2 images: 2 restored" in capsys.readouterr().out


def test_a_link_that_leads_nowhere_fails_and_the_others_are_restored(folder, model, tmp_path, capsys):
    (folder / "b.png").symlink_to(tmp_path / "gone.png")
    assert main(["restore", str(folder), "-o", str(tmp_path / "out"), *model]) == 1
    said = capsys.readouterr()
    assert "3 images: 2 restored, 0 skipped, 1 failed" in said.out
    assert "no such file" in said.err
    assert "b.png" in said.err


@pytest.mark.parametrize("words", [["", "-o", "OUT"], ["IN", "-o", ""]])
@pytest.mark.parametrize("command", ["restore", "synthesize"])
def test_an_empty_name_is_not_the_current_folder(command, words, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    places = {"IN": str(folder / "a.png"), "OUT": str(tmp_path / "out")}
    assert main([command, *(places.get(word, word) for word in words)]) == 2
    assert "an empty name" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "c.png"]
    assert not (tmp_path / "out").exists()


def test_masks_of_two_images_do_not_replace_each_other(folder, model, tmp_path, capsys):
    write_image(folder / "a.tif", PICTURE)
    words = ["restore", str(folder), "-o", str(tmp_path / "out"), "--overwrite", *model]
    assert main([*words, "--masks"]) == 2
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(words) == 0  # without masks the suffixes tell them apart


@pytest.mark.parametrize("name", ["n" * 235, "文" * 78])
def test_the_longest_name_is_written(name, tmp_path):
    path = tmp_path / f"{name}_noise_map.png"
    assert len(os.fsencode(path.name)) > 245
    write_image(path, PICTURE)
    np.testing.assert_array_equal(read_image(path).array, PICTURE)


def test_results_do_not_go_into_the_input_store(tmp_path, model, capsys):
    zarr = pytest.importorskip("zarr")
    store = tmp_path / "in.zarr"
    zarr.create_array(store=store, data=PICTURE[..., 0])
    before = sorted(store.rglob("*"))
    for target in (store, store / "x", store / "x.ome.zarr"):
        assert main(["restore", str(store), "-o", str(target), *model]) == 2, target
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(store.rglob("*")) == before


def test_a_store_without_a_suffix_has_results_with_one(tmp_path, model):
    zarr = pytest.importorskip("zarr")
    for name in ("plain", "data.2024"):
        zarr.create_array(store=tmp_path / name, data=PICTURE[..., 0])
        assert main(["restore", str(tmp_path / name), "-o", str(tmp_path / "out"), *model]) == 0
        assert (tmp_path / "out" / f"{name}_background.ome.zarr").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_batch_that_is_stopped_answers_and_leaves_nothing_half_written(number, status, folder, tmp_path):
    for i in range(40):
        write_image(folder / f"p{i:02}.png", np.tile(PICTURE, (8, 8, 1)))
    out = tmp_path / "out"
    # A shell's background jobs, which a suite may be, ignore SIGINT, and so would their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = child("restore", folder, "-o", out, "--device", "cpu", "--json")
    finally:
        signal.signal(signal.SIGINT, before)
    while not (out.is_dir() and list(out.iterdir())):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    answer, said = run.communicate(timeout=60)
    assert run.returncode == status, said
    assert b"stopped" in said
    assert b"Traceback" not in said
    reports = json.loads(answer)
    assert len(reports) == 42
    assert any(report.get("error") == "stopped" for report in reports)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_program_keeps_its_own_handler_of_sigterm(capsys):
    def own(*_):
        """The program's."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        assert main(["models", "list"]) == 0
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert main(["models", "list"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_while_the_program_is_loaded_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins\n"
        "original = builtins.__import__\n"
        "def stopped(name, *args, **kwargs):\n"
        "    if name == 'napari_dmgn.cli':\n"
        "        raise KeyboardInterrupt\n"
        "    return original(name, *args, **kwargs)\n"
        "builtins.__import__ = stopped\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    run = child("models", "list", env=os.environ | {"PYTHONPATH": paths})
    out, err = run.communicate()
    assert (run.returncode, out, err) == (130, b"", b"napari-dmgn: error: stopped\n")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
def test_a_closed_stdout_is_no_error(folder, model, tmp_path):
    words = ["restore", str(folder / "a.png"), "-o", str(tmp_path / "out"), *model]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "napari_dmgn", *words]
    run = subprocess.run(command, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert b"Error" not in run.stderr
    assert (tmp_path / "out" / "a_background.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("--version", 0), ("models", 1)])
def test_an_output_that_takes_nothing_ends_in_one_line_at_most(word, status):
    words = [word, "list"] if word == "models" else [word]
    with Path("/dev/full").open("w") as full:
        run = child(*words, stdout=full)
        said = run.communicate()[1]
    assert run.returncode == status, said
    assert said.count(b"\n") <= 1
    assert b"Traceback" not in said


def test_verify_goes_on_after_a_broken_model(tiny_checkpoint, tmp_path, capsys):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    assert main(["models", "verify", str(tiny_checkpoint), str(broken), "none-such", str(tiny_checkpoint)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in said) == ["BROKEN", "BROKEN", "ok", "ok"]


@pytest.mark.parametrize("action", [["average", "rain", "rain"], ["new", "--preset", "compact"]])
def test_models_are_written_only_where_they_are_found(action, tmp_path, capsys):
    assert main(["models", *action, "-o", str(tmp_path / "model.txt")]) == 2
    assert "a model is a .safetensors file" in capsys.readouterr().err
    (tmp_path / "x.safetensors").mkdir()
    assert main(["models", *action, "-o", str(tmp_path / "x.safetensors"), "--overwrite"]) == 2
    assert "is a folder; a file is wanted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_model_left_out_is_told_once(folder, tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    (models / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(models))
    run = child("restore", folder / "a.png", "-o", tmp_path / "out", "--model", "none-such")
    said = run.communicate()[1].decode().splitlines()
    assert run.returncode in (1, 2)
    assert len([line for line in said if "left out" in line]) == 1, said


def test_benchmark_takes_the_task_of_each_model(capsys):
    assert main(["benchmark", "--models", "haze", "--size", "32x32", "--repeat", "1", "--device", "cpu"]) == 0
    assert "was trained for" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "1.5", "9" * 23])
def test_seeds_that_cannot_be_are_wrong_arguments(seed, folder, tmp_path, capsys):
    words = ["synthesize", str(folder / "a.png"), "-o", str(tmp_path / "out"), f"--seed={seed}"]
    assert main(words) == 2
    assert "expected a whole number from 0 to" in capsys.readouterr().err
