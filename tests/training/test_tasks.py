"""Every task, and kinds of noise of one's own, from clean pictures, pairs, arrays and depth maps."""

import numpy as np
import pytest
from PIL import Image

from napari_dmgn import checkpoint
from napari_dmgn.synthesis import mixtures
from napari_dmgn.training import check_data, iter_train, validation

OTHERS = sorted(set(mixtures.TASK_PARTS) - {"rain", "haze", "reflection"})


@pytest.mark.parametrize("task", ["rain", "haze", "reflection"])
def test_every_task_is_trained_and_validated_under_its_own_protocol(task, pictures, settings, tmp_path):
    config = settings(pictures, tmp_path, task=task, degradation={}, steps=2, validation_crop=48)
    *_, last = iter_train(config)
    wanted = {f"{part} {side}" for part in mixtures.validation_parts(task) for side in ("input", "output")}
    assert set(last.validation) == wanted
    header = checkpoint.read_header(last.model)
    assert header.task == task
    protocol = {"rain": "rain-y", "haze": "haze-rgb", "reflection": "reflection-rgb"}[task]
    assert header.card["scores"]["protocol"].startswith(f"{protocol} PSNR in dB, mean of 2 held-out pictures")
    assert header.card["scores"]["protocol"].endswith(f"synthetic {task}")


def test_a_kind_of_noise_of_ones_own_takes_the_task_it_resembles(pictures, settings, tmp_path):
    for kind in OTHERS:
        config = settings(
            pictures, tmp_path / kind, task="haze", degradation_kind=kind, degradation={}, steps=1, validation_crop=48
        )
        *_, last = iter_train(config)
        header = checkpoint.read_header(last.model)
        assert header.task == "haze"
        assert header.card["training"]["settings"]["degradation_kind"] == kind
        assert header.card["scores"]["protocol"].endswith(f"synthetic {kind}")


def test_only_parts_that_are_trained_on_are_validated(pictures, settings, tmp_path):
    *_, last = iter_train(settings(pictures, tmp_path, degradation={"heavy": 1, "light": 0, "none": 1}, steps=1))
    assert set(last.validation) == {"heavy input", "heavy output"}


def test_pairs_beside_clean_pictures(pictures, settings, tmp_path):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    random = np.random.default_rng(0)
    for i in range(5):
        clean = random.integers(0, 200, (60, 60, 3)).astype(np.uint8)
        Image.fromarray(clean).save(tmp_path / "out" / f"{i}.png")
        Image.fromarray(clean + np.uint8(40)).save(tmp_path / "in" / f"{i}.png")
    pair = {"input": str(tmp_path / "in"), "background": str(tmp_path / "out"), "weight": 2.0}
    config = settings(pictures, tmp_path / "run", sources=[pair], steps=3, validation_pictures=6)
    events = list(iter_train(config))
    assert set(events[-1].validation) == {
        *("light input", "light output", "heavy input", "heavy output"),
        *("pairs input", "pairs output"),
    }
    # 40 levels in R, G and B: 40 * 219 / 255 levels of luma.
    assert events[-1].validation["pairs input"] == pytest.approx(20 * np.log10(255 / (40 * 219 / 255)), abs=2e-3)
    held = settings(None, tmp_path / "b", sources=[pair], validation={"clean": str(pictures)}, steps=1)
    *_, last = iter_train(held)
    assert set(last.validation) == {"light input", "light output", "heavy input", "heavy output"}
    card = checkpoint.read_header(last.model).card
    assert str(tmp_path) not in str(card)


def test_arrays_alone_are_enough(settings, tmp_path):
    stack = np.random.default_rng(0).integers(0, 3000, (7, 50, 60)).astype(np.uint16)
    config = settings(None, tmp_path / "run", steps=2)
    *_, last = iter_train(config, arrays=[stack])
    assert last.model.exists()
    assert check_data(config, arrays=[stack]).lines()[0] == "arrays: 1 files -> 7 pictures"
    with pytest.raises(ValueError, match="no training pictures are named"):
        iter_train(settings(None, tmp_path / "other"))


def test_depth_maps_are_stretched_enlarged_and_part_of_what_is_resumed(pictures, settings, tmp_path):
    from napari_dmgn.training.depth import read_depth

    folder = tmp_path / "depth"
    folder.mkdir()
    ramp = np.repeat(np.linspace(60, 90, 24).astype(np.uint8)[None], 20, axis=0)
    Image.fromarray(ramp).save(folder / "a_depth.png")
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(folder / "a.png")
    pool = read_depth(str(folder), 40, "cpu")
    assert len(pool) == 1
    assert pool.pictures[0].side == 40
    whole = pool.pictures[0].pixels
    assert (whole.min(), whole.max()) == (0, 1)
    assert (whole.float().diff(dim=-1) >= 0).all()
    # The ramp goes across: only a crop that was turned changes from row to row.
    moves = [validation._depth(pool, 24, 16, upright).diff(dim=-2).abs().amax() for upright in (True, False)]
    assert moves[0] < 1e-3 < moves[1]
    config = settings(
        pictures, tmp_path / "run", task="haze", degradation={"outdoor": 1}, depth=str(folder), validation_crop=48
    )
    told = [event.loss for event in iter_train(config)]
    without = settings(
        pictures, tmp_path / "none", task="haze", degradation={"outdoor": 1}, validation_crop=48, steps=12
    )
    assert told != [event.loss for event in iter_train(without)]
    ramp[0, 0] = 0
    Image.fromarray(ramp).save(folder / "a_depth.png")
    with pytest.raises(ValueError, match="other training pictures"):
        iter_train(config, resume=True)


def test_depth_maps_are_as_large_as_the_validation_needs(pictures, settings, tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24)).save(folder / "a_depth.png")
    config = settings(
        pictures,
        tmp_path / "run",
        task="haze",
        degradation={"outdoor": 1},
        depth=str(folder),
        validation_crop=60,
        steps=1,
    )
    assert config.largest_crop < config.validation_crop
    *_, last = iter_train(config)
    assert set(last.validation) == {"outdoor input", "outdoor output"}


def test_a_check_reads_depth_maps_and_features_too(pictures, settings, tmp_path):
    for change, message in (
        ({"depth": str(tmp_path / "fog")}, "fog"),
        ({"features": str(tmp_path / "none.safetensors"), "losses": {"perceptual": 0.1}}, "cannot read features file"),
        ({"degradation": {"none": 1.0, "light": 0.0}}, "degradation has no part but none"),
    ):
        config = settings(pictures, tmp_path / "run", **change)
        with pytest.raises(ValueError, match=message):
            check_data(config)
        with pytest.raises(ValueError, match=message):  # as the training would
            iter_train(config)
    later = settings(pictures, tmp_path / "run", features="download", losses={"perceptual": 0.1})
    assert check_data(later).training == 3
