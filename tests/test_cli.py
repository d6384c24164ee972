"""The command line: what it writes, what it says, and how it fails."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import napari_dmgn as dmgn
from napari_dmgn.cli import jobs, main
from napari_dmgn.files import read_image, write_image
from napari_dmgn.images import unit_to_dtype
from napari_dmgn.metrics import psnr_y

PARTS = ("background", "noise", "noise_map")


@pytest.fixture
def picture(tmp_path, rainy):
    """A rainy PNG, alone in its folder."""
    path = tmp_path / "in" / "rainy.png"
    path.parent.mkdir()
    write_image(path, rainy)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def png_without_pixels() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 0, 4, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def restored(out: Path, stem: str, suffix: str) -> dict[str, np.ndarray]:
    return {part: read_image(out / f"{stem}_{part}{suffix}").array for part in PARTS}


# What goes wrong: one line, exit status 1 or 2, nothing written.


class Broken:
    """Files that a person may give by mistake, each made in a folder."""

    @staticmethod
    def missing(folder, _):
        return [folder / "absent.png"]

    @staticmethod
    def text_named_png(folder, _):
        path = folder / "notes.png"
        path.write_text("not a picture\n")
        return [path]

    @staticmethod
    def empty_file(folder, _):
        path = folder / "empty.tif"
        path.touch()
        return [path]

    @staticmethod
    def no_pixels(folder, _):
        path = folder / "none.png"
        path.write_bytes(png_without_pixels())
        return [path]

    @staticmethod
    def unknown_suffix(folder, _):
        path = folder / "picture.gif"
        path.write_bytes(b"GIF89a")
        return [path]

    @staticmethod
    def empty_folder(folder, _):
        path = folder / "nothing"
        path.mkdir()
        return [path]

    @staticmethod
    def five_axes(folder, _):
        import tifffile

        path = folder / "five.tif"
        tifffile.imwrite(path, np.zeros((2, 2, 2, 9, 9), np.uint8), photometric="minisblack")
        return [path]

    @staticmethod
    def unknown_task(_, picture):
        return [picture, "--task", "rian"]

    @staticmethod
    def task_without_model(_, picture):
        return [picture, "--task", "haze"]

    @staticmethod
    def unknown_model(_, picture):
        return [picture, "--model", "rainy"]

    @staticmethod
    def missing_checkpoint(folder, picture):
        return [picture, "--model", folder / "absent.safetensors"]

    @staticmethod
    def truncated_checkpoint(folder, picture, tiny_checkpoint):
        path = folder / "short.safetensors"
        path.write_bytes(tiny_checkpoint.read_bytes()[:-100])
        return [picture, "--model", path]

    @staticmethod
    def foreign_checkpoint(folder, picture):
        path = folder / "foreign.safetensors"
        save_file({"weight": np.zeros(3, np.float32)}, path)
        return [picture, "--model", path]

    @staticmethod
    def pickle(folder, picture):
        path = folder / "model.pth"
        path.write_bytes(b"\x80\x04N.")
        return [picture, "--model", path]

    @staticmethod
    def unknown_device(_, picture):
        return [picture, "--device", "abacus"]

    @staticmethod
    def tile_of_nothing(_, picture):
        return [picture, "--tile", "0"]

    @staticmethod
    def range_of_one_number(_, picture):
        return [picture, "--range", "3"]

    @staticmethod
    def range_backwards(_, picture):
        return [picture, "--range", "9,3"]

    @staticmethod
    def float_png(_, picture):
        return [picture, "--dtype", "float32"]

    @staticmethod
    def twice_the_same_name(folder, picture):
        other = folder / "other" / picture.name
        other.parent.mkdir()
        other.write_bytes(picture.read_bytes())
        return [picture, other]

    @staticmethod
    def unknown_option(_, picture):
        return [picture, "--sharpen"]

    @staticmethod
    def channel_axis_out_of_range(_, picture):
        return [picture, "--channel-axis", "7"]


KINDS = sorted(name for name in vars(Broken) if not name.startswith("_"))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_one_line_and_writes_nothing(kind, tmp_path, picture, out, tiny_checkpoint, capsys, monkeypatch):
    make = getattr(Broken, kind)
    if kind == "task_without_model":
        monkeypatch.setattr("napari_dmgn.zoo._shipped_folder", lambda: tmp_path / "nothing")
    extra = [tiny_checkpoint] if kind == "truncated_checkpoint" else []
    arguments = [str(word) for word in make(tmp_path, picture, *extra)]
    if "--model" not in arguments and kind != "task_without_model":
        arguments += ["--model", str(tiny_checkpoint)]
    before = snapshot(tmp_path)
    status = main(["restore", *arguments, "-o", str(out)])
    printed = capsys.readouterr()
    assert status in (1, 2)
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("napari-dmgn: error: ")
    assert "Traceback" not in printed.err
    assert not out.exists()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("argv", [[], ["restroe"], ["restore"], ["restore", "x.png"], ["models"], ["--no-such"]])
def test_wrong_arguments_are_one_line_and_status_2(argv, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("napari-dmgn: error: ")


def test_a_batch_keeps_its_memory_from_image_to_image(picture, model, out, monkeypatch):
    from napari_dmgn.inference import memory

    trims = []
    libc = SimpleNamespace(mallopt=lambda *_: 1, malloc_trim=trims.append)
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    shutil.copy(picture, picture.with_name("other.png"))
    assert main(["restore", str(picture.parent), "-o", str(out), *model]) == 0
    assert len(list(out.iterdir())) == 2 * len(PARTS)
    assert trims == [0]


def test_output_folder_that_is_a_file(picture, model, tmp_path, capsys):
    target = tmp_path / "file"
    target.write_text("mine")
    assert main(["restore", str(picture), "-o", str(target), *model]) == 2
    assert "is a file" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_existing_results_are_kept_unless_told_otherwise(picture, model, out, capsys):
    arguments = ["restore", str(picture), "-o", str(out), *model]
    assert main(arguments) == 0
    (out / "rainy_background.png").write_bytes(b"mine")
    assert main(arguments) == 0
    assert "skipped, results of this name exist (--overwrite" in capsys.readouterr().out
    assert (out / "rainy_background.png").read_bytes() == b"mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "rainy_background.png").read_bytes() != b"mine"


def test_no_result_replaces_an_input(picture, model, capsys):
    clash = picture.with_name("rainy_noise.png")
    clash.write_bytes(picture.read_bytes())
    arguments = ["restore", str(picture), str(clash), "-o", str(picture.parent), "--overwrite", *model]
    assert main(arguments) == 2
    assert "replace an input" in capsys.readouterr().err
    assert clash.read_bytes() == picture.read_bytes()


def fails_at_the_map(path, array, **arguments):
    if "noise_map" in path.name:
        raise OSError(28, "No space left on device", str(path))
    write_image(path, array, **arguments)


def test_failure_while_writing_leaves_none_of_the_results(picture, model, out, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "write_image", fails_at_the_map)
    assert main(["restore", str(picture), "-o", str(out), *model]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not any(out.iterdir())


def test_failure_while_replacing_keeps_all_earlier_results(picture, model, out, monkeypatch):
    arguments = ["restore", str(picture), "-o", str(out), *model]
    assert main(arguments) == 0
    for path in out.iterdir():
        path.write_bytes(b"earlier")
    before = snapshot(out)
    monkeypatch.setattr(jobs, "write_image", fails_at_the_map)
    assert main([*arguments, "--overwrite"]) == 1
    assert snapshot(out) == before


def test_one_broken_file_among_good_ones(picture, model, out, capsys):
    bad = picture.with_name("bad.png")
    bad.write_text("not a picture")
    assert main(["restore", str(picture.parent), "-o", str(out), "--json", *model]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert str(bad) in printed.err
    first, second = json.loads(printed.out)
    assert first["input"] == str(bad)
    assert "error" in first
    assert sorted(path.name for path in out.iterdir()) == sorted(f"rainy_{part}.png" for part in PARTS)
    assert set(second["outputs"]) == set(PARTS)


def test_traceback_only_with_debug(picture, model, out, monkeypatch, capsys):
    def breaks(*_, **__):
        raise RuntimeError("a bug\nof two lines")

    monkeypatch.setattr("napari_dmgn.api.restore", breaks)
    arguments = ["restore", str(picture), "-o", str(out), *model]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "RuntimeError: a bug of two lines" in error
    for argv in ([*arguments, "--debug"], ["--debug", *arguments]):
        assert main(argv) == 1
        assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_one_line_and_writes_nothing(picture, model, out, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_dmgn.api.restore", interrupted)
    assert main(["restore", str(picture), "-o", str(out), *model]) == 130
    assert capsys.readouterr().err == "napari-dmgn: error: stopped\n"
    assert not out.exists()


def test_warnings_are_single_lines(picture, model, out, monkeypatch, capsys, recwarn):
    import warnings

    real = dmgn.restore

    def warns(*arguments, **keywords):
        warnings.warn("out of memory:\nsmaller tiles", RuntimeWarning, stacklevel=1)
        return real(*arguments, **keywords)

    warnings.simplefilter("always")
    monkeypatch.setattr("napari_dmgn.api.restore", warns)
    assert main(["restore", str(picture), "-o", str(out), *model]) == 0
    assert capsys.readouterr().err == "napari-dmgn: warning: out of memory: smaller tiles\n"


# What goes right.


def test_restore_writes_what_python_returns(picture, rainy, model, tiny_checkpoint, out, capsys):
    assert main(["restore", str(picture), "-o", str(out), *model]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert str(out / "rainy_background.png") in printed.out
    expected = dmgn.restore(rainy, model=tiny_checkpoint, device="cpu", precision="float32")
    results = restored(out, "rainy", ".png")
    np.testing.assert_array_equal(results["background"], expected.background)
    np.testing.assert_array_equal(results["noise"], np.clip(np.rint(expected.noise), 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(results["noise_map"], np.rint(expected.noise_map * 255).astype(np.uint8))


PICTURES = {
    "rgb8.png": ((9, 12, 3), np.uint8),
    "rgba8.png": ((9, 12, 4), np.uint8),
    "gray8.png": ((9, 12), np.uint8),
    "gray16.png": ((9, 12), np.uint16),
    "rgb16.png": ((9, 12, 3), np.uint16),
    "photo.jpg": ((9, 12, 3), np.uint8),
    "rgb16.tif": ((9, 12, 3), np.uint16),
    "gray.tiff": ((9, 12), np.float32),
    "stack.tif": ((2, 9, 12), np.uint16),
    "one.png": ((1, 1, 3), np.uint8),
    "seven.png": ((7, 5, 3), np.uint8),
    "long.tif": ((3000, 17), np.uint8),
}


@pytest.mark.parametrize("name", PICTURES)
def test_results_have_the_type_and_size_of_the_input(name, tmp_path, model, out):
    shape, dtype = PICTURES[name]
    random = np.random.default_rng(5)
    high = 1 if dtype is np.float32 else np.iinfo(dtype).max
    image = (random.random(shape) * high).astype(dtype)
    source = tmp_path / name
    write_image(source, image)
    assert main(["restore", str(source), "-o", str(out), *model]) == 0
    results = restored(out, source.stem, ".png" if source.suffix == ".jpg" else source.suffix)
    colour = shape[-1] in (3, 4) and len(shape) == 3
    assert results["background"].shape == shape
    assert results["noise"].shape == ((*shape[:2], 3) if colour else shape)
    assert results["noise_map"].shape == (shape[:2] if colour else shape)
    assert {array.dtype for array in results.values()} == {np.dtype(dtype)}
    assert len(list(out.iterdir())) == 3


def test_ome_tiffs_stay_ome_tiffs(tmp_path, model, out):
    import tifffile

    source = tmp_path / "cells.ome.tif"
    sizes = {"PhysicalSizeX": "0.25", "PhysicalSizeXUnit": "µm"}
    image = np.random.default_rng(8).integers(0, 4000, (2, 9, 12), dtype=np.uint16)
    tifffile.imwrite(source, image, ome=True, metadata={"axes": "ZYX", **sizes}, photometric="minisblack")
    assert main(["restore", str(source), "-o", str(out), "--masks", *model]) == 0
    names = {path.name for path in out.iterdir() if "mask_" not in path.name}
    assert names == {f"cells_{part}.ome.tif" for part in PARTS}
    assert (out / "cells_mask_refine-1.tif").is_file()
    for name in names:
        written = read_image(out / name)
        assert written.axes == "ZYX"
        assert sizes.items() <= written.metadata["ome"].items()


def test_dtype_option(picture, model, out):
    assert main(["restore", str(picture), "-o", str(out), "--dtype", "uint16", *model]) == 0
    assert {array.dtype for array in restored(out, "rainy", ".png").values()} == {np.dtype(np.uint16)}


def test_channel_axis_restores_each_channel_alone(tmp_path, model, tiny_checkpoint, out):
    image = np.random.default_rng(6).integers(0, 4000, (2, 16, 18), dtype=np.uint16)
    source = tmp_path / "channels.tif"
    write_image(source, image)
    assert main(["restore", str(source), "-o", str(out), "--channel-axis", "0", *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, channel_axis=0, device="cpu", precision="float32")
    np.testing.assert_array_equal(restored(out, "channels", ".tif")["background"], expected.background)


def test_channels_that_the_file_names_are_restored_alone(tmp_path, model, tiny_checkpoint, out):
    import tifffile

    image = np.random.default_rng(6).integers(0, 4000, (2, 3, 16, 18), dtype=np.uint16)
    image[:, 1] //= 9  # a range of its own shows that it was taken as a channel
    source = tmp_path / "channels.tif"
    tifffile.imwrite(source, image, imagej=True, metadata={"axes": "ZCYX"})
    assert main(["restore", str(source), "-o", str(out), *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, channel_axis=1, device="cpu", precision="float32")
    assert len(expected.provenance["intensity_range"]) == 3
    np.testing.assert_array_equal(restored(out, "channels", ".tif")["background"], expected.background)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.tif"])
def test_colours_restored_each_alone_are_written_as_colours(name, tmp_path, rainy, model, tiny_checkpoint, out):
    source = tmp_path / name
    write_image(source, rainy)
    assert main(["restore", str(source), "-o", str(out), "--channel-axis", "2", *model]) == 0
    expected = dmgn.restore(rainy, model=tiny_checkpoint, channel_axis=2, device="cpu", precision="float32")
    results = restored(out, "rgb", source.suffix)
    np.testing.assert_array_equal(results["background"], expected.background)
    assert results["noise_map"].shape == rainy.shape


def test_a_file_named_twice_is_restored_once(picture, model, out, capsys):
    assert main(["restore", str(picture), str(picture.parent), "-o", str(out), "--json", *model]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_existing_masks_are_kept_unless_told_otherwise(picture, model, out, capsys):
    arguments = ["restore", str(picture), "-o", str(out), "--masks", *model]
    mask = out / "rainy_mask_refine-1.tif"
    out.mkdir()
    mask.write_bytes(b"mine")
    assert main(arguments) == 2
    assert "rainy_mask_refine-1.tif' exists; pass --overwrite" in capsys.readouterr().err
    assert snapshot(out) == {mask.name: b"mine"}
    assert main([*arguments, "--overwrite"]) == 0
    assert mask.read_bytes() != b"mine"


def test_masks_are_written_where_asked_for(picture, model, out, capsys):
    assert main(["restore", str(picture), "-o", str(out), "--masks", "--json", *model]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    masks = {name for name in report["outputs"] if name.startswith("mask_")}
    assert masks
    assert {Path(path) for path in report["outputs"].values()} == set(out.iterdir())


def test_json_answer_holds_paths_and_provenance(picture, model, out, capsys):
    assert main(["restore", str(picture), "-o", str(out), "--json", *model]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["input"] == str(picture)
    assert {part: Path(path) for part, path in report["outputs"].items()} == {
        part: out / f"rainy_{part}.png" for part in PARTS
    }
    assert report["provenance"]["precision"] == "float32"
    assert len(report["provenance"]["sha256"]) == 64


def test_noise_map_fills_the_range_of_the_type():
    values = np.array([0.0, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(unit_to_dtype(values, np.dtype(np.uint16)), [0, 32768, 65535])
    np.testing.assert_array_equal(unit_to_dtype(values, np.dtype(np.float32)), values)


# The other commands.


def test_models_list_info_and_verify(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "mine.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    assert main(["models", "list", "--json"]) == 0
    models = {model["path"]: model for model in json.loads(capsys.readouterr().out)}
    mine = models[str(folder / "mine.safetensors")]
    assert mine["task"] == "rain"
    assert not mine["shipped"]
    assert main(["models", "list"]) == 0
    assert mine["path"] in capsys.readouterr().out
    assert main(["models", "info", mine["path"], "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert len(info["sha256"]) == 64
    assert info["config"]
    assert main(["models", "info", mine["path"]]) == 0
    assert info["sha256"] in capsys.readouterr().out
    assert main(["models", "verify", mine["path"]]) == 0
    assert info["sha256"] in capsys.readouterr().out


def test_models_verify_names_the_broken_one(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "short.safetensors").write_bytes(tiny_checkpoint.read_bytes()[:-8])
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    assert main(["models", "verify"]) == 1
    assert f"BROKEN  {folder / 'short.safetensors'}" in capsys.readouterr().out


def test_benchmark_answers_in_json(model, capsys):
    arguments = ["benchmark", "--size", "40x24", "--repeat", "3", "--json", *model]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["repeat"]) == (40, 24, 3)
    assert 0 < report["seconds_min"] <= report["seconds_median"]
    assert report["megapixels_per_second"] == pytest.approx(40 * 24 / 1e6 / report["seconds_median"])
    assert report["peak_memory_bytes"] > 2**20
    assert main(["benchmark", "--size", "40x24", "--repeat", "1", *model]) == 0
    assert "megapixels/s" in capsys.readouterr().out
    assert main(["benchmark", "--size", "40"]) == 2


def test_benchmark_of_several_cases_measures_each_by_itself(model, capsys):
    arguments = ["benchmark", "--size", "96x64", "--repeat", "1", "--precisions", "float32", *model]
    assert main([*arguments, "--tiles", "none", "32", "--json"]) == 0
    whole, tiled = json.loads(capsys.readouterr().out)["cases"]
    assert (whole["tile"], tiled["tile"]) == (None, 32)
    assert {case["precision"] for case in (whole, tiled)} == {"float32"}
    assert all(case["seconds_median"] > 0 for case in (whole, tiled))
    assert main([*arguments, "--tiles", "none", "32", "--ensemble", "--json"]) == 0
    assert [case["ensemble"] for case in json.loads(capsys.readouterr().out)["cases"]] == [True, True]
    assert main([*arguments, "--devices", "cpu", "cuda:99"]) == 1
    heading, good, bad = capsys.readouterr().out.splitlines()
    assert "megapixels/s" in heading
    assert "96x64" in good
    assert "device 'cuda:99' is not there" in bad


def test_demo_writes_pictures_a_sheet_and_true_numbers(model, out, capsys):
    from napari_dmgn.samples import sample_names

    name = sample_names()[0]
    assert main(["demo", "-o", str(out), "--samples", name, "--json", *model]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [result["strength"] for result in report["pictures"]] == ["light", "heavy"]
    for result in report["pictures"]:
        stem = f"{name}_{result['strength']}"
        clean, before, after = (
            read_image(out / f"{stem}_{part}.png").array for part in ("clean", "input", "background")
        )
        assert result["psnr_input"] == pytest.approx(psnr_y(before, clean))
        assert result["psnr_output"] == pytest.approx(psnr_y(after, clean))
        assert not np.array_equal(before, clean)
    sheet = read_image(Path(report["sheet"])).array
    assert sheet.ndim == 3
    assert sheet.shape[1] > 4 * 300


def test_demo_of_another_task_has_its_noise_and_replaces_the_earlier_demo(model, out, capsys):
    from napari_dmgn.samples import sample_names

    first, second = sample_names()[:2]
    assert main(["demo", "-o", str(out), "--samples", first, *model]) == 0
    assert f"{first:<12} light rain         PSNR" in capsys.readouterr().out
    (out / "mine.png").touch()
    assert main(["demo", "-o", str(out), "--samples", second, "--task", "haze", "--json", *model]) == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    assert [(p["task"], p["strength"], p["protocol"]) for p in pictures] == [
        ("haze", "thin", "haze-rgb"),
        ("haze", "dense", "haze-rgb"),
    ]
    made = {path.name for path in out.iterdir()} - {"mine.png", "before_after.png"}
    assert {name.split("_")[0] for name in made} == {second}
    thin, dense = (read_image(out / f"{second}_{s}_input.png").array for s in ("thin", "dense"))
    assert dense.std() < thin.std()


def test_demo_refuses_an_unknown_sample(out, model, capsys):
    assert main(["demo", "-o", str(out), "--samples", "nobody", *model]) == 2
    assert "nobody" in capsys.readouterr().err
    assert not out.exists()


def test_synthesize_is_the_same_for_the_same_seed(picture, tmp_path, capsys):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, ("3", "3", "4"), strict=True):
        arguments = ["synthesize", str(picture), "-o", str(folder), "--strength", "heavy", "--seed", seed]
        assert main(arguments) == 0
    assert snapshot(folders[0]) == snapshot(folders[1]) != snapshot(folders[2])
    pictures = {f"rainy_{part}.png" for part in ("input", "background", "noise")}
    assert set(snapshot(folders[0])) == {*pictures, "rainy_parameters.json"}
    drawn = json.loads((folders[0] / "rainy_parameters.json").read_text())
    assert (drawn["image"], drawn["part"], drawn["seed"]) == ("rainy.png", "heavy", 3)
    assert len(drawn["angle"]) == 5
    background = read_image(folders[0] / "rainy_background.png").array
    np.testing.assert_array_equal(background, read_image(picture).array)


@pytest.mark.parametrize("task", ["haze", "reflection", "stripes", "veil", "background"])
def test_synthesize_makes_every_kind(task, picture, tmp_path, capsys):
    assert main(["synthesize", str(picture), "-o", str(tmp_path / "out"), "--task", task, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    images = {part: read_image(Path(report["outputs"][part])).array for part in ("input", "background", "noise")}
    np.testing.assert_array_equal(images["background"], read_image(picture).array)
    assert (images["input"] != images["background"]).any()
    assert images["noise"].any()
    written = json.loads(Path(report["outputs"]["parameters"]).read_text())
    assert written == report["parameters"]
    assert written["task"] == task


def test_synthesize_takes_layers_in_turn(picture, rainy, tmp_path, capsys):
    (tmp_path / "layers").mkdir()
    for name, level in (("dark", 10), ("light", 90)):
        write_image(tmp_path / "layers" / f"{name}.png", np.full((20, 20, 3), level, np.uint8))
    clean = [tmp_path / f"{i}.png" for i in range(3)]
    for path in clean:
        write_image(path, np.zeros_like(rainy))
    arguments = ["synthesize", *map(str, clean), "-o", str(tmp_path / "out"), "--task", "reflection"]
    arguments += ["--strength", "gamma", "--layer", str(tmp_path / "layers"), "--json"]
    assert main(arguments) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [r["parameters"]["layer"] for r in reports] == ["dark.png", "light.png", "dark.png"]
    levels = [read_image(Path(r["outputs"]["input"])).array.mean() for r in reports]
    np.testing.assert_allclose(levels, [10, 90, 10], atol=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "thin"], "rain has no strength 'thin'; wanted one of light, heavy, veiled, photo, none, mixed"),
        (["--task", "haze", "--strength", "light"], "haze has no strength 'light'; wanted one of thin, medium, dense"),
        (["--layer", "absent.png"], "no such file: 'absent.png'"),
    ],
)
def test_synthesize_refuses_what_it_cannot_do(arguments, message, picture, tmp_path, capsys):
    assert main(["synthesize", str(picture), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_synthesize_refuses_a_layer_without_use(picture, tmp_path, capsys):
    arguments = ["synthesize", str(picture), "-o", str(tmp_path / "out"), "--task", "haze", "--layer", str(picture)]
    assert main(arguments) == 2
    assert "haze has no use for --layer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def training(tmp_path, rainy):
    """The arguments of a training of five small steps."""
    data = tmp_path / "clean"
    data.mkdir()
    for turn in range(4):
        write_image(data / f"{turn}.png", np.roll(rainy, 20 * turn, axis=1))
    settings = tmp_path / "small.toml"
    settings.write_text("""
        steps = 5
        phases = [[1.0, 32, 1]]
        validation_pictures = 1
        validation_crop = 32
        device = "cpu"
        precision = "float32"
        [network]
        width = 4
        head_levels = 1
        branch_widths = [4]
        bottleneck_cells = 1
        refine_dilations = [1]
        attention_reduction = 2
    """)
    return ["train", str(settings), "--data", str(data), "-o", str(tmp_path / "run")]


def test_train_writes_a_model_that_restore_takes(training, tmp_path, picture, out, capsys):
    assert main([*training, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5]
    assert events[-1]["model"] == str(tmp_path / "run" / "model.safetensors")
    assert main(["restore", str(picture), "-o", str(out), "--model", events[-1]["model"]]) == 0


def test_train_that_ran_out_of_minutes_goes_on_with_resume(training, tmp_path, capsys):
    assert main([*training, "--stop-after", "1e-9"]) == 0
    assert capsys.readouterr().out == "stopped at step 1; go on with --resume\n"
    assert main(training) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "earlier run" in error
    assert main([*training, "--resume", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["step"] for event in events] == [2, 3, 4, 5]
    assert main([*training, "--resume"]) == 0
    assert capsys.readouterr().out == f"nothing left to do\n-> {tmp_path / 'run' / 'model.safetensors'}\n"
    straight = tmp_path / "straight"
    assert main([*training, "-o", str(straight)]) == 0
    models = [dmgn.load_model(folder / "model.safetensors") for folder in (tmp_path / "run", straight)]
    ours, theirs = (model.network.state_dict() for model in models)
    for name, weight in ours.items():
        assert weight.equal(theirs[name]), name


@pytest.fixture
def pairs(tmp_path, rainy):
    """Folders of three pairs, one of unequal sizes, a lonely and an unreadable file."""
    for folder in ("wet", "dry"):
        (tmp_path / folder).mkdir()
    for turn in range(3):
        picture = np.roll(rainy, 20 * turn, axis=1)
        write_image(tmp_path / "wet" / f"wet_{turn}.png", np.maximum(picture, 40))
        write_image(tmp_path / "dry" / f"dry_{turn}.png", picture)
    write_image(tmp_path / "wet" / "wet_8.png", rainy)
    write_image(tmp_path / "dry" / "dry_8.png", rainy[:-1])
    write_image(tmp_path / "wet" / "wet_9.png", rainy)
    (tmp_path / "wet" / "wet_1.png").rename(tmp_path / "wet" / "wet_1.tif")  # the content decides
    return ["--pairs", str(tmp_path / "wet"), str(tmp_path / "dry")]


def test_train_check_reports_pairs_and_trains_nothing(training, pairs, tmp_path, capsys):
    settings = training[1]
    command = ["train", settings, *pairs, "-o", str(tmp_path / "run"), "--check"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("dry: 4 files -> 3 pairs, matched by number")
    assert "  wet_0.png -> dry_0.png" in lines
    assert "  sizes: 128x96 (3)" in lines
    assert any(line.startswith("  left out, unequal (1): ") and "wet_8.png" in line for line in lines)
    assert "  left out, unmatched (1): wet/wet_9.png" in lines
    assert lines[-1].startswith("training 2 pictures (crops of 32 px), validation 1 (central 32 px)")
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["training"], report["validation"]) == (2, 1)
    assert report["sources"][0]["pairs"][0] == ["wet_0.png", "dry_0.png"]
    assert not (tmp_path / "run").exists()
    assert main([*command, "--match", "name"]) == 1  # nothing would be left
    assert "left out, unmatched (9)" in capsys.readouterr().out


def test_train_fine_tunes_on_pairs_and_says_whether_it_helped(training, pairs, tmp_path, tiny_checkpoint, capsys):
    quick = tmp_path / "quick.toml"
    quick.write_text(
        'preset = "start"\nphases = [[1.0, 32, 2]]\nvalidation_pictures = 1\nvalidation_crop = 32\ndevice = "cpu"\n'
    )
    command = ["train", str(quick), *pairs, "--start", str(tiny_checkpoint), "-o", str(tmp_path / "run")]
    assert main([*command, "--steps", "2", "--rate", "1e-9", "--freeze", "head", "separator"]) == 0
    captured = capsys.readouterr()
    last = captured.out.splitlines()[-1]
    assert last.startswith("NOT better than tiny on the validation pictures: ")
    assert last.endswith("; keep using tiny")
    assert "left out: " in captured.err
    assert "pairs output" in captured.out
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_train_takes_the_task_of_the_model_that_it_starts_from(pairs, tmp_path, tiny_network, capsys):
    from napari_dmgn import checkpoint

    start = tmp_path / "mist.safetensors"
    checkpoint.save(start, tiny_network, task="haze", card={"name": "mist"})
    plain = 'preset = "start"\nphases = [[1.0, 32, 1]]\nvalidation_pictures = 1\nvalidation_crop = 32\ndevice = "cpu"\n'
    (tmp_path / "plain.toml").write_text(plain)
    (tmp_path / "named.toml").write_text(f'task = "reflection"\nname = "shine"\n{plain}')
    for config, options, wanted in (
        ("plain", [], ("haze", "haze")),
        ("plain", ["--task", "rain"], ("rain", "rain")),
        ("named", [], ("reflection", "shine")),
    ):
        run = tmp_path / "run"
        command = ["train", str(tmp_path / f"{config}.toml"), *pairs, "--start", str(start), "-o", str(run)]
        assert main([*command, "--steps", "1", "--overwrite", *options]) == 0
        header = checkpoint.read_header(run / "model.safetensors")
        assert (header.task, header.card["name"]) == wanted


def test_train_without_anything_to_train_on_is_a_wrong_argument(pairs, tmp_path, capsys, monkeypatch):
    for command, message in (
        (["train"], "nothing to train on"),
        (["train", "--data", "x", "--match", "name"], "--match is for --pairs"),
        (["train", *pairs, "--kind", "stripes"], "--kind is for --data"),
        (["train", "--data", "x", "--minutes", "0"], "expected a number > 0"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    assert main(["train", "--data", "x", "--stop-after", "1"]) == 2
    assert "--stop-after is for a single process" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    assert main(["train", *pairs, "--start", "rain", "-o", str(tmp_path / "run")]) == 1
    assert "wanted 24 to validate on (validation_pictures)" in capsys.readouterr().err
    assert main(["train", *pairs, "--start", "rain", "-o", str(tmp_path / "run"), "--validation", "1"]) == 1
    assert "wanted 1 to validate on (validation_pictures)" in capsys.readouterr().err  # they are too small
    assert main(["train", "--data", "x", "--kind", "snow"]) == 2
    assert "argument --kind: invalid choice: 'snow'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [None, "steps = ", "colour = 3", "steps = -4", 'data = "/no/such/folder"\npreset = "huge"']
)
def test_train_with_bad_settings_is_one_line(settings, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    if settings is not None:
        path.write_text(settings)
    assert main(["train", str(path), "-o", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("napari-dmgn: error: ")
    assert not (tmp_path / "run").exists()


# The program as a process.


def run_program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "napari_dmgn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_version_and_help_of_the_program():
    process = run_program("--version")
    assert (process.returncode, process.stdout) == (0, f"napari-dmgn {dmgn.__version__}\n")
    process = run_program("--help")
    assert process.returncode == 0
    for command in ("restore", "demo", "models", "synthesize", "train", "benchmark"):
        assert command in process.stdout


def test_program_fails_in_one_line(tmp_path):
    process = run_program("restore", str(tmp_path / "absent.png"), "-o", str(tmp_path / "out"))
    assert process.returncode == 2
    assert process.stderr.startswith("napari-dmgn: error: ")
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_reader_that_goes_away_is_no_error(tmp_path):
    command = f'"{sys.executable}" -m napari_dmgn models list --json | true'
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert process.stderr == ""
