"""Each part against the paper's formula, written out plainly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from napari_dmgn.model.blocks import (
    ChannelAttention,
    DeepMaskingCell,
    SpatialAttention,
    conv3x3,
    fuse_background_map,
)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(5)


def randomise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give every parameter, biases too, a value that matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.double().requires_grad_(False)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_cell_is_the_papers_formula(dilation, grad, random):
    """Y = X + M * H(X) (Eq. 4), M = sigmoid(1x1(tanh(1x1(H)))) (Eq. 5); memory is used again without gradients only."""
    with torch.set_grad_enabled(grad):
        check_cell(dilation, random)


def check_cell(dilation, random):
    cell = randomise(DeepMaskingCell(channels=6, mask_channels=3, dilation=dilation), random)
    x = torch.randn(2, 6, 9, 11, generator=random, dtype=torch.float64)
    x.requires_grad_(torch.is_grad_enabled())
    kept = x.detach().clone()
    h = x
    for conv in (cell.conv1, cell.conv2):
        h = F.conv2d(h, conv.weight, conv.bias, padding=dilation, dilation=dilation).clamp(min=0)
    first, second = (conv.weight[:, :, 0, 0] for conv in (cell.hidden, cell.gate))
    hidden = torch.tanh(torch.einsum("oc,nchw->nohw", first, h) + cell.hidden.bias[:, None, None])
    logits = torch.einsum("oc,nchw->nohw", second, hidden) + cell.gate.bias[:, None, None]
    wanted_mask = 1 / (1 + torch.exp(-logits))
    y, mask = cell(x)
    torch.testing.assert_close(mask, wanted_mask)
    torch.testing.assert_close(y, x + wanted_mask * h)
    assert torch.equal(x, kept)
    if torch.is_grad_enabled():
        found, wanted = (torch.autograd.grad(v.sum(), x)[0] for v in (cell(x)[0], x + wanted_mask * h))
        torch.testing.assert_close(found, wanted)

    background_map, weight = torch.rand(2, 1, 9, 11, generator=random, dtype=torch.float64), 0.3
    y, mask = cell(x, background_map=background_map, weight=weight)
    torch.testing.assert_close(mask, (wanted_mask + weight * background_map) / (1 + weight))
    torch.testing.assert_close(y, x + mask * h)


def test_mask_of_zero_is_the_identity_and_of_one_the_plain_residual(random):
    cell = randomise(DeepMaskingCell(channels=4, mask_channels=2), random)
    x = torch.randn(1, 4, 6, 7, generator=random, dtype=torch.float64)
    cell.gate.bias.fill_(-1e4)
    y, mask = cell(x)
    assert torch.equal(y, x)
    assert not mask.any()
    cell.gate.bias.fill_(1e4)
    y, mask = cell(x)
    h = cell.conv2(cell.conv1(x).clamp(min=0)).clamp(min=0)
    torch.testing.assert_close(y, x + h)


def test_background_map_is_fused_by_the_papers_formula(random):
    """(M + alpha q^(n-1) A_b) / (1 + alpha q^(n-1)) (Eq. 10), alpha 0.4 and q 0.5."""
    m, a = torch.rand(2, 3, 1, 5, 4, generator=random, dtype=torch.float64)
    for n in range(1, 7):
        weight = 0.4 * 0.5 ** (n - 1)
        wanted = (m + weight * a) / (1 + weight)
        fused = fuse_background_map(m, a, weight)
        torch.testing.assert_close(fused, wanted)
        assert (fused >= torch.minimum(m, a) - 1e-12).all()
        assert (fused <= torch.maximum(m, a) + 1e-12).all()
    torch.testing.assert_close(fuse_background_map(m, a, 0.0), m)
    torch.testing.assert_close(fuse_background_map(m, m, 0.7), m)


@pytest.mark.parametrize("convolutions", [1, 2])
def test_spatial_attention_is_the_papers_formula(convolutions, random):
    """1x1(tanh(1x1(3x3 convolutions + ReLU))) (f_att of Eq. 2 and 9)."""
    attention = SpatialAttention(in_channels=6, channels=4, out_channels=3, convolutions=convolutions)
    randomise(attention, random)
    x = torch.randn(2, 6, 8, 5, generator=random, dtype=torch.float64)
    kept = x.clone()
    h = x
    assert len(attention.convs) == convolutions
    for conv in attention.convs:
        h = F.conv2d(h, conv.weight, conv.bias, padding=1).clamp(min=0)
    h = F.conv2d(torch.tanh(F.conv2d(h, attention.hidden.weight, attention.hidden.bias)), attention.out.weight)
    torch.testing.assert_close(attention(x), h + attention.out.bias[:, None, None])
    assert torch.equal(x, kept)


def test_channel_attention_is_the_papers_formula(random):
    """f' = sigmoid(w f) f of a depth-wise 5x5 convolution of stride 4 (Eq. 7); a from its mean (Eq. 8)."""
    attention = randomise(ChannelAttention(channels=8, reduction=4), random)
    x = torch.randn(3, 8, 12, 16, generator=random, dtype=torch.float64)
    f = []
    for c in range(8):
        weight = attention.depthwise.weight[c : c + 1]
        f.append(F.conv2d(x[:, c : c + 1], weight, attention.depthwise.bias[c : c + 1], stride=4, padding=1))
    f = torch.cat(f, dim=1).clamp(min=0)
    wanted = f / (1 + torch.exp(-attention.sharpness * f))
    response = attention.response(x)
    assert response.shape == (3, 8, 3, 4)
    torch.testing.assert_close(response, wanted)
    assert (response >= 0).all()

    mean = response.mean(dim=(2, 3))
    squeezed = (mean @ attention.squeeze.weight.T + attention.squeeze.bias).clamp(min=0)
    assert squeezed.shape == (3, 2)
    gains = torch.sigmoid(squeezed @ attention.excite.weight.T + attention.excite.bias)
    torch.testing.assert_close(attention.gains(mean), gains[:, :, None, None])
    # The reduction never leaves nothing.
    assert ChannelAttention(channels=2, reduction=16).squeeze.out_features == 1


def test_convolutions_keep_or_halve_the_grid():
    x = torch.zeros(1, 2, 12, 20)
    for dilation in (1, 2, 16):
        assert conv3x3(2, 3, dilation=dilation)(x).shape == (1, 3, 12, 20)
    assert conv3x3(2, 3, stride=2)(x).shape == (1, 3, 6, 10)
