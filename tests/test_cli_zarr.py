"""OME-Zarr in and out on the command line: the results of `restore`, resumed, on a cluster, and what fails."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import napari_dmgn as dmgn
from napari_dmgn.cli import main
from napari_dmgn.files import create_store, open_store, open_to_write, write_image
from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.images import saturate, unit_to_dtype
from napari_dmgn.lazy.recipe import Recipe

zarr = pytest.importorskip("zarr")

PARTS = ("background", "noise", "noise_map")
SETTINGS = {"device": "cpu", "precision": "float32"}
MICRONS = {
    "Y": {"type": "space", "unit": "micrometer", "scale": 0.5},
    "X": {"type": "space", "unit": "micrometer", "scale": 0.25},
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.ome.zarr"


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]


def store(path: Path, image, axes: str, version: str = "0.5", chunk: int = 24, **sizes) -> Path:
    like = ImageFile(array=image, metadata={"ngff": {"version": version, "axes": MICRONS | sizes}})
    create_store(path, shape=image.shape, dtype=image.dtype, axes=axes, chunk=chunk, like=like, name=path.stem)
    open_to_write(path, axes)[...] = image
    return path


def noise(shape, dtype="u2"):
    return np.random.default_rng(4).integers(0, 200 if dtype == "u1" else 4000, shape, dtype=dtype)


def assert_results(folder, expected, rgb=False, prefix=""):
    dtype = expected.background.dtype
    wanted = {
        "background": expected.background,
        "noise": saturate(expected.noise, dtype)[0],
        "noise_map": unit_to_dtype(expected.noise_map, dtype),
    }
    for part, array in wanted.items():
        name = f"{prefix}{part}.ome.zarr" if prefix else part
        written = open_store(folder / name, rgb=rgb)
        assert written.array.dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(written.array), array, err_msg=part)


CASES = {
    "plane": ((70, 90), "YX", "u2", {}),
    "colours": ((50, 40, 3), "YXS", "u1", {"rgb": True}),
    "stack": ((2, 40, 36), "ZYX", "u2", {}),
    "channels": ((2, 2, 40, 36), "ZCYX", "u2", {"channel_axis": 0}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tile", ["none", "32"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_results_are_those_of_restore(name, tile, version, tmp_path, out, model, tiny_checkpoint, capsys):
    shape, axes, dtype, options = CASES[name]
    image = noise(shape, dtype)
    source = store(tmp_path / "big.ome.zarr", image, axes, version)
    assert main(["restore", str(source), "-o", str(out), "--tile", tile, "--json", *model]) == 0
    if axes == "ZCYX":
        image = image.swapaxes(0, 1)  # as it is stored: channels before space
    # One window equals one window; several are not cut where `restore` cuts, and differ by rounding.
    expected = dmgn.restore(image, model=tiny_checkpoint, tile=None, **SETTINGS, **options)
    (report,) = json.loads(capsys.readouterr().out)
    if tile == "none":
        assert_results(out, expected, rgb=options.get("rgb", False))
    else:
        background = np.asarray(open_store(out / "background", rgb=options.get("rgb", False)).array)
        assert np.abs(background.astype(int) - expected.background).max() <= 1
        assert np.mean(background != expected.background) < 1e-3
    assert report["provenance"]["intensity_range"] == expected.provenance["intensity_range"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.ome.zarr", "out.ome.zarr"]
    written = open_store(out)
    assert written.metadata["ngff"]["version"] == version
    assert (written.metadata["ngff"]["axes"]["Y"], written.metadata["ngff"]["axes"]["X"]) == (
        MICRONS["Y"] | {"translation": 0.0},
        MICRONS["X"] | {"translation": 0.0},
    )


def test_coarser_levels_are_means_of_finer_ones(tmp_path, out, model):
    source = store(tmp_path / "big.ome.zarr", noise((301, 40)), "YX")
    assert main(["restore", str(source), "-o", str(out), "--tile", "128", *model]) == 0
    for part in PARTS:
        fine, coarse = (np.asarray(open_store(out / part, level=level).array) for level in (0, 1))
        assert fine.any()
        rows = np.concatenate([fine, fine[-1:]]).astype(float)  # the odd last row stands for two
        means = (rows[::2, ::2] + rows[1::2, ::2] + rows[::2, 1::2] + rows[1::2, 1::2]) / 4
        np.testing.assert_array_equal(coarse, np.rint(means))


def test_a_folder_of_results_beside_each_other(tmp_path, model, tiny_checkpoint, capsys):
    image = noise((40, 36), "u1")
    source = store(tmp_path / "in" / "a.ome.zarr", image, "YX")
    plain = zarr.create_array(tmp_path / "in" / "b.zarr", data=image)
    assert plain.shape == image.shape
    out = tmp_path / "out"
    arguments = ["restore", str(source.parent), "-o", str(out), *model]
    assert main(arguments) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, **SETTINGS)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{s}_{p}.ome.zarr" for s in "ab" for p in PARTS)
    assert_results(out, expected, prefix="a_")
    assert_results(out, expected, prefix="b_")
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("2 images: 0 restored, 2 skipped, 0 failed\n")


def test_a_tiff_becomes_ome_zarr_with_its_axes_and_pixel_size(tmp_path, out, model, tiny_checkpoint):
    import tifffile

    image = noise((2, 3, 20, 24))
    path = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "ZCYX", **sizes}, photometric="minisblack")
    assert main(["restore", str(path), "-o", str(out), *model]) == 0
    written = open_store(out)
    assert written.axes == "CZYX"
    axes = written.metadata["ngff"]["axes"]
    assert {a: (axes[a].get("unit"), axes[a]["scale"]) for a in axes} == {
        "C": (None, 1.0),
        "Z": ("micrometer", 2.0),
        "Y": ("micrometer", 0.25),
        "X": ("nanometer", 250.0),
    }
    expected = dmgn.restore(image, model=tiny_checkpoint, channel_axis=1, **SETTINGS)
    np.testing.assert_array_equal(np.asarray(written.array), expected.background.swapaxes(0, 1))


def test_an_axis_of_an_unknown_name_counts_frames_and_keeps_it(tmp_path, out, model, tiny_checkpoint):
    image = noise((3, 40, 36), "u2")
    group = zarr.open_group(tmp_path / "scans.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=image)
    axes = [{"name": "scan"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    assert main(["restore", str(tmp_path / "scans.zarr"), "-o", str(out), *model]) == 0
    assert_results(out, dmgn.restore(image, model=tiny_checkpoint, rgb=False, **SETTINGS))
    for part in PARTS:
        written = zarr.open_group(out / part, mode="r")
        assert written.attrs["ome"]["multiscales"][0]["axes"] == axes
        assert written["0"].metadata.dimension_names == ("scan", "y", "x")


@pytest.mark.parametrize("option", [["--channel-axis", "0"], ["--no-rgb"]])
def test_axes_are_those_of_the_file_where_channels_are_called_colours(option, tmp_path, out, model, tiny_checkpoint):
    image = noise((3, 40, 36), "u1")
    source = store(tmp_path / "colours.ome.zarr", np.moveaxis(image, 0, -1), "YXS")
    assert open_store(source).rgb
    assert main(["restore", str(source), "-o", str(out), *option, *model]) == 0
    axes = {"rgb": False} if option == ["--no-rgb"] else {"channel_axis": 0}
    assert_results(out, dmgn.restore(image, model=tiny_checkpoint, **axes, **SETTINGS))
    assert open_store(out, rgb=False).axes == "CYX"


@pytest.mark.parametrize(("option", "axes"), [(["--channel-axis", "0"], "CYX"), (["--no-rgb"], "ZYX")])
def test_axes_are_those_of_a_tiff_of_planes_of_colours(option, axes, tmp_path, out, model):
    import tifffile

    image = noise((3, 40, 36), "u1")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig="separate")
    assert main(["restore", str(tmp_path / "a.tif"), "-o", str(out), *option, *model]) == 0
    written = open_store(out)
    assert (written.axes, written.array.shape) == (axes, image.shape)


@pytest.mark.parametrize(("axes", "kept"), [("CYXS", "ZYXS"), ("ZCYXS", "TZYXS")])
def test_colours_of_channels_become_colours_of_frames(axes, kept, tmp_path, out, model, tiny_checkpoint):
    import tifffile

    image = noise((3, 2, 20, 24, 3)[5 - len(axes) :], "u1")
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, metadata={"spacing": 5.0, "unit": "um", "axes": axes})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series[0].axes == axes
    assert main(["restore", str(tmp_path / "a.tif"), "-o", str(out), *model]) == 0
    expected = dmgn.restore(image, model=tiny_checkpoint, rgb=True, **SETTINGS)
    written = open_store(out)
    assert written.axes == kept
    channels_first = expected.background if axes == "CYXS" else expected.background.swapaxes(0, 1)
    np.testing.assert_array_equal(np.asarray(written.array), channels_first)
    if axes == "ZCYXS":  # slices stay slices
        assert written.metadata["ngff"]["axes"]["Z"]["scale"] == 5.0


def test_a_coarser_level_is_read_where_asked_for(tmp_path, out, model):
    from napari_dmgn.files import blocks, fill

    source = store(tmp_path / "big.ome.zarr", noise((520, 300), "u1"), "YX", chunk=64)
    for level in blocks(source):
        for block in level:
            fill(source, block)
    assert main(["restore", str(source), "-o", str(out), "--level", "1", *model]) == 0
    written = open_store(out)
    assert written.array.shape == (260, 150)
    assert written.metadata["ngff"]["axes"]["Y"] == MICRONS["Y"] | {"scale": 1.0, "translation": 0.25}


def arguments_of(source, target, model) -> list[str]:
    return ["restore", str(source), "-o", str(target), "--tile", "16", "--json", *model]


def lines(work: Path, kind: str) -> int:
    record = work / ".napari-dmgn.jsonl"
    return record.read_text().count(f'"{kind}"') if record.exists() else 0


def counted(monkeypatch) -> Counter:
    """Count the windows of each phase that the network does from now on."""
    calls: Counter = Counter()
    for name in ("sums", "restore"):
        real = getattr(Recipe, name)

        def counting(self, *arguments, name=name, real=real, **options):
            calls[name] += 1
            return real(self, *arguments, **options)

        monkeypatch.setattr(Recipe, name, counting)
    return calls


def kill_when(command: list[str], ready) -> None:
    """Run the program and kill it without warning as soon as `ready` says so."""
    with subprocess.Popen([sys.executable, "-m", "napari_dmgn", *command], stdout=subprocess.DEVNULL) as process:
        while not ready():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.kill()


@pytest.mark.parametrize("phase", ["sums", "done"])
def test_a_killed_run_goes_on(phase, tmp_path, out, model, monkeypatch, capsys):
    source = store(tmp_path / "big.ome.zarr", noise((128, 96)), "YX")
    straight = tmp_path / "straight.ome.zarr"
    work = tmp_path / ".out.ome.zarr.part"
    kill_when(arguments_of(source, out, model), lambda: lines(work, phase) >= 5)
    assert not out.exists()
    sums, done = lines(work, "sums"), lines(work, "done")
    windows = 8 * 6
    assert (0 < sums < windows) if phase == "sums" else (0 < done < windows)
    chunks = {path: path.stat().st_mtime_ns for path in (work / "background" / "0" / "c").rglob("*") if path.is_file()}
    with (work / ".napari-dmgn.jsonl").open("a") as file:
        file.write('{"done": {"clip')  # a line that was cut off
    calls = counted(monkeypatch)
    assert main(arguments_of(source, out, model)) == 0
    assert (calls["sums"], calls["restore"]) == (windows - sums, windows - done)
    (report,) = json.loads(capsys.readouterr().out)
    assert report["provenance"]["windows_done_before"] == done
    assert main(arguments_of(source, straight, model)) == 0
    for part in PARTS:
        resumed, uninterrupted = (np.asarray(open_store(folder / part).array) for folder in (out, straight))
        np.testing.assert_array_equal(resumed, uninterrupted)
    chunks = {path: when for path, when in chunks.items() if path.suffix != ".partial"}  # one that was being written
    assert not list(out.rglob("*.partial"))
    kept = [path for path, when in chunks.items() if (out / path.relative_to(work)).stat().st_mtime_ns == when]
    assert len(kept) >= done
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.ome.zarr", "out.ome.zarr", "straight.ome.zarr"]
    assert not list(out.glob(".napari*"))


@pytest.fixture
def stopped(tmp_path, out, model, monkeypatch):
    """Arguments of a run that stopped after some windows, here in this process."""
    source = store(tmp_path / "big.ome.zarr", noise((64, 64)), "YX")
    arguments = arguments_of(source, out, model)
    real = Recipe.restore
    left = iter(range(3))

    def failing(self, *rest, **options):
        if next(left, None) is None:
            raise OSError(28, "No space left on device", str(out))
        return real(self, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "restore", failing)
        assert main(arguments) == 1
    return arguments


def test_a_failed_run_goes_on(stopped, out, monkeypatch):
    assert not out.exists()
    calls = counted(monkeypatch)
    assert main(stopped) == 0
    assert calls == {"restore": 16 - 3}
    assert out.is_dir()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--tile", "32"], "tile was 16, now 32"),
        (["--halo", "8"], "halo was 'exact', now 8"),
        (["--range", "0,9"], "intensity_range was 'auto'"),
        (["--dtype", "float32"], "type of the results was '<u2'"),
    ],
)
def test_an_unfinished_run_of_other_settings_is_not_mixed_in(stopped, change, named, tmp_path, out, capsys):
    capsys.readouterr()
    assert main([*stopped, *change]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert "pass --overwrite to start anew" in error
    assert not out.exists()
    assert main([*stopped, *change, "--overwrite"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["provenance"]["windows_done_before"] == 0
    fresh = tmp_path / "fresh.ome.zarr"  # a path at which nothing was open before
    assert main([str(fresh) if argument == str(out) else argument for argument in [*stopped, *change]]) == 0
    for part in PARTS:
        again, straight = (np.asarray(open_store(folder / part).array) for folder in (out, fresh))
        assert again.dtype == straight.dtype
        np.testing.assert_array_equal(again, straight, err_msg=part)


def test_another_input_of_the_same_name_is_not_mixed_in(stopped, tmp_path, capsys):
    shutil.rmtree(tmp_path / "big.ome.zarr")
    store(tmp_path / "big.ome.zarr", noise((64, 64)) + 1, "YX")
    capsys.readouterr()
    assert main(stopped) == 1
    assert "input's time was" in capsys.readouterr().err


def test_an_existing_result_is_skipped_or_replaced(tmp_path, out, model, capsys):
    source = store(tmp_path / "big.ome.zarr", noise((20, 20)), "YX")
    arguments = ["restore", str(source), "-o", str(out), *model]
    assert main(arguments) == 0
    (out / "mine").touch()
    assert main(arguments) == 0
    assert "skipped, results of this name exist" in capsys.readouterr().out
    # Those of another image, task or level are no results of this one.
    other = store(tmp_path / "other.ome.zarr", noise((20, 20)), "YX")
    for words, told in (
        ([str(other), *arguments[2:]], "is the result of input 'big.ome.zarr', not 'other.ome.zarr'"),
        ([*arguments[1:], "--task", "haze"], "is the result of task 'rain', not 'haze'"),
        ([*arguments[1:4], "--device", "cpu"], "is the result of a model of sha256"),
    ):
        assert main(["restore", *words]) == 1
        assert told in capsys.readouterr().err
    shutil.rmtree(other)
    assert (out / "mine").exists()
    assert main([*arguments, "--overwrite"]) == 0
    assert not (out / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.ome.zarr", "out.ome.zarr"]


def broken_metadata(path: Path, what: str) -> None:
    """Damage an image of version 0.5."""
    described = json.loads((path / "zarr.json").read_text())
    image = described["attributes"]["ome"]["multiscales"][0]
    if what == "datasets":
        del image["datasets"]
    elif what == "axis":
        del image["axes"][0]
    elif what == "level":
        shutil.rmtree(path / "0")
    elif what == "gzip":  # whose decoder raises EOFError at the end of a file that was cut off
        pixels = np.asarray(zarr.open_group(path)["0"])
        shutil.rmtree(path / "0")
        codecs = {"compressors": zarr.codecs.GzipCodec(), "chunks": (20, 20)}
        zarr.open_group(path).create_array("0", data=pixels, **codecs)
        described = json.loads((path / "zarr.json").read_text())
        (chunk,) = (path for path in (path / "0" / "c").rglob("*") if path.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-40])
    else:
        chunk = next(path for path in (path / "0" / "c").rglob("*") if path.is_file())
        chunk.write_bytes(chunk.read_bytes()[:12] + b"damaged" * 5)
    (path / "zarr.json").write_text(json.dumps(described))


@pytest.mark.parametrize("what", ["datasets", "axis", "level", "chunk", "gzip"])
def test_a_broken_image_does_not_stop_a_batch(what, tmp_path, model, capsys):
    broken = store(tmp_path / "in" / "a.ome.zarr", noise((20, 20)), "YX")
    store(tmp_path / "in" / "b.ome.zarr", noise((20, 20)), "YX")
    broken_metadata(broken, what)
    out = tmp_path / "out"
    assert main(["restore", str(broken.parent), "-o", str(out), *model]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("2 images: 1 restored, 0 skipped, 1 failed\n")
    (line,) = said.err.splitlines()
    assert "a.ome.zarr" in line.split(": ", 3)[3]
    assert sorted(path.name for path in out.iterdir() if "_" in path.name and path.name[0] != ".") == sorted(
        f"b_{part}.ome.zarr" for part in PARTS
    )


class Wrong:
    """Arguments that cannot be served, and what the one line says."""

    @staticmethod
    def level_that_is_not_there(source, tmp_path):
        return [source, "-o", tmp_path / "out.ome.zarr", "--level", "3"], "has the levels 0 to 0"

    @staticmethod
    def level_of_a_picture(_, tmp_path):
        path = tmp_path / "a.png"
        write_image(path, np.zeros((8, 8), np.uint8))
        return [path, "-o", tmp_path / "out", "--level", "1"], "--level is for OME-Zarr images"

    @staticmethod
    def level_of_a_picture_into_a_store(_, tmp_path):
        path = tmp_path / "a.png"
        write_image(path, np.zeros((8, 8), np.uint8))
        return [path, "-o", tmp_path / "out.ome.zarr", "--level", "1"], "has one resolution"

    @staticmethod
    def masks(source, tmp_path):
        return [source, "-o", tmp_path / "out", "--masks"], "OME-Zarr results have no masks"

    @staticmethod
    def into_itself(source, tmp_path):
        return [source, "-o", source, "--overwrite"], "would replace an input"

    @staticmethod
    def into_a_folder_inside_itself(source, tmp_path):
        return [source, "-o", source / "out.zarr"], "would replace an input, or lie in it"

    @staticmethod
    def into_a_folder_that_is_no_store(source, tmp_path):
        (tmp_path / "mine.zarr").mkdir()
        return [source, "-o", tmp_path / "mine.zarr", "--overwrite"], "is no Zarr store"

    @staticmethod
    def into_another_image(source, tmp_path):
        other = store(tmp_path / "other.ome.zarr", np.zeros((8, 8), np.uint8), "YX")
        return [source, "-o", other], "is another image; pass --overwrite"

    @staticmethod
    def two_into_one(source, tmp_path):
        other = store(tmp_path / "other.ome.zarr", np.zeros((8, 8), np.uint8), "YX")
        return [source, other, "-o", tmp_path / "out.zarr"], "holds the results of one image; got 2"

    @staticmethod
    def a_group_without_an_image(_, tmp_path):
        zarr.open_group(tmp_path / "group.zarr", mode="w").create_group("inner")
        return [tmp_path / "group.zarr", "-o", tmp_path / "out.zarr"], "it holds inner: name one of them"

    @staticmethod
    def broken_metadata(source, tmp_path):
        (source / "zarr.json").write_text("{")
        return [source, "-o", tmp_path / "out.zarr"], "not a Zarr store"

    @staticmethod
    def no_scheduler(source, tmp_path):
        return [source, "-o", tmp_path / "out.zarr", "--scheduler", "nonsense://x"], "nonsense"


@pytest.mark.parametrize("kind", [name for name in vars(Wrong) if not name.startswith("_")])
def test_wrong_arguments_are_one_line_and_write_nothing(kind, tmp_path, model, capsys):
    source = store(tmp_path / "big.ome.zarr", noise((20, 20)), "YX")
    arguments, message = getattr(Wrong, kind)(source, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["restore", *map(str, arguments), *model]) in (1, 2)
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_or_device_that_cannot_run_here_is_told_before_anything_is_written(tmp_path, tiny_checkpoint, capsys):
    source = store(tmp_path / "big.ome.zarr", noise((20, 20)), "YX")
    broken = tmp_path / "broken.safetensors"
    content = bytearray(tiny_checkpoint.read_bytes())
    content[-4000:] = b"\xff" * 4000  # NaN
    broken.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    for options in (["--model", str(broken)], ["--model", str(tiny_checkpoint), "--device", "cuda:99"]):
        assert main(["restore", str(source), "-o", str(tmp_path / "out.zarr"), *options]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("package", "options"), [("zarr", []), ("distributed", ["--scheduler", "tcp://127.0.0.1:1"])])
def test_a_missing_package_is_named_with_what_to_install(package, options, tmp_path, model, monkeypatch, capsys):
    source = store(tmp_path / "big.ome.zarr", noise((20, 20)), "YX")
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["restore", str(source), "-o", str(tmp_path / "out.zarr"), *options, *model]) == 1
    error = capsys.readouterr().err
    assert f"the package {package}: pip install 'napari-dmgn[large]'" in error
    assert error.count("\n") == 1
