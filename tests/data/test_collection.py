"""Training and validation never share a scene, and what cannot be used is left out and told."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from napari_dmgn.data import SourceSpec, collect
from napari_dmgn.files import write_image


def picture(h=40, w=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "clean"
    made.mkdir()
    for i in range(8):
        Image.fromarray(picture(seed=i)).save(made / f"{i}.png")
    return made


@pytest.fixture
def paired(tmp_path):
    for name in ("rainy", "dry"):
        (tmp_path / name).mkdir()
    for i in range(6):
        Image.fromarray(picture(seed=20 + i)).save(tmp_path / "dry" / f"norain-{i}.png")
        for k in range(2):
            Image.fromarray(np.maximum(picture(seed=20 + i), 9 + k)).save(tmp_path / "rainy" / f"rain-{i}-{k}.png")
    return SourceSpec(input=str(tmp_path / "rainy"), background=str(tmp_path / "dry"))


def gather(*specs, **changes):
    return collect(specs, **{"crop": 32, "validation": 2, "validation_crop": 32, **changes})


def names(collection):
    held = [p.name for pool in (collection.held.clean, collection.held.pairs) if pool for p in pool.pictures]
    return [p.name for source in collection.sources for p in source.pool.pictures], held


def test_split_depends_on_names_alone_and_shares_nothing(folder, tmp_path):
    spec = SourceSpec(clean=str(folder))
    for count in range(1, 8):
        train, held = names(gather(spec, validation=count))
        assert (len(train), len(held)) == (8 - count, count)
        assert sorted(train + held) == [f"{i}.png" for i in range(8)]
    first = names(gather(spec))
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert names(gather(SourceSpec(clean=str(moved)))) == first
    for i in range(8):  # other pixels, same names
        Image.fromarray(picture(seed=i + 50)).save(moved / f"{i}.png")
    assert names(gather(SourceSpec(clean=str(moved)))) == first


def test_added_pictures_never_bring_a_training_picture_into_validation(folder):
    train, held = names(gather(SourceSpec(clean=str(folder)), validation=3))
    added = []
    for k in range(5):
        added.append(f"new{k}.png")
        Image.fromarray(picture(seed=90 + k)).save(folder / added[-1])
        more, now = names(gather(SourceSpec(clean=str(folder)), validation=3))
        assert set(train) <= set(more)
        assert set(now) <= set(held) | set(added)


def test_pictures_of_one_scene_stay_on_one_side(paired):
    collection = gather(paired)
    train, held = names(collection)
    scene = lambda name: name.split(" + ")[1]  # noqa: E731
    assert {scene(n) for n in train}.isdisjoint({scene(n) for n in held})
    assert len(held) == 2
    assert len(train) == 10
    assert collection.report.sources[0].rule == "number"
    assert collection.report.sources[0].pairs[0] == ("rain-0-0.png", "norain-0.png")


def test_a_training_picture_with_the_pixels_of_a_validation_picture_is_left_out(folder, tmp_path, paired):
    plain = names(gather(SourceSpec(clean=str(folder))))
    Image.open(folder / plain[1][0]).save(folder / "copy.bmp")
    collection = gather(SourceSpec(clean=str(folder)))
    assert "1 with the pixels of a validation picture" in str(collection.report.problems())
    assert len(names(collection)[0]) == len(plain[0])
    assert not {*plain[1], "copy.bmp"} & set(names(collection)[0])
    (folder / "copy.bmp").unlink()
    # Also of a folder that is named for validation, and of pairs: the same file is the same pixels.
    both = gather(SourceSpec(clean=str(folder)), held_out=SourceSpec(clean=str(folder)), validation=3)
    train, held = names(both)
    assert set(train).isdisjoint(held)
    assert len(held) == 3
    crossed = gather(SourceSpec(clean=str(tmp_path / "dry")), held_out=paired, validation=4)
    assert len(crossed.held) == 4
    (line,) = crossed.report.problems()
    assert "2 of the file of a validation picture" in line
    shutil.copytree(folder, tmp_path / "copies")
    for other, reason in ((folder, "of the file"), (tmp_path / "copies", "with the pixels")):
        with pytest.raises(ValueError, match=f"no picture is left to train on; .*: 8 {reason} of a validation"):
            gather(SourceSpec(clean=str(folder)), held_out=SourceSpec(clean=str(other)), validation=8)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_page_of_a_validation_pictures_file_is_trained_on(count, folder, tmp_path):
    stack = np.random.default_rng(0).integers(0, 900, (6, 40, 48)).astype(np.uint16)
    write_image(folder / "stack.tif", stack)
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "link.tif").symlink_to(folder / "stack.tif")
    collection = gather(SourceSpec(clean=str(folder)), held_out=SourceSpec(clean=str(apart)), validation=count)
    train, held = names(collection)
    assert len(held) == count
    assert train == [f"{i}.png" for i in range(8)]
    assert "6 of the file of a validation picture: stack.tif[0]" in str(collection.report.problems())


def test_files_of_one_name_in_two_folders_are_two(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for i in range(8):
        Image.fromarray(picture(seed=60 + i)).save(other / f"{i}.png")
    both = SourceSpec(clean=str(folder)), SourceSpec(clean=str(other))
    for count in (1, 2, 3, 9):
        collection = gather(*both, validation=count)
        train, held = names(collection)
        assert (len(train), len(held)) == (16 - count, count)  # nothing is left out beside another
        assert collection.report.problems() == []
    alone = names(gather(both[0], validation=1))[1]
    assert names(gather(*both, validation=2))[1] == 2 * alone  # the ranking is by name, as of one folder


def test_small_unreadable_unequal_and_unmatched_files_are_told_and_left_out(folder, paired, tmp_path):
    Image.fromarray(picture(31, 60)).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"no picture")
    Image.fromarray(picture(39, 48)).save(tmp_path / "dry" / "norain-5.png")
    Image.fromarray(picture()).save(tmp_path / "dry" / "norain-77.png")
    collection = gather(SourceSpec(clean=str(folder)), paired)
    first, second = (source.excluded for source in collection.report.sources)
    assert first["smaller than the crops of 32 px"] == ["small.png (60x31)"]
    assert "broken.png" in first["unreadable"][0]
    assert len(second["unequal"]) == 2
    assert second["unmatched"] == ["dry/norain-77.png"]
    train, held = names(collection)
    assert len(train) + len(held) == 8 + 10
    text = "\n".join(collection.report.lines())
    for word in ("small.png (60x31)", "broken.png", "unequal (2)", "dry/norain-77.png"):
        assert word in text
    assert "sizes: 48x40 (8), 60x31 (1)" in text
    assert json.loads(json.dumps(collection.report.to_dict()))["training"] == len(train)


def test_too_few_pictures_are_an_error_or_a_report(folder, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    Image.fromarray(picture()).save(one / "a.png")
    cases = [
        (
            SourceSpec(clean=str(one)),
            {"validation": 1},
            "1 of 1 pictures for validation leave none to train; wanted at least 2 pictures, or validation, a source",
        ),
        (
            SourceSpec(clean=str(folder)),
            {"validation": 8},
            "8 of 8 pictures for validation leave none to train; lower validation_pictures",
        ),
        (
            SourceSpec(clean=str(folder)),
            {"crop": 41},
            "no picture is left to train on; .*6 smaller than the crops of 41",
        ),
        (SourceSpec(clean=str(folder)), {"validation_crop": 41}, "0 of 8 pictures have the 41 px of validation_crop"),
    ]
    for spec, change, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            gather(spec, **change)
        assert "\n" not in str(caught.value)
        report = gather(spec, checking=True, **change).report
        assert message.split(";")[0] in str(report.problems())
        assert report.validation == 0
    with pytest.raises(ValueError, match="wanted data, sources or arrays"):
        gather()


def test_of_few_stacks_the_last_frames_are_held_out(tmp_path):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for k in range(2):
        write_image(folder / f"s{k}.tif", np.random.default_rng(k).integers(0, 900, (6, 40, 48)).astype(np.uint16))
    train, held = names(gather(SourceSpec(clean=str(folder)), validation=3))
    assert {"s0.tif[5]", "s1.tif[5]"} < set(held)
    assert len(train) == 9
    assert "s0.tif[0]" in train
    # Files too small to validate on are no files to choose from.
    for k in range(2):
        write_image(folder / f"small{k}.png", np.random.default_rng(k).integers(0, 255, (34, 34), dtype=np.uint8))
    more, again = names(gather(SourceSpec(clean=str(folder)), validation=3, validation_crop=40))
    assert again == held
    assert set(train) < set(more)


def test_arrays_are_sources_too():
    clean = [picture(seed=i) for i in range(4)]
    pairs = [(np.maximum(p, 9), p) for p in (picture(seed=9 + i) for i in range(3))]
    collection = gather(arrays=[*clean, *pairs], validation=2)
    assert [s.pool.layers for s in collection.sources] == [1, 2]
    assert collection.report.training + collection.report.validation == 7
    with pytest.raises(ValueError, match="array 0: shapes"):
        gather(arrays=[(picture(), picture()[:-1])])


def test_pairs_and_layers_are_taken_as_they_come_and_others_refused_by_name():
    pairs = [(np.maximum(p, 9), p) for p in (picture(seed=9 + i) for i in range(4))]
    wanted = gather(arrays=pairs)

    def layer(array, **facts):
        return SimpleNamespace(data=array, rgb=True, multiscale=False, **facts)

    for same in ([list(pair) for pair in pairs], [[layer(a), layer(b)] for a, b in pairs]):
        assert gather(arrays=same).digest == wanted.digest
    # Four planes of four columns are a stack, not colours, where the layer says so.
    stack = np.random.default_rng(0).integers(0, 256, (40, 48, 4)).astype(np.uint8)
    levels = SimpleNamespace(data=[stack.transpose(2, 0, 1), stack[:1]], rgb=False, multiscale=True)
    assert [p.size for s in gather(arrays=[levels]).sources for p in s.pool.pictures] == ["48x40"] * 2
    for bad, seen in (
        ([picture()] * 3, r"a list of 3 \(ndarray\)"),
        ((picture(),), r"a tuple of 1 \(ndarray\)"),
        ([picture(), "dry.png"], r"a list of 2 \(ndarray, str\)"),
        ("wet.png", "a str"),
    ):
        with pytest.raises(ValueError, match=f"array 1 is {seen}; wanted an array, a layer, or a pair"):
            gather(arrays=[picture(), bad])
