"""The loaded model states what it takes."""

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
