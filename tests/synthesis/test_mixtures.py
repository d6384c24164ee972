"""Parts by name: what a task is made of, and with what weights."""

import math

import pytest
import torch

from napari_dmgn.synthesis.degradation import Sources
from napari_dmgn.synthesis.mixtures import DEFAULT_WEIGHTS, TASK_PARTS, mixture, validation_parts


@pytest.mark.parametrize("task", TASK_PARTS)
def test_every_part_has_a_default_weight(task):
    assert list(DEFAULT_WEIGHTS[task]) == list(TASK_PARTS[task])
    assert math.isclose(sum(DEFAULT_WEIGHTS[task].values()), 1)
    assert all(weight > 0 for weight in DEFAULT_WEIGHTS[task].values())


def test_the_tasks_and_kinds():
    assert list(TASK_PARTS) == ["rain", "haze", "reflection", "stripes", "veil", "background"]
    wants = {task: (mixture(task).wants_layer, mixture(task).wants_depth) for task in TASK_PARTS}
    assert wants["rain"] == wants["haze"] == (False, True)
    assert wants["reflection"] == wants["veil"] == (True, False)
    assert wants["stripes"] == wants["background"] == (False, False)
    assert not mixture("rain", {"light": 1, "heavy": 2}).wants_depth


@pytest.mark.parametrize("task", TASK_PARTS)
def test_validation_scores_every_part_but_the_clean_image(task):
    parts = validation_parts(task)
    assert list(parts) == [name for name in TASK_PARTS[task] if name != "none"]
    clean = torch.full((1, 3, 16, 16), 0.5)
    sources = Sources(layer=torch.linspace(0, 1, 256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16))
    for degrade in parts.values():
        assert degrade(clean, torch.Generator().manual_seed(0), sources).noise.any()


def test_weights_choose_the_parts():
    clean = torch.zeros((500, 3, 1, 1))
    part = mixture("haze", {"dense": 1, "none": 3})(clean, torch.Generator().manual_seed(0)).parameters["part"]
    names = [list(TASK_PARTS["haze"])[int(i)] for i in part]
    assert set(names) == {"dense", "none"}
    assert names.count("none") == pytest.approx(375, abs=40)


@pytest.mark.parametrize(
    ("task", "weights", "message"),
    [
        ("snow", None, "no synthesis for task 'snow'; wanted one of rain, haze, reflection, stripes, veil, background"),
        ("rain", {"light": 1, "mist": 1}, "rain has no part mist; its parts are light, heavy, veiled, photo, none"),
        ("rain", {}, "not all zero"),
        ("haze", {"thin": -1, "none": 2}, "wanted numbers >= 0"),
        ("haze", {"thin": math.nan}, "wanted numbers >= 0"),
        ("haze", {"thin": math.inf}, "wanted numbers >= 0"),
    ],
)
def test_wrong_mixtures_are_refused(task, weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(task, weights)


def test_validation_of_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="no synthesis for task 'snow'"):
        validation_parts("snow")


def test_a_reflection_without_another_picture_is_refused():
    with pytest.raises(ValueError, match="the layer is missing"):
        mixture("reflection", {"ghost": 1})(torch.zeros((1, 3, 8, 8)), torch.Generator())
