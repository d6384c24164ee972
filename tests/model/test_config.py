"""The network's numbers check themselves and survive the way through JSON."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from napari_dmgn.model.config import PRESETS, NetworkConfig
from napari_dmgn.model.growth import can_grow


def test_round_trip_through_json_keeps_every_setting():
    changed = NetworkConfig(
        trunk_stride=1,
        width=48,
        head_levels=2,
        branch_widths=[16, 24],
        bottleneck_cells=3,
        refine_dilations=[1, 3],
        mask_alpha=0.25,
        mask_decay=1,
        attention_reduction=8,
        mask_reduction=1,
        attention_convolutions=2,
        refine_kernel=3,
        skip="concat",
        head="vgg19",
        imagenet_range=True,
        image_range="signed",
        padding="reflect",
        align_corners=True,
        cell_bias=False,
        attention_bias=False,
        map_bias=False,
        separator_on="hidden",
        coarse_residual=False,
        noise_residual=True,
        output_hidden=True,
        output_scale=1,
        refine_tanh=False,
        noise_map=False,
        noise_branch=False,
        noise_in_source=False,
        cells="plain",
    )
    default = NetworkConfig()
    for name, value in changed.to_dict().items():
        # The normalised map is the official reflection preset's, the gain that of the compact one.
        assert value != default.to_dict()[name] or name in ("map_normalised", "background_gain"), name
    for config in (changed, *PRESETS.values()):
        again = NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert hash(again) == hash(config)


SWITCHES = [name for name, value in NetworkConfig().to_dict().items() if isinstance(value, bool)]


def test_files_without_the_later_settings_are_the_first_network():
    first = {
        "trunk_stride": 4, "width": 64, "head_levels": 3, "branch_widths": [64, 96], "bottleneck_cells": 6,
        "refine_dilations": [1, 2, 4, 1], "mask_alpha": 0.4, "mask_decay": 0.5, "attention_reduction": 4,
        "mask_reduction": 4, "attention_convolutions": 1, "refine_kernel": 1, "skip": "add",
    }  # fmt: skip
    assert NetworkConfig.from_dict(first) == NetworkConfig()
    assert can_grow(NetworkConfig(), PRESETS["compact"])  # which the shipped models began as


def test_only_presets_whose_result_depends_on_position_keep_the_images_own_size():
    compact, official = PRESETS["compact"], PRESETS["official-rain"]
    assert compact.exact_tiles
    assert not official.exact_tiles
    assert compact.working_size(17, 32) == (32, 32)
    assert official.working_size(37, 51) == (37, 51)
    assert official.working_size(1, 51) == (17, 51)  # a reflection of 16 positions needs 17
    learned = replace(compact, align_corners=True)
    assert learned.working_size(64, 41) == (64, 48)  # halved twice in a trunk of a quarter: multiples of 16


def test_a_switch_without_what_it_needs_is_refused():
    for name in ("noise_map", "noise_in_source"):
        others = {"noise_map": False, "noise_in_source": False, "noise_branch": False, name: True}
        with pytest.raises(ValueError, match=f"network setting {name} is True; wanted false where noise_branch is fal"):
            NetworkConfig(**others)
    with pytest.raises(ValueError, match="network setting map_normalised is True; wanted false where noise_map is"):
        NetworkConfig(map_normalised=True, noise_map=False)
    with pytest.raises(ValueError, match="network setting imagenet_range is True; wanted false where the head is no v"):
        NetworkConfig(imagenet_range=True)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("trunk_stride", [0, -2, 1.5, "2", None, True]),
        ("width", [0, 32.0, "x", None, False]),
        ("head_levels", [0, None]),
        ("bottleneck_cells", [0, 2.5]),
        ("mask_reduction", [0, 0.5]),
        ("attention_convolutions", [0, "two"]),
        ("branch_widths", [(), (0,), (8, 1.5), "88", 8, None]),
        ("refine_dilations", [(), (1, 0), ("1",), 3, None]),
        ("mask_alpha", [-0.1, 1.1, float("nan"), "x", None]),
        ("mask_decay", [-0.1, 2, float("nan"), None]),
        ("attention_reduction", [0, 1000, 1.5, None]),
        ("refine_kernel", [0, 2, 5, "3"]),
        ("skip", ["", "sum", None, 1]),
        ("head", ["vgg", None, 19, ["vgg19"]]),
        ("image_range", ["", (0, 1), None]),
        ("cells", ["", None, True]),
        ("padding", ["same", 1, None]),
        ("separator_on", ["F", None]),
        ("output_scale", [0, -1, 2, float("nan"), "1", None]),
        *((name, [0, 1, "yes", None]) for name in SWITCHES),
    ],
)
def test_each_wrong_value_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"network setting {name} is .*; wanted "):
            NetworkConfig(**{name: value})


def test_a_network_without_end_is_refused_at_once():
    counts = ("trunk_stride", "width", "head_levels", "bottleneck_cells", "mask_reduction", "attention_convolutions")
    for name in counts:
        for value in (2**20, 2**40, 10**30):
            with pytest.raises(ValueError, match=f"network setting {name} is .*; wanted an integer from 1 to"):
                NetworkConfig(**{name: value})
    for name in ("branch_widths", "refine_dilations"):
        for values in ((2**20,), (1,) * 1000):
            with pytest.raises(ValueError, match=f"network setting {name} is .*; wanted a list of up to") as caught:
                NetworkConfig(**{name: values})
            assert len(str(caught.value)) < 200


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown network settings \['depth', 'widht'\]; known are"):
        NetworkConfig.from_dict({"widht": 8, "width": 8, "depth": 3})


def test_stride_is_the_least_common_grid():
    """Every grid inside divides `stride`: the branch's, the head's and the attention's."""
    for trunk in (1, 2, 3):
        for levels in range(1, 6):
            for depth in range(1, 6):
                config = NetworkConfig(trunk_stride=trunk, head_levels=levels, branch_widths=(32,) * depth)
                grids = [trunk * g for g in (4, 2 ** (levels - 1), 2 ** (depth - 1))]
                assert config.stride == max(grids)
                assert all(config.stride % g == 0 for g in grids)
                assert config.receptive_radius % config.stride == 0


def test_settings_and_blank_model_package_need_no_torch():
    code = "import sys; from napari_dmgn.model.config import PRESETS; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
