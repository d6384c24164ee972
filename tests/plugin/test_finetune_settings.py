"""What a fine-tuning is made of, without a viewer: settings, files, runs."""

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_dmgn.data import find_pictures, read_pictures
from napari_dmgn.plugin import finetune_request
from napari_dmgn.plugin.finetune_pictures import LayerPictures, cuts
from napari_dmgn.plugin.finetune_process import only_one
from napari_dmgn.plugin.finetune_request import KINDS, FineTuneRequest, unfinished_runs
from napari_dmgn.plugin.finetune_settings import choose_settings, to_toml
from napari_dmgn.plugin.models import model_summary
from napari_dmgn.plugin.source import Source
from napari_dmgn.training import TrainConfig, loop
from napari_dmgn.zoo import ModelInfo


@pytest.fixture
def request_of(tiny_checkpoint):
    def make(**changes):
        values = {
            "name": "mine",
            "base": str(tiny_checkpoint),
            "task": "rain",
            "sources": ({"clean": "pictures"},),
            "kind": "stripes",
            "steps": 60,
            "device": "cpu",
        }
        return FineTuneRequest(**{**values, **changes})

    return make


def test_settings_suit_the_pictures(request_of, tmp_path):
    def chosen(sides, **changes):
        config = choose_settings(request_of(**changes), tmp_path, sides)
        return config.phases[0][1:], config.validation_crop, config.validation_pictures

    assert chosen([512] * 10) == ((192, 2), 256, 2)
    assert chosen([128] * 10) == ((128, 4), 128, 2)
    # One small picture of ten is left out, three would be too many.
    assert chosen([300] * 9 + [40]) == ((192, 2), 256, 2)
    assert chosen([300] * 7 + [40] * 3) == ((32, 16), 32, 2)
    assert chosen([20, 20]) == ((32, 16), 32, 1)
    assert chosen([64] * 100, share=0.5)[2] == 24
    assert chosen([64] * 2, share=0.9)[2] == 1
    for sides in ([], [64]):
        with pytest.raises(ValueError, match=f"^{len(sides)} pictures? to train on; wanted at least 2"):
            chosen(sides)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_settings_of_every_kind_are_valid_and_survive_their_file(request_of, tmp_path, kind):
    config = choose_settings(request_of(kind=kind, name='a "b" ü'), tmp_path, [64] * 5)
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(config.to_dict()), encoding="utf-8")
    assert TrainConfig.from_file(path) == config
    assert config.kind == ("rain" if kind is None else KINDS[kind].kind)


def test_a_fine_tuned_model_says_what_it_removes_and_what_it_gained(request_of, tmp_path):
    def summary(card, **changes):
        card = {**choose_settings(request_of(**changes), tmp_path, [64] * 5).card, **card}
        values = {"path": tmp_path / "mine.safetensors", "config": {}, "parameters": 1_000_000, "bytes": 1}
        return model_summary(ModelInfo(name="mine", task="rain", shipped=False, card=card, **values)).splitlines()

    comparison = {"base": "rain", "before": 33.5123, "after": 40.44, "untouched": 38.46, "better": True}
    scores = {"input": 38.46, "output": 40.44}  # the same once more
    lines = summary({"comparison": comparison, "scores": scores}, kind="dark stripes")
    assert lines == [
        "Removes dark stripes (light sheet). 1.0 million parameters.",
        "Fine-tuned from rain: 33.5 to 40.4 dB on the validation pictures (untouched 38.5).",
    ]
    assert summary({}, kind=None)[0] == "Removes the noise in the pairs that it was trained on. 1.0 million parameters."
    # Cards of other origin: of the command line without "untouched", or with nothing that can be used.
    del comparison["untouched"]
    assert summary({"comparison": comparison})[1].endswith("33.5 to 40.4 dB on the validation pictures.")
    assert len(summary({"comparison": {"before": "much"}, "removes": ["Stripes", "grids"]})) == 1
    assert summary({"removes": None})[0].startswith("Removes rain. ")
    assert summary({"removes": "DNA stains"})[0].startswith("Removes DNA stains. ")


def test_requests_are_checked_and_survive_their_file(request_of, tmp_path):
    request = request_of(minutes=2.5, steps=None)
    request.write(tmp_path)
    assert FineTuneRequest.read(tmp_path) == request
    for wrong, match in (
        ({"minutes": 1.0}, "wanted one of the two"),
        ({"steps": None}, "wanted one of the two"),
        ({"steps": -1}, "budget is -1"),
        ({"share": 1.0}, "share for validation is 1.0"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"kind": "snow"}, "'snow'; wanted one of rain"),
        ({"sources": ()}, "no pictures"),
    ):
        with pytest.raises(ValueError, match=match):
            request_of(**wrong)
    (tmp_path / finetune_request.REQUEST).write_text("{}")
    with pytest.raises(ValueError, match="cannot read"):
        FineTuneRequest.read(tmp_path)


def source(array, *, rgb=False):
    crop = tuple((0, side) for side in array.shape[: -1 if rgb else None])
    return Source(name="x", data=array, rgb=rgb, placement={}, appearance={}, crop=crop)


@pytest.mark.parametrize(
    ("shape", "rgb", "dtype"),
    [
        ((5, 20, 30), False, np.uint8),
        ((5, 3, 20, 4), False, np.uint16),
        ((2, 3, 20, 30), False, np.float32),
        ((5, 20, 30, 3), True, np.uint8),
        ((1, 2, 3, 20, 30), False, np.uint8),
    ],
)
def test_written_layers_are_read_frame_by_frame(tmp_path, shape, rgb, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    pictures = LayerPictures(items=((source(array, rgb=rgb),),))
    assert list(pictures.write(tmp_path)) == [1]
    (spec,) = pictures.sources(tmp_path)
    (path,) = find_pictures(spec["clean"])
    frames = [p.pixels[0] for p in read_pictures(path)]
    wanted = array.reshape(-1, *shape[-3 if rgb else -2 :])
    assert len(frames) == len(wanted)
    for frame, plane in zip(frames, wanted, strict=True):
        back = frame.numpy().transpose(1, 2, 0) if rgb else frame[0].numpy()
        if dtype == np.uint8:
            np.testing.assert_array_equal(back, plane)
        else:
            assert np.corrcoef(back.astype(float).ravel(), plane.astype(float).ravel())[0, 1] > 0.999


def test_few_large_pictures_are_cut_so_that_a_part_can_be_held_out(tmp_path):
    assert cuts([(1, 100)]) == [1]
    assert cuts([(1, 128)]) == [2]
    assert cuts([(1, 1000), (2, 300)]) == [3, 2]
    assert cuts([(4, 1000)]) == [1]
    array = np.arange(130 * 160, dtype=np.uint16).reshape(130, 160)
    pictures = LayerPictures(items=((source(array), source(array + 1)),))
    list(pictures.write(tmp_path))
    from napari_dmgn.files import read_image

    names = sorted(path.name for path in (tmp_path / "input").iterdir())
    assert names == ["000-00.tif", "000-01.tif", "000-10.tif", "000-11.tif"]
    for folder, offset in (("input", 0), ("background", 1)):
        parts = [read_image(tmp_path / folder / name).array for name in names]
        np.testing.assert_array_equal(np.block([parts[:2], parts[2:]]), array + offset)


def test_runs_that_can_go_on_are_found_the_latest_first(request_of, tmp_path):
    import os

    def run(name, messages, age, *, finished=False):
        folder = tmp_path / name
        folder.mkdir()
        request_of(name=name).write(folder)
        (folder / finetune_request.SETTINGS).write_text("")
        (folder / finetune_request.EVENTS).write_text("\n".join(messages))
        os.utime(folder / finetune_request.EVENTS, (1e9 - age, 1e9 - age))
        if finished:
            (folder / finetune_request.MODEL).write_text("")

    step = '{"kind": "step", "step": %d, "steps": 60}'
    run("old", [step % 3, step % 4, '{"kind": "stopped"}'], 9)
    run("new", [step % 7, '{"kind": "st'], 1)
    run("done", [step % 60], 0, finished=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / finetune_request.SETTINGS).write_text("")
    assert [run.label for run in unfinished_runs(tmp_path)] == ["new: step 7 of 60", "old: step 4 of 60"]
    assert unfinished_runs(tmp_path / "missing") == []


def test_a_folder_is_trained_in_by_one_process(tmp_path):
    with only_one(tmp_path), pytest.raises(ValueError, match="another process trains in"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_the_trainers_file_names():
    assert finetune_request.MODEL == loop.MODEL
