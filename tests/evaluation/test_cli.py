"""`napari-dmgn evaluate`: what it writes, what it says, and how it fails."""

import json

import numpy as np
import pytest

from napari_dmgn.cli import main
from napari_dmgn.files import read_image
from napari_dmgn.metrics import score

FILES = {"report.json", "report.md", "sheet.png"}


@pytest.fixture
def model(tiny_checkpoint):
    return ["--model", str(tiny_checkpoint), "--device", "cpu", "--precision", "float32"]


@pytest.fixture
def pairs(tmp_path, put, clean):
    """A folder of two pairs, 5 and 10 levels too bright."""
    for name, by in (("a", 5), ("b", 10)):
        put(f"set/input/{name}.png", clean + np.uint8(by))
        put(f"set/target/{name}.png", clean)
    return tmp_path / "set"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_reports_and_sheet_of_a_folder(pairs, out, model, clean, capsys):
    assert main(["evaluate", str(pairs), "-o", str(out), *model]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "set: tiny: PSNR " in printed.out
    assert "(rain-y, 2 pairs, " in printed.out
    assert {path.name for path in out.iterdir()} == FILES
    report = json.loads((out / "report.json").read_text())
    befores = [one["before"] for one in report["scores"]]
    assert befores == [score(clean + np.uint8(by), clean, "rain-y") for by in (5, 10)]
    assert f"{befores[0]['psnr']:.2f} → " in (out / "report.md").read_text()
    sheet = read_image(out / "sheet.png").array
    assert sheet.shape[1] > 3 * 320  # input, model, target
    assert sheet.shape[0] > 2 * 320 * 40 / 48


def test_two_folders_of_one_name_are_told_apart_by_those_above(put, tmp_path, out, model, clean, capsys):
    for above in ("x", "y"):
        put(f"{above}/set/input/a.png", clean)
        put(f"{above}/set/target/a.png", clean)
    assert main(["evaluate", str(tmp_path / "x/set"), str(tmp_path / "y/set"), "-o", str(out), *model]) == 0
    printed = capsys.readouterr().out
    assert "x/set: tiny: PSNR " in printed
    assert "y/set: tiny: PSNR " in printed


def test_the_sheet_shows_input_result_and_target_in_their_columns(tmp_path, put, out, model, tiny_checkpoint):
    import napari_dmgn as dmgn

    picture = np.full((40, 48, 3), 90, np.uint8)
    target = np.full((40, 48, 3), 200, np.uint8)
    put("set/input/a.png", picture)
    put("set/target/a.png", target)
    assert main(["evaluate", str(tmp_path / "set"), "-o", str(out), *model]) == 0
    sheet = read_image(out / "sheet.png").array
    middle = sheet[26 + 26 + 130]
    columns = [middle[8 + 160 + index * 328] for index in range(3)]
    restored = dmgn.restore(picture, model=tiny_checkpoint, device="cpu", precision="float32").background
    assert (columns[0] == 90).all()
    assert (columns[2] == 200).all()
    np.testing.assert_allclose(columns[1], restored[20, 24], atol=25)


def test_json_answer_is_the_report_with_its_files(pairs, out, model, capsys):
    assert main(["evaluate", str(pairs), "-o", str(out), "--json", "--protocol", "haze-rgb", *model]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("files") == {name: str(out / name) for name in FILES}
    assert answer == json.loads((out / "report.json").read_text())
    assert {one["protocol"] for one in answer["scores"]} == {"haze-rgb"}


def test_models_against_sets_with_clean_and_synthetic_pictures(tmp_path, put, out, tiny_checkpoint, clean, capsys):
    put("pics/a.png", np.tile(clean, (1, 2, 1)))
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_checkpoint.read_bytes())
    arguments = ["evaluate", str(tmp_path / "pics"), "--clean", "--synthetic", "rain", "--parts", "light,heavy"]
    arguments += ["--pairs", "2", "--model", str(tiny_checkpoint), "--model", "rain", "--device", "cpu", "--json"]
    assert main([*arguments, "-o", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["methods"]) == ["tiny", "rain"]
    assert list(answer["sets"]) == ["pics (synthetic rain)", "pics (clean)"]
    assert [(mean["set"], mean["part"], mean["method"]) for mean in answer["means"]] == [
        ("pics (synthetic rain)", part, method) for part in ("light", "heavy", "all") for method in ("tiny", "rain")
    ] + [("pics (clean)", "", method) for method in ("tiny", "rain")]
    assert answer["means"][-1]["before"]["psnr"] == "inf"
    assert "## Every model on every set" in (out / "report.md").read_text()
    assert main([*arguments, "--model", str(other), "-o", str(tmp_path / "more")]) == 1
    assert "a model is given twice among tiny, rain, tiny" in capsys.readouterr().err


def test_kinds_of_microscopes_are_scored_as_protocol_task_or_model_say(tmp_path, put, out, tiny_network, clean, capsys):
    """What is on the pictures is the same; how it is scored is told, or else the model's own."""
    from napari_dmgn import checkpoint

    put("pics/a.png", np.tile(clean, (1, 2, 1)))
    mist = tmp_path / "mist.safetensors"
    checkpoint.save(mist, tiny_network, task="haze", card={"name": "mist"})
    arguments = ["evaluate", str(tmp_path / "pics"), "-o", str(out), "--device", "cpu", "--json", "--overwrite"]
    arguments += ["--synthetic", "stripes", "--parts", "dark", "--pairs", "1"]
    for words, task, protocol in (
        ([], None, "haze-rgb"),
        (["--task", "reflection"], "reflection", "reflection-rgb"),
        (["--task", "reflection", "--protocol", "rain-y"], "reflection", "rain-y"),
        (["--protocol", "allinone-rgb"], None, "allinone-rgb"),
    ):
        assert main([*arguments, "--model", str(mist), *words]) == 0
        answer = json.loads(capsys.readouterr().out)
        (one,) = answer["scores"]
        assert (one["set"], one["part"], one["protocol"]) == ("pics (synthetic stripes)", "dark", protocol)
        assert answer["sets"][one["set"]]["task"] == task
        assert one["before"]["psnr"] < 60  # there are stripes
    assert main(arguments) == 2
    assert "--synthetic stripes goes with --model or --task" in capsys.readouterr().err


def test_named_sets_and_a_folder_of_targets(tmp_path, put, out, model, clean, capsys):
    put("set/rainy/rain-1.png", clean)
    put("set/norain-1.png", clean + np.uint8(3))
    data = f"Rain100L={tmp_path / 'set'}"
    assert main(["evaluate", data, "-o", str(out), "--json", *model]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sets"]["Rain100L"]["published"][""]["DMGN"] == [38.53, 0.983]
    assert answer["sets"]["Rain100L"]["notes"] == ["1 pictures, the published set has 100"]
    arguments = ["evaluate", str(tmp_path / "set/rainy"), "--target", str(tmp_path / "set"), "--overwrite"]
    assert main([*arguments, "-o", str(out), "--json", *model]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["before"] == answer["scores"][0]["before"]


def test_a_pair_left_out_is_told_and_the_status_is_1(pairs, out, model, capsys):
    (pairs / "input/a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert main(["evaluate", str(pairs), "-o", str(out), *model]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("napari-dmgn: left out: set: input/a: cannot read ")
    assert "1 pair left out of the means" in printed.out
    assert {path.name for path in out.iterdir()} == FILES


def test_an_earlier_report_is_kept_unless_told_otherwise(pairs, out, model, capsys):
    out.mkdir()
    (out / "report.md").write_text("mine")
    arguments = ["evaluate", str(pairs), "-o", str(out), *model]
    assert main(arguments) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in out.iterdir()} == {"report.md": "mine"}
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "report.md").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "arguments are required"),
        (["{tmp}/absent"], 2, "no such folder"),
        (["Rain100X={tmp}/set"], 2, "unknown benchmark 'Rain100X'"),
        (["Rain100L={tmp}/set/input"], 2, "no pairs of Rain100L"),
        (["{tmp}/set", "--protocol", "psnr"], 2, "unknown protocol 'psnr'"),
        (["{tmp}/set", "--limit", "0"], 2, "whole number >= 1"),
        (["{tmp}/set", "--synthetic", "snow"], 2, "snow"),
        (["{tmp}/set/input", "--synthetic", "rain", "--parts", "drizzle"], 2, "no part 'drizzle'"),
        (["{tmp}/set/input", "--target", "{tmp}/set/target", "--clean"], 2, "--target goes with one folder"),
        (["Rain100L={tmp}/set", "--clean"], 2, "names a public test set"),
        (["Rain100L={tmp}/set", "--target", "{tmp}/set/target"], 2, "names a public test set"),
        (["{tmp}/set", "--crop", "9"], 2, "--crop goes with --clean or --synthetic"),
        (["{tmp}/set/input", "--clean", "--parts", "light"], 2, "--parts goes with --synthetic"),
        (["{tmp}/set", "--pairs", "9"], 2, "--pairs goes with --synthetic"),
        (["{tmp}/set/input", "--clean", "--seed", "0"], 2, "--seed goes with --synthetic"),
        (["{tmp}/set/input", "--synthetic", "rain", "--task", "haze"], 2, "--task goes without --synthetic"),
        (["{tmp}/set/input", "--synthetic", "rain", "--depth", "{tmp}"], 2, "--depth goes with --synthetic haze"),
        (["{tmp}/set", "{tmp}/set"], 2, "two sets are called 'set'"),
        ([""], 2, "an empty name"),
        (["{tmp}/set", "--model", "no-such"], 1, "no model 'no-such'"),
        (["{tmp}/set", "--device", "abacus"], 1, "abacus"),
    ],
)
def test_wrong_wishes_are_one_line_and_write_nothing(words, status, message, pairs, out, capsys):
    arguments = [word.format(tmp=pairs.parent) for word in words]
    assert main(["evaluate", *arguments, "-o", str(out)]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not out.exists()
