"""`restore` on the command line: an answer for programs whatever happens, masks, series, and where results may go."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_dmgn as dmgn
from napari_dmgn import checkpoint
from napari_dmgn.cli import main
from napari_dmgn.cli.common import run_restore
from napari_dmgn.files import read_image, tiff, write_image

SETTINGS = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def picture(tmp_path, rainy):
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


def answer(arguments, capsys) -> tuple[int, list[dict], str]:
    """Exit status, what a program reads, and what a person does."""
    status = main([*arguments, "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out), printed.err


# Axes are the file's, wherever its colours are.


PLANES = {"SYX": (3, 16, 18), "TSYX": (2, 3, 16, 18)}


@pytest.mark.parametrize("ome", [True, False])
@pytest.mark.parametrize("axes", PLANES)
def test_channel_axis_is_an_axis_of_a_file_of_planes_of_colours(axes, ome, tmp_path, model, tiny_checkpoint, out):
    image = np.random.default_rng(6).integers(0, 4000, PLANES[axes], dtype=np.uint16)
    image[..., 1, :, :] //= 9  # a range of its own shows that it was taken as a channel
    path, place = tmp_path / "planes.tif", axes.index("S")
    options = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(path, image, metadata={"axes": axes}, ome=ome, **options)
    assert main(["restore", str(path), "-o", str(out), "--channel-axis", str(place), *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, channel_axis=place, **SETTINGS)
    assert len(expected.provenance["intensity_range"]) == 3
    np.testing.assert_array_equal(tifffile.imread(out / "planes_background.tif"), expected.background)
    assert read_image(out / "planes_background.tif").rgb  # they are still colours
    with tifffile.TiffFile(out / "planes_background.tif") as file:
        assert file.series[0].axes == axes


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_no_rgb_gives_the_frames_of_a_stack_that_is_called_colours(dtype, tmp_path, model, tiny_checkpoint, out):
    image = np.random.default_rng(6).integers(0, 200, (3, 30, 30)).astype(dtype)
    path = tmp_path / "stack.tif"
    with pytest.warns(DeprecationWarning, match="photometric"):
        tifffile.imwrite(path, image)  # which calls three planes colours
    assert main(["restore", str(path), "-o", str(out), "--no-rgb", *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, rgb=False, **SETTINGS)
    for part in ("background", "noise_map"):
        assert tifffile.imread(out / f"stack_{part}.tif").shape == image.shape
    written = read_image(out / "stack_background.tif")
    assert (written.axes, written.rgb) == ("CYX", False)
    np.testing.assert_array_equal(written.array, expected.background)


@pytest.mark.parametrize(
    ("photometric", "count", "extra"), [("rgb", 4, 1), ("rgb", 4, 2), ("rgb", 4, 0), ("minisblack", 2, 2)]
)
def test_further_samples_of_a_tiff_mean_the_same_in_the_results(
    photometric, count, extra, tmp_path, model, tiny_checkpoint, out
):
    image = np.random.default_rng(6).integers(0, 4000, (16, 18, count), dtype=np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric=photometric, planarconfig="contig", extrasamples=[extra])
    assert main(["restore", str(path), "-o", str(out), *model]) == 0
    with tifffile.TiffFile(out / "a_background.tif") as file:
        written, known = file.asarray(), file.pages.first.extrasamples
    assert known == (extra,)
    if extra:
        colours = image if photometric == "rgb" else image[..., [0, 0, 0, 1]]
        expected = dmgn.restore(colours, model=tiny_checkpoint, rgb=True, **SETTINGS)
        np.testing.assert_array_equal(written[..., 3], image[..., -1])
    else:
        expected = dmgn.restore(image, model=tiny_checkpoint, channel_axis=2, **SETTINGS)
    np.testing.assert_array_equal(written, expected.background)


# One report for each input, in a list, whatever became of them.


@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_file_that_fails_is_in_the_answer_however_many_there_are(others, picture, model, out, capsys):
    bad = picture.with_name("bad.png")
    bad.write_text("not a picture")
    good = [picture.with_name(f"good{n}.png") for n in range(others)]
    for path in good:
        path.write_bytes(picture.read_bytes())
    status, reports, error = answer(["restore", *map(str, [bad, *good]), "-o", str(out), *model], capsys)
    assert status == 1
    assert [report["input"] for report in reports] == [str(path) for path in [bad, *good]]
    assert ["error" in report for report in reports] == [True] + [False] * others
    assert error.count("\n") == 1
    assert reports[0]["error"] in error


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_does_not_load_is_in_the_answer_for_each_input(count, picture, out, capsys):
    paths = [picture, *(picture.with_name(f"{n}.png") for n in range(1, count))]
    for path in paths[1:]:
        path.write_bytes(picture.read_bytes())
    status, reports, error = answer(["restore", *map(str, paths), "-o", str(out), "--model", "rainy"], capsys)
    assert status == 1
    assert [report["input"] for report in reports] == [str(path) for path in paths]
    assert {f"napari-dmgn: error: {report['error']}\n" for report in reports} == {error}


def test_a_batch_that_was_stopped_answers_what_was_done(picture, model, out, monkeypatch, capsys):
    second = picture.with_name("second.png")
    second.write_bytes(picture.read_bytes())
    real = run_restore

    def interrupted(label, *arguments, **keywords):
        if label == second.name:
            raise KeyboardInterrupt
        return real(label, *arguments, **keywords)

    monkeypatch.setattr("napari_dmgn.cli.jobs.run_restore", interrupted)
    status, reports, error = answer(["restore", str(picture), str(second), "-o", str(out), *model], capsys)
    assert (status, error) == (130, "napari-dmgn: error: stopped\n")
    assert "outputs" in reports[0]
    assert reports[1] == {"input": str(second), "error": "stopped"}


def test_one_input_whose_results_are_not_all_there_is_in_the_answer(picture, model, out, capsys):
    arguments = ["restore", str(picture), "-o", str(out), *model]
    assert main(arguments) == 0
    (out / "rainy_noise.png").unlink()
    capsys.readouterr()
    status, (report,), error = answer(arguments, capsys)
    assert status == 1
    assert "'rainy_noise.png' does not" in report["error"]
    assert report["error"] in error


# Masks.


def test_masks_that_an_earlier_run_did_not_write_are_missing(picture, model, out, capsys):
    arguments = ["restore", str(picture), "-o", str(out), *model]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--masks"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "'rainy_mask_*.tif' does not; pass --overwrite" in printed.err
    assert main([*arguments, "--masks", "--overwrite"]) == 0
    assert list(out.glob("rainy_mask_*.tif"))
    capsys.readouterr()
    assert main([*arguments, "--masks"]) == 0
    assert "skipped" in capsys.readouterr().out


def test_masks_of_another_image_are_not_taken_for_these(picture, model, out):
    """A name may look like a pattern."""
    other = picture.with_name("[r]ainy.png")
    other.write_bytes(picture.read_bytes())
    arguments = ["-o", str(out), *model]
    assert main(["restore", str(picture), "--masks", *arguments]) == 0
    assert main(["restore", str(other), *arguments]) == 0
    assert main(["restore", str(other), "--masks", *arguments]) == 1


# Series.


@pytest.fixture
def two_series(tmp_path):
    """An OME-TIFF of two images."""
    path = tmp_path / "two.ome.tif"
    random = np.random.default_rng(9)
    images = [random.integers(0, 4000, shape, dtype=np.uint16) for shape in ((9, 12), (8, 7))]
    with tifffile.TiffWriter(path, ome=True) as file:
        for image in images:
            file.write(image, metadata={"axes": "YX"}, photometric="minisblack")
    return path, images


@pytest.mark.parametrize("target", ["out", "out.ome.zarr"])
def test_a_file_of_several_series_is_told_in_one_line(target, two_series, tmp_path, model, capsys):
    if target.endswith(".zarr"):
        pytest.importorskip("zarr")
    path, _ = two_series
    assert main(["restore", str(path), "-o", str(tmp_path / target), *model]) == 0
    error = capsys.readouterr().err
    assert error == f"napari-dmgn: {str(path)!r} holds 2 series of images; only the first, series 0, is read\n"


def test_each_series_has_results_of_its_own(two_series, model, tiny_checkpoint, out, capsys):
    path, images = two_series
    for number, image in enumerate(images):
        assert main(["restore", str(path), "-o", str(out), "--series", str(number), *model]) == 0
        assert capsys.readouterr().err == ""
        expected = dmgn.restore(image, model=tiny_checkpoint, **SETTINGS).background
        written = read_image(out / f"two_series{number}_background.ome.tif").array
        np.testing.assert_array_equal(written, expected)
    assert len(list(out.iterdir())) == 6


@pytest.mark.parametrize(
    ("series", "target", "message", "status"),
    [
        ("2", "out", "series 2 is not in", 1),
        ("-1", "out", "expected a whole number >= 0", 2),
        ("1", "out.zarr", "--series is for TIFF images whose results are files", 2),
    ],
)
def test_a_series_that_cannot_be_is_one_line(series, target, message, status, two_series, tmp_path, model, capsys):
    arguments = ["restore", str(two_series[0]), "-o", str(tmp_path / target), f"--series={series}", *model]
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / target).exists()


# Files that are mapped, and what is held.


@pytest.mark.parametrize("target", ["out", "out.ome.zarr"])
def test_a_mapped_tiff_is_restored_as_a_read_one(target, tmp_path, model, tiny_checkpoint, monkeypatch):
    image = np.random.default_rng(9).integers(0, 4000, (2, 20, 24), dtype=np.uint16)
    path, folder = tmp_path / "stack.tif", tmp_path / target
    tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "ZYX"})
    before = path.read_bytes()
    monkeypatch.setattr(tiff, "_MAPPED_BYTES", 0)
    if target.endswith(".zarr"):
        pytest.importorskip("zarr")
    assert main(["restore", str(path), "-o", str(folder), *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, **SETTINGS).background
    if target.endswith(".zarr"):
        from napari_dmgn.files import open_store

        written = np.asarray(open_store(folder).array)
    else:
        written = read_image(folder / "stack_background.tif").array
    np.testing.assert_array_equal(written, expected)
    assert path.read_bytes() == before


def test_the_first_estimate_which_no_command_writes_is_not_held(rainy, tiny_checkpoint):
    result = run_restore("rainy", rainy, model=tiny_checkpoint, **SETTINGS)
    expected = dmgn.restore(rainy, model=tiny_checkpoint, **SETTINGS)
    assert result.coarse.size == 0
    for part in ("background", "noise", "noise_map"):
        np.testing.assert_array_equal(getattr(result, part), getattr(expected, part))


# Where results go.


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.JPEG", "x.ome.tiff"])
@pytest.mark.parametrize("command", ["restore", "synthesize"])
def test_a_folder_by_the_name_of_an_image_is_not_made(command, name, picture, tmp_path, capsys):
    assert main([command, str(picture), "-o", str(tmp_path / name)]) == 2
    expected = f"-o is a folder for the results, and {str(tmp_path / name)!r} is the name of an image file\n"
    assert capsys.readouterr().err == f"napari-dmgn: error: {expected}"
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.bmp"])
@pytest.mark.parametrize("command", ["restore", "synthesize"])
def test_results_of_what_is_lossy_or_only_read_are_png(command, name, rainy, tmp_path, model):
    Image.fromarray(rainy).save(tmp_path / name)
    arguments = model if command == "restore" else ["--task", "rain"]
    assert main([command, str(tmp_path / name), "-o", str(tmp_path / "out"), *arguments]) == 0
    background = read_image(tmp_path / "out" / "x_background.png").array
    decoded = read_image(tmp_path / name).array
    if command == "restore":
        decoded = dmgn.restore(decoded, model=model[1], device="cpu", precision="float32").background
    np.testing.assert_array_equal(background, decoded)


def test_a_folder_by_such_a_name_that_is_there_is_taken(picture, tmp_path, model):
    folder: Path = tmp_path / "x.tif"
    folder.mkdir()
    assert main(["restore", str(picture), "-o", str(folder), *model]) == 0
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(("named", "task"), [([], "haze"), (["--task", "rain"], "rain")])
def test_the_task_is_the_models_own_unless_it_is_named(named, task, rainy, tmp_path, tiny_network, capsys):
    checkpoint.save(tmp_path / "mist.safetensors", tiny_network, task="haze", card={"name": "mist"})
    write_image(tmp_path / "a.png", rainy)
    command = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert main([*command, "--model", str(tmp_path / "mist.safetensors"), *named]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["provenance"]["task"] == task
    assert ("was trained for haze; it is used for rain as asked" in told.err) == (task == "rain")
