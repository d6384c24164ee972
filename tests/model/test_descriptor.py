"""The loaded model states what it takes."""

import numpy as np
import pytest
import torch

from napari_dmgn.model.descriptor import Metadata, Model


@pytest.fixture
def model(tiny_network):
    return Model(tiny_network, Metadata(name="tiny", task="rain", card={}, sha256=""))


@torch.inference_mode()
def test_model_is_its_network(model, tiny_network):
    batch = torch.rand((2, 3, 9, 13), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(batch).background, tiny_network(batch).background)
    assert list(model(batch, masks=True).masks) == list(tiny_network(batch, masks=True).masks)
    assert model.config is tiny_network.config


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); wanted \(N, 3, H, W\)"),
        (torch.zeros(1, 4, 8, 8), r"shape \(1, 4, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), "not empty"),
        (torch.zeros(1, 3, 0, 8), "not empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8; wanted a float tensor"),
    ],
)
def test_wrong_batches_are_refused(model, batch, message):
    with pytest.raises(ValueError, match=message):
        model(batch)


def test_what_is_no_tensor_is_refused(model):
    with pytest.raises(ValueError, match="batch is a ndarray; wanted a float tensor"):
        model(np.zeros((1, 3, 8, 8), np.float32))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_type_is_computed_in_the_networks(model, dtype):
    batch = torch.rand((1, 3, 9, 13), generator=torch.Generator().manual_seed(0)).to(dtype)
    background = model(batch).background
    assert background.dtype == torch.float32
    assert torch.equal(background, model(batch.float()).background)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_callers_autocast_changes_nothing(model, dtype):
    batch = torch.rand((1, 3, 9, 13), generator=torch.Generator().manual_seed(0))
    expected = model(batch).background
    with torch.autocast("cpu", dtype):
        assert torch.equal(model(batch).background, expected)
