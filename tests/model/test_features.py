"""The head equals the plain hypercolumn that it is a cheaper form of."""

import pytest
import torch
import torch.nn.functional as F

from napari_dmgn.model.features import LearnedHead, enlarge


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_head_equals_a_one_by_one_convolution_of_the_concatenated_levels(levels):
    random = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = LearnedHead(in_channels=5, channels=6, levels=levels).double().requires_grad_(False)
    image = torch.randn(2, 5, 16, 24, generator=random, dtype=torch.float64)
    kept = image.clone()
    seen = []
    head.stem.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output.clone()]))
    found = head(image)
    assert torch.equal(image, kept)
    # What the stem sees is the image up to its range; the hypercolumn starts behind it.
    torch.testing.assert_close(seen[0] - seen[0].mean(), (image - image.mean()) * (seen[0].std() / image.std()))
    level = seen[1].clamp(min=0)
    column = [level]
    for down in head.down:
        level = down(level).clamp(min=0)
        column.append(level)

    def full_size(level):
        while level.shape[2] < 16:
            level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
        return level

    plain = torch.cat([full_size(level) for level in column], dim=1)
    weight = torch.cat([mix.weight for mix in head.mix], dim=1)
    mixed = F.conv2d(plain, weight, next(m.bias for m in head.mix if m.bias is not None))
    wanted = head.out(mixed.clamp(min=0)).clamp(min=0)
    torch.testing.assert_close(found, wanted)


def test_enlarging_keeps_constants_and_is_the_same_at_every_position():
    assert torch.equal(enlarge(torch.full((1, 2, 3, 4), 0.3)), torch.full((1, 2, 6, 8), 0.3))
    ramp = torch.arange(10.0).expand(1, 1, 10, 10)
    inside = enlarge(ramp)[0, 0, 5, 1:-1]
    torch.testing.assert_close(inside.diff(), torch.full((17,), 0.5))
    moved = enlarge(F.pad(ramp, (1, 0)))[..., 4:]
    torch.testing.assert_close(moved, enlarge(ramp)[..., 2:])
