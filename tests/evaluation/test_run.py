"""Evaluations whose results are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest

import napari_dmgn as dmgn
from napari_dmgn.evaluation import Item, Method, PairSet, clean_set, iter_evaluate, told_apart
from napari_dmgn.metrics import score
from napari_dmgn.model.cost import cost


def shifted(clean: np.ndarray, by: int) -> np.ndarray:
    return (clean.astype(int) + by).astype(np.uint8)


def pairs(clean: np.ndarray, *offsets: int, name: str = "offsets", **kwargs) -> PairSet:
    items = tuple(
        Item(name=str(offset), part="up" if offset > 0 else "down", load=lambda by=offset: (shifted(clean, by), clean))
        for offset in offsets
    )
    return PairSet(**{"name": name, "task": "haze", "protocol": "haze-rgb", "items": items} | kwargs)


# Restores what `pairs` put on, but for one level.
HALF = Method(name="half", task="haze", run=lambda picture: shifted(picture, -1), gmac=lambda h, w: h * w / 1e9)
NOTHING = Method(name="nothing", task="rain", run=lambda picture: picture)


def level(offset: float) -> float:
    return 20 * np.log10(255 / abs(offset))


def test_scores_and_means_are_those_of_the_metrics(clean):
    evaluation = dmgn.evaluate(pairs(clean, 2, 4, -3), [HALF, NOTHING])
    assert len(evaluation.scores) == 6
    for one in evaluation.scores:
        offset = int(one.picture)
        assert one.before["psnr"] == pytest.approx(level(offset))
        assert one.before == score(shifted(clean, offset), clean, "haze-rgb")
        after = offset if one.method == "nothing" else offset - 1
        assert one.after["psnr"] == pytest.approx(level(after))
        assert (one.width, one.height, one.protocol) == (48, 40, "haze-rgb")
        assert one.gmac == (None if one.method == "nothing" else pytest.approx(48 * 40 / 1e9))
        assert one.seconds >= 0
    means = {(mean.method, mean.part): mean for mean in evaluation.means()}
    assert set(means) == {(method, part) for method in ("half", "nothing") for part in ("up", "down", "all")}
    up = means["half", "up"]
    assert up.pairs == 2
    assert up.after["psnr"] == pytest.approx((level(1) + level(3)) / 2)
    assert up.least == pytest.approx(level(3))
    assert means["half", "all"].before["psnr"] == pytest.approx((level(2) + level(4) + level(3)) / 3)


def test_pairs_that_cannot_be_scored_are_reported_and_in_no_mean(tmp_path, put, clean):
    for name in ("good", "smaller", "broken", "stack", "lonely"):
        put(f"set/input/{name}.tif", shifted(clean, 5))
        put(f"set/target/{name}.tif", clean)
    put("set/target/smaller.tif", clean[:-1])
    put("set/target/stack.tif", np.stack([clean[..., 0]] * 5))
    (tmp_path / "set/input/broken.tif").write_bytes(b"II*\0broken")
    (tmp_path / "set/target/lonely.tif").unlink()
    events = list(iter_evaluate(tmp_path / "set", [HALF, NOTHING], task="haze"))
    evaluation = events[-1].evaluation
    reasons = {one.picture.rpartition("/")[2]: one.reason for one in evaluation.excluded}
    assert set(reasons) == {"smaller", "broken", "stack", "lonely"}
    assert reasons["smaller"] == "input and target differ in size: 48x40 and 48x39"
    assert "a broken TIFF image" in reasons["broken"]
    assert "shape (5, 40, 48)" in reasons["stack"]
    assert "no target" in reasons["lonely"]
    assert [mean.pairs for mean in evaluation.means()] == [1, 1]
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total == 10
    report = evaluation.to_markdown()
    assert "Left out, and in no mean (4):" in report
    assert all(reason in report for reason in reasons.values())


def test_nothing_to_score_is_an_error(tmp_path, put, clean):
    put("set/input/a.png", clean[:9])
    put("set/target/a.png", clean)
    with pytest.raises(ValueError, match="no pair could be scored; the first of 1: input/a: input and target differ"):
        dmgn.evaluate(tmp_path / "set", HALF)


def test_a_method_that_makes_nonsense_is_named(clean):
    wrong = {
        "nan": lambda picture: picture * np.nan,
        "small": lambda picture: picture[1:],
        "bytes": lambda picture: picture.astype(np.float32),
        "whole": lambda picture: picture.astype(np.int64),
        "flat": lambda picture: picture.ravel(),
        "none": lambda picture: None,
        "list": lambda picture: picture.tolist(),
    }
    for name, run in wrong.items():
        with pytest.raises(ValueError, match=f"what {name} made of 5 cannot be scored: image"):
            dmgn.evaluate(pairs(clean, 5), Method(name=name, task="haze", run=run))


def test_a_result_beyond_its_range_by_rounding_is_scored(clean):
    over = Method(name="over", task="haze", run=lambda picture: np.float32(picture / 255 * 0 + 1.004))
    (one,) = dmgn.evaluate(pairs(clean, 5), over).scores
    assert one.after == score(np.full(clean.shape, 255, np.uint8), clean, "haze-rgb")
    with pytest.raises(ValueError, match=r"made of 5 cannot be scored: image spans 1\.0\d+ to 1\.0\d+; wanted"):
        dmgn.evaluate(pairs(clean, 5), replace(over, run=lambda picture: np.float32(picture / 255 * 0 + 1.02)))


def test_pairs_of_values_that_no_metric_takes_are_left_out(clean):
    wrong = {
        "floats to 255": (clean.astype(float), clean),
        "int64": (clean, clean.astype(np.int64)),
        "flat": (clean.ravel(), clean.ravel()),
        "gray": (clean[..., 0], clean[..., 0]),
        "none": (None, clean),
        "empty": (clean[:0], clean[:0]),
    }
    items = tuple(Item(name=name, load=lambda pair=pair: pair) for name, pair in wrong.items())
    good = Item(name="good", load=lambda: (clean, clean))
    evaluation = dmgn.evaluate(PairSet(name="mixed", task="haze", protocol="haze-rgb", items=(*items, good)), NOTHING)
    assert [one.picture for one in evaluation.scores] == ["good"]
    assert {one.picture: one.reason.partition(";")[0] for one in evaluation.excluded} == {
        "floats to 255": f"image spans {float(clean.min())} to {float(clean.max())}",
        "int64": "image is int64 (40, 48, 3)",
        "flat": "image is uint8 (5760,)",
        "gray": "image is uint8 (40, 48)",
        "none": "image is a NoneType, no NumPy array",
        "empty": "image is uint8 (0, 48, 3)",
    }


def test_a_model_is_scored_by_what_restore_makes(tmp_path, put, clean, run_on):
    put("in/a.png", shifted(clean, 9))
    put("out/a.png", clean)
    seen = []
    evaluation = dmgn.evaluate((tmp_path / "in", tmp_path / "out"), **run_on, progress=seen.append)
    restored = dmgn.restore(shifted(clean, 9), **run_on).background
    (one,) = evaluation.scores
    assert one.after == score(restored, clean, "rain-y")
    np.testing.assert_array_equal(seen[0].pictures[1], restored)
    facts = evaluation.methods["tiny"]
    model = dmgn.load_model(run_on["model"])
    assert facts["sha256"] == model.metadata.sha256
    assert (facts["device"], facts["precision"]) == ("cpu", "float32")
    assert facts["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert one.gmac == cost(model.config, 40, 48).macs / 1e9 > 0


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pictures_of_other_types_are_scored_in_their_own_range(dtype, tmp_path, put, clean, run_on):
    """Not stretched to their own extremes: the scores are those of 8 bits to rounding."""
    top = 65535 if dtype == np.uint16 else 1
    for folder, picture in (("in", shifted(clean, 9)), ("out", clean)):
        put(f"{folder}/a.tif", (picture / 255 * top).round(0 if dtype == np.uint16 else 9).astype(dtype))
        put(f"{folder}8/a.tif", picture)
    fine, coarse = (
        dmgn.evaluate((tmp_path / f"in{n}", tmp_path / f"out{n}"), protocol="haze-rgb", **run_on).scores[0]
        for n in ("", "8")
    )
    assert fine.before["psnr"] == pytest.approx(coarse.before["psnr"], abs=1e-3)
    assert fine.after["psnr"] == pytest.approx(coarse.after["psnr"], abs=0.05)


def test_clean_pictures_are_scored_by_what_each_model_removes(tmp_path, put, clean):
    put("pics/a.png", clean)
    evaluation = dmgn.evaluate(clean_set(tmp_path / "pics"), [HALF, NOTHING])
    scores = {one.method: one for one in evaluation.scores}
    assert {one.method: one.protocol for one in evaluation.scores} == {"half": "haze-rgb", "nothing": "rain-y"}
    assert scores["half"].before["psnr"] == float("inf")
    assert scores["half"].after["psnr"] == pytest.approx(level(1))
    assert scores["nothing"].after["psnr"] == float("inf")
    assert "∞ → 48.13" in evaluation.to_markdown()


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path, put, clean):
    folders = [tmp_path / place for place in ("a/x/pairs", "b/x/pairs", "b/y/pairs", "other")]
    for folder in folders:
        for kind in ("input", "target"):
            put(str(folder / kind / "1.png"), clean)
    assert list(dmgn.evaluate(folders, NOTHING).sets) == ["a/x/pairs", "b/x/pairs", "b/y/pairs", "other"]
    assert list(dmgn.evaluate(folders[1:3], NOTHING).sets) == ["x/pairs", "y/pairs"]
    two = [(folder / "input", folder / "target") for folder in folders[::3]]
    assert list(dmgn.evaluate(two, NOTHING).sets) == ["pairs/input", "other/input"]
    for place in ("x", "y"):
        put(str(tmp_path / "a" / place / "1.png"), clean)
    old, new = (replace(clean_set(tmp_path / "a" / place), name="Rain100L") for place in ("x", "y"))
    assert [one.name for one in told_apart([old, new])] == ["x/Rain100L", "y/Rain100L"]  # folders of one parent
    for same in ([folders[0], folders[0]], [clean_set(folders[0] / "input"), clean_set(folders[1] / "input")]):
        with pytest.raises(ValueError, match=r"two sets are called .*; wanted different folders"):
            iter_evaluate(same, NOTHING)


def test_without_a_model_each_task_takes_its_own(tmp_path, put, clean):
    put("set/input/a.png", shifted(clean, 9))
    put("set/target/a.png", clean)
    evaluation = dmgn.evaluate(tmp_path / "set", device="cpu")
    assert evaluation.methods["rain"]["task"] == "rain"
    with pytest.raises(ValueError, match="has no task of its own; wanted a model or a task"):
        dmgn.evaluate(clean_set(tmp_path / "set/input"))


def test_wrong_arguments_are_told_before_any_work(tmp_path, put, clean):
    read = []
    watched = Item(name="x", load=lambda: read.append(1) or (clean, clean))
    data = pairs(clean, items=(watched,))
    for arguments, message in (
        ({"protocol": "rain"}, "unknown protocol 'rain'"),
        ({"protocol": ["x"]}, r"unknown protocol \['x'\]"),
        ({"limit": 0}, "limit is 0; wanted 1"),
        ({"limit": 1.5}, "limit is 1.5; wanted 1"),
        ({"limit": "3"}, "limit is '3'; wanted 1"),
        ({"limit": True}, "limit is True; wanted 1"),
        ({"model": 5}, "model is a name, a file, a loaded model, a Method or a list of these; got 5$"),
        ({"model": [None]}, "or a list of these; got None$"),
        ({"model": [HALF, clean]}, "or a list of these; got a ndarray$"),
        ({"model": []}, "no models to evaluate"),
        ({"model": "no-such"}, "no model 'no-such'"),
        ({"model": [HALF, HALF]}, "a model is given twice among half, half"),
        ({"data": [data, data]}, "two sets are called 'offsets'"),
        ({"data": 3}, "data is a folder, two folders, a PairSet or a list of these; got 3"),
        ({"data": []}, "data is a folder"),
        ({"data": clean}, "data is a folder, two folders, a PairSet or a list of these; got a ndarray$"),
        ({"data": tmp_path, "task": ["rain"]}, r"unknown task \['rain'\]; the tasks are"),
    ):
        with pytest.raises(ValueError, match=message):
            iter_evaluate(**{"data": data, "model": HALF} | arguments)
    assert not read


def test_an_evaluation_stops_where_the_caller_stops(clean):
    events = iter_evaluate(pairs(clean, 1, 2, 3), HALF)
    assert next(events).done == 1
    events.close()
    assert list(events) == []


def test_models_of_one_name_are_told_apart_by_their_checksum(clean):
    twins = [
        Method(name="same", task="haze", run=lambda picture: picture, facts={"sha256": sha}) for sha in ("aa", "bb")
    ]
    evaluation = dmgn.evaluate(pairs(clean, 1), twins)
    assert list(evaluation.methods) == ["same (aa)", "same (bb)"]
