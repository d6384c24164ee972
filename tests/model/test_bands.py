"""Working through large maps in bands changes nothing but the memory."""

import pytest
import torch
import torch.nn.functional as F

from napari_dmgn.model import bands
from napari_dmgn.model.bands import in_bands


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bands, "LARGE", 1)
    monkeypatch.setattr(bands, "BAND", 1)


def blurred(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two local maps that reach three rows, with the border reflected."""
    kernel = torch.linspace(0.1, 1, 21, dtype=x.dtype).reshape(1, 1, 7, 3)
    low = F.conv2d(F.pad(x[:, :1] + y, (1, 1, 3, 3), mode="reflect"), kernel)
    return low * x, low


@torch.no_grad()
def test_bands_are_the_whole_at_every_height():
    for height in range(4, 40):
        x = torch.randn((2, 3, height, 5), generator=torch.Generator().manual_seed(height), dtype=torch.float64)
        calls = []

        def f(a, b, calls=calls):
            calls.append(a.shape[2])
            return blurred(a, b)

        found = in_bands(f, x, x[:, 1:2], reach=3)
        for part, wanted in zip(found, blurred(x, x[:, 1:2]), strict=True):
            torch.testing.assert_close(part, wanted, atol=1e-12, rtol=0)
        assert len(calls) == -(-height // 8)
        assert max(calls) <= 8 + 2 * 3


def test_nothing_is_cut_where_gradients_are_wanted_or_maps_are_small(monkeypatch):
    heights = []

    def f(x):
        heights.append(x.shape[2])
        return (2 * x,)

    x = torch.ones((1, 1, 50, 2), requires_grad=True)
    in_bands(f, x, reach=0)[0].sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2))
    monkeypatch.setattr(bands, "LARGE", x.numel() + 1)
    with torch.no_grad():
        in_bands(f, x, reach=0)
    assert heights == [50, 50]
