"""Folders, clean pictures and synthetic pairs as sets."""

from pathlib import Path

import numpy as np
import pytest

from napari_dmgn.evaluation import PairSet, clean_set, folder_set, synthetic_set
from napari_dmgn.synthesis.mixtures import validation_parts


def test_two_folders_pair_by_name_then_by_number_and_tell_of_the_rest(tmp_path, put):
    for name, value in (("a", 1), ("rain-007", 2), ("lonely", 3), ("x-3", 4), ("y-3", 5)):
        put(f"in/{name}.png", np.full((8, 8, 3), value, np.uint8))
    for name, value in (("a", 11), ("norain-7", 12), ("late", 16), ("z-3", 17)):
        put(f"out/{name}.tif", np.full((8, 8, 3), value, np.uint8))
    pairs, reasons = {}, {}
    for item in folder_set(tmp_path / "in", tmp_path / "out").items:
        try:
            pairs[item.name] = tuple(int(picture.mean()) for picture in item.load())
        except ValueError as error:
            reasons[item.name] = str(error)
    assert pairs == {"a": (1, 11), "rain-007": (2, 12)}
    # Two inputs of the number 3 for one target: no guess.
    assert set(reasons) == {"lonely", "x-3", "y-3", "late", "z-3"}
    assert "no target" in reasons["x-3"]
    assert "'z-3.tif' has no input" in reasons["z-3"]


def test_clean_pictures_are_their_own_targets(tmp_path, put, clean):
    for name in ("a", "b"):
        put(f"pics/{name}.png", clean)
    found = clean_set(tmp_path / "pics", crop=20)
    assert (found.task, found.protocol, found.notes) == (None, None, ("central 20 pixels",))
    assert clean_set(tmp_path / "pics", task="haze").protocol == "haze-rgb"
    for item in found.items:
        image, target = item.load()
        np.testing.assert_array_equal(image, target)
        np.testing.assert_array_equal(image, clean[10:30, 14:34])
    with pytest.raises(ValueError, match="the picture is 48x40; the crop needs 41x41"):
        clean_set(tmp_path / "pics", crop=41).items[0].load()


def test_synthetic_pairs_are_the_same_for_the_same_seed_and_name_only(tmp_path, put, clean):
    for name in ("a", "b", "c"):
        put(f"pics/{name}.png", clean)
    parts = list(validation_parts("rain"))

    def pictures(**options):
        found = synthetic_set(tmp_path / "pics", "rain", pairs=2 * len(parts), **options)
        return {(item.part, item.name): item.load() for item in found.items}

    first = pictures()
    assert [part for part, _ in first] == sorted((part for part, _ in first), key=parts.index)
    assert len(first) == 2 * len(parts)
    for (image, target), (again, _) in zip(first.values(), pictures().values(), strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(target, clean)
        assert image.dtype == np.uint8
        assert (image != clean).any()
    other = pictures(seed=1)
    assert other.keys() == first.keys()
    assert all((other[key][0] != first[key][0]).any() for key in first)
    put("pics/d.png", clean)  # more pictures may change the choice, never a pair
    more = pictures()
    for key in more.keys() & first.keys():
        np.testing.assert_array_equal(more[key][0], first[key][0])
    one = synthetic_set(tmp_path / "pics", "rain", parts=[parts[1]], pairs=5)
    assert [item.part for item in one.items] == [parts[1]] * 5
    assert len({item.load()[0].tobytes() for item in one.items}) == 5  # a picture used twice is rained on anew
    uneven = synthetic_set(tmp_path / "pics", "rain", parts=parts[:2], pairs=5)  # as many as were asked for
    assert [item.part for item in uneven.items] == [parts[0]] * 3 + [parts[1]] * 2


def test_the_pictures_taken_first_are_those_that_training_holds_out(tmp_path, put, clean):
    """Else the score would be one of pictures that the model has seen."""
    from napari_dmgn.data import SourceSpec, collect

    for i, letter in enumerate("abcdefgh"):
        put(f"pics/{letter}.png", np.roll(clean, i, axis=1))
    specs = [SourceSpec(clean=str(tmp_path / "pics"))]
    held_out = collect(specs, crop=16, validation=3, validation_crop=16).held.clean.pictures
    found = synthetic_set(tmp_path / "pics", "rain", parts=["light"], pairs=3)
    assert {item.name for item in found.items} == {Path(picture.name).stem for picture in held_out}


def test_every_part_of_every_task_is_made(tmp_path, put, clean):
    """Also of one picture alone: it reflects itself, upside down."""
    put("pics/a.png", clean)
    for task in ("rain", "haze", "reflection"):
        parts = validation_parts(task)
        found = synthetic_set(tmp_path / "pics", task, pairs=len(parts))
        assert [item.part for item in found.items] == list(parts)
        for item in found.items:
            image, target = item.load()
            assert image.shape == target.shape == clean.shape
            assert np.abs(image.astype(int) - target).mean() > 0.2, item.part


def test_what_is_reflected_is_another_picture(tmp_path, put, clean):
    from napari_dmgn.evaluation.sets import ranked_pictures

    for name in ("a", "b"):
        put(f"pics/{name}.png", clean // 4)
    options = {"parts": ["screen"], "pairs": 1}
    (dark,) = synthetic_set(tmp_path / "pics", "reflection", **options).items
    before = dark.load()[0]
    second = ranked_pictures(tmp_path / "pics")[1]
    put(f"pics/{second.name}", np.full((30, 90, 3), 250, np.uint8))  # another size: fitted
    (bright,) = synthetic_set(tmp_path / "pics", "reflection", **options).items
    assert bright.load()[0].mean() > before.mean() + 30


def test_haze_is_denser_where_the_given_depth_is_far(tmp_path, put, monkeypatch):
    from napari_dmgn.synthesis import mixtures
    from napari_dmgn.synthesis.haze import Haze

    put("pics/a.png", np.full((40, 64, 3), 30, np.uint8))
    put("depth/room.png", np.full((40, 64, 3), 30, np.uint8))  # the picture beside its map is no map
    put("depth/room_depth.png", np.tile(np.repeat([50, 200], 16).astype(np.uint8), (20, 1)))  # half the size
    # The part as it is uses given depth for half of the images; here for all.
    sure = Haze(transmission=(0.4, 0.65), real_depth=1.0)
    monkeypatch.setitem(mixtures.TASK_PARTS["haze"], "medium", lambda: sure)
    found = synthetic_set(tmp_path / "pics", "haze", depth=tmp_path / "depth", parts=["medium"], pairs=4)
    for item in found.items:
        image = item.load()[0].mean(axis=(0, 2))
        assert image[-24:].min() > image[:24].max() + 10  # half of the width each, but for the edge
    assert "depth maps given" in found.notes[0]


def test_wrong_wishes_are_refused(tmp_path, put, clean):
    put("pics/a.png", clean)
    pics = tmp_path / "pics"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no such folder"):
        clean_set(tmp_path / "absent")
    with pytest.raises(ValueError, match="no image"):
        synthetic_set(tmp_path / "empty", "rain")
    with pytest.raises(ValueError, match="no synthesis for task 'snow'"):
        synthetic_set(pics, "snow")
    with pytest.raises(ValueError, match="rain has no part 'drizzle'"):
        synthetic_set(pics, "rain", parts=["drizzle"])
    with pytest.raises(ValueError, match="1 pairs for 2 parts"):
        synthetic_set(pics, "rain", parts=["light", "heavy"], pairs=1)
    with pytest.raises(ValueError, match="has no pairs"):
        PairSet(name="none", task="rain", protocol="rain-y", items=())


def test_the_first_of_each_part_are_taken_and_the_published_figures_left(tmp_path, put, clean):
    for part in ("PostcardDataset", "WildSceneDataset"):
        for number in range(3):
            put(f"SIR2/{part}/blended/{number}-m.png", clean)
            put(f"SIR2/{part}/transmission_layer/{number}-g.png", clean)
    from napari_dmgn.evaluation import benchmark_set

    whole = benchmark_set(tmp_path / "SIR2")
    few = whole.first(2)
    assert [(item.part, item.name[-3:]) for item in few.items] == [
        ("Postcard", "0-m"), ("Postcard", "1-m"), ("Wild", "0-m"), ("Wild", "1-m"),
    ]  # fmt: skip
    assert whole.published
    assert few.published is None
    assert "4 of 6 pairs, as asked" in few.notes
    assert whole.first(None) is whole
    assert whole.scored_by("haze-rgb").published is None
