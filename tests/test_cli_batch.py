"""Many images in one command: what is found, where results go, what is skipped, and what fails."""

import json
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.cli import main
from napari_dmgn.cli.common import UsageError
from napari_dmgn.cli.sources import Source, find_sources
from napari_dmgn.files import read_image, write_image
from napari_dmgn.lazy.overlap import overlapped

PARTS = ("background", "noise", "noise_map")


@pytest.fixture
def folder(tmp_path):
    """Pictures in a folder and below it, with things beside them that are none."""
    root = tmp_path / "in"
    for name in ("b.png", "a.tif", "day1/a.png", "day1/deep/c.PNG", "day2/a.png", ".hidden/d.png", ".e.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((8, 9), len(name), np.uint8))
    (root / "notes.txt").write_text("nothing")
    (root / "day3.png").mkdir()
    return root


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]


def found(root: Path, words, **options) -> list[tuple[str, str]]:
    return [
        (source.path.relative_to(root).as_posix(), source.folder.as_posix())
        for source in find_sources(words, **options)
    ]


def test_a_folder_names_the_images_inside_and_recursive_those_below(folder):
    assert found(folder, [folder]) == [("a.tif", "."), ("b.png", ".")]
    below = [("day1/a.png", "day1"), ("day1/deep/c.PNG", "day1/deep"), ("day2/a.png", "day2")]
    assert found(folder, [folder], recursive=True) == [("a.tif", "."), ("b.png", "."), *below]


def test_patterns_are_expanded_where_the_shell_has_not(folder, monkeypatch):
    assert found(folder, [folder / "*.png"]) == [("b.png", ".")]
    assert found(folder, [folder / "day?/*.png"]) == [("day1/a.png", "."), ("day2/a.png", ".")]
    assert found(folder, [folder / "**/c.*"], recursive=True) == [("day1/deep/c.PNG", "day1/deep")]
    below = [("b.png", "."), ("day1/a.png", "day1"), ("day1/deep/c.PNG", "day1/deep"), ("day2/a.png", "day2")]
    assert found(folder, [folder / "*.[pP][nN][gG]"], recursive=True) == below
    assert found(folder, [folder / "day1*"], recursive=True) == below[1:3]  # as where the shell has expanded it
    assert found(folder, [folder / "*.[pP]*"], recursive=True, output=folder / "day1") == [below[0], below[3]]
    monkeypatch.chdir(folder)
    assert [source.path for source in find_sources(["day*/a.png", "./b.png", "b.png"])] == [
        Path("day1/a.png"),
        Path("day2/a.png"),
        Path("b.png"),
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    path = folder / "b[1].png"
    path.write_bytes((folder / "b.png").read_bytes())
    assert find_sources([path]) == [Source(path=path)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("*.jpg", "no image (.png, .jpg, .jpeg, .tif, .tiff, .webp, .bmp) matches"),
        ("none.png", "no such file"),
        ("day3.png", "no image (.png, .jpg, .jpeg, .tif, .tiff, .webp, .bmp) in the folder"),
        ("notes.txt", "expected one of"),
    ],
)
def test_a_word_that_names_nothing_is_told(folder, word, message):
    with pytest.raises(UsageError) as caught:
        find_sources([folder / word])
    assert message in str(caught.value)


def test_the_folder_of_results_is_not_looked_into(folder):
    before = found(folder, [folder], recursive=True)
    (folder / "out").mkdir()
    write_image(folder / "out" / "b_noise.png", np.zeros((8, 9), np.uint8))
    assert found(folder, [folder], recursive=True, output=folder / "out") == before
    assert len(found(folder, [folder], recursive=True)) == len(before) + 1


def test_a_tree_is_restored_into_a_tree_and_then_skipped(folder, model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["restore", str(folder), "-o", str(out), "--recursive", *model]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("5 images: 5 restored, 0 skipped, 0 failed\n")
    stems = ("a", "b", "day1/a", "day1/deep/c", "day2/a")
    suffixes = (".tif", ".png", ".png", ".PNG", ".png")
    expected = {f"{stem}_{part}{suffix}" for stem, suffix in zip(stems, suffixes, strict=True) for part in PARTS}
    written = {path.relative_to(out).as_posix(): path for path in out.rglob("*.*")}
    assert set(written) == expected
    first = {name: path.stat().st_mtime_ns for name, path in written.items()}
    for path in out.glob("day1/a_*"):
        path.unlink()
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("5 images: 1 restored, 4 skipped, 0 failed\n")
    assert printed.out.count("skipped, results of this name exist") == 4
    assert printed.err == ""
    again = {name: path.stat().st_mtime_ns for name, path in written.items()}
    assert {name for name in first if again[name] != first[name]} == {f"day1/a_{part}.png" for part in PARTS}


def test_skipping_needs_no_network(folder, model, tmp_path, monkeypatch, capsys):
    arguments = ["restore", str(folder / "*.png"), "-o", str(tmp_path / "out"), "--json", *model]
    assert main(arguments) == 0
    assert "skipped" not in json.loads(capsys.readouterr().out)[0]
    monkeypatch.setattr("napari_dmgn.api.restore", None)
    assert main(arguments) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["skipped"] is True
    assert set(report["outputs"]) == set(PARTS)


def test_results_of_which_some_are_missing_are_not_taken_for_done(folder, model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["restore", str(folder), "-o", str(out), *model]
    assert main(arguments) == 0
    (out / "b_noise_map.png").unlink()
    capsys.readouterr()
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "'b_noise_map.png' does not; pass --overwrite" in printed.err
    assert printed.out.endswith("2 images: 0 restored, 1 skipped, 1 failed\n")
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "b_noise_map.png").exists()


def test_a_folder_that_holds_its_own_results_is_done_once(folder, model, capsys):
    arguments = ["restore", str(folder), "-o", str(folder), *model]
    assert main(arguments) == 0
    before = sorted(folder.iterdir())
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("2 images: 0 restored, 2 skipped, 0 failed\n")
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_holds_its_own_masks_is_done_once(folder, model, capsys):
    # Of no image here, and a segmentation of one.
    for name in ("other_mask_refine-1.tif", "a_mask_1.tif"):
        (folder / name).write_bytes((folder / "a.tif").read_bytes())
    arguments = ["restore", str(folder), "-o", str(folder), "--masks", *model]
    assert main(arguments) == 0
    assert len(list(folder.glob("a_mask_*.tif"))) > 2
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("4 images: 0 restored, 4 skipped, 0 failed\n")


def test_one_bad_file_is_told_last_and_the_others_are_restored(folder, model, tmp_path, capsys):
    (folder / "aa.png").write_text("no picture")
    (folder / "day1" / "a.png").write_bytes(b"")
    out = tmp_path / "out"
    assert main(["restore", str(folder), "-o", str(out), "--recursive", *model]) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert [line.split(": ")[2] for line in lines] == [str(folder / "aa.png"), str(folder / "day1" / "a.png")]
    assert printed.out.endswith("6 images: 4 restored, 0 skipped, 2 failed\n")
    assert len(list(out.rglob("*_noise_map.*"))) == 4
    np.testing.assert_array_equal(read_image(out / "b_background.png").array.shape, (8, 9))


def test_reading_and_writing_overlap_with_the_work():
    """While item 1 is at work, item 2 has been read and item 0 is being written."""
    at_work, read_two = threading.Event(), threading.Event()
    read, wrote = [], []

    def reader(item):
        read.append(item)
        if item == 2:
            read_two.set()
        return item

    def worker(item, value):
        if item == 1:
            at_work.set()
            assert read_two.wait(10)
        assert len(read) <= item + 2  # never more than one ahead
        return 10 * value

    def writer(item, value):
        if item == 0:
            assert at_work.wait(10)  # it would wait for ever if the work waited for it
        wrote.append(item)
        return value + 1

    outcomes = list(overlapped(range(4), read=reader, work=worker, write=writer))
    assert outcomes == [(item, 10 * item + 1) for item in range(4)]
    assert wrote == [0, 1, 2, 3]


STEPS = {
    "read": lambda item: item,
    "work": lambda item, value: value,
    "write": lambda item, value: value,
}


def failing(step, error) -> dict:
    """Steps of which one fails at item 1."""

    def fails(item, *_):
        if item == 1:
            raise error
        return item

    return STEPS | {step: fails}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error",
    [OSError("full"), EOFError(), zlib.error("-3"), RuntimeError("CUDA"), ModuleNotFoundError(name="x"), KeyError(1)],
)
def test_an_item_that_fails_stops_no_other(step, error):
    assert list(overlapped([0, 1, 2], **failing(step, error))) == [(0, 0), (1, error), (2, 2)]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_stops_all_but_what_was_done_is_told(step):
    outcomes = overlapped([0, 1, 2], **failing(step, KeyboardInterrupt()))
    assert next(outcomes) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


def test_an_error_of_the_network_is_told_with_the_file_and_the_others_are_restored(
    folder, model, tmp_path, monkeypatch, capsys
):
    import napari_dmgn.api as api

    real, calls = api.restore, iter(range(9))

    def fails_once(*arguments, **options):
        if next(calls) == 0:
            raise RuntimeError("CUDA error: an illegal memory access")
        return real(*arguments, **options)

    monkeypatch.setattr(api, "restore", fails_once)
    assert main(["restore", str(folder), "-o", str(tmp_path / "out"), *model]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert str(folder / "a.tif") in line
    assert "illegal memory access" in line
    assert printed.out.endswith("2 images: 1 restored, 0 skipped, 1 failed\n")
