"""The hypercolumn head equals the hypercolumn that it never builds."""

import pytest
import torch
import torch.nn.functional as F

from napari_dmgn.model.vgg import HypercolumnHead, Vgg19


@pytest.fixture(scope="module", params=["zeros", "reflect"])
def head(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = HypercolumnHead(image_channels=3, channels=5, padding=request.param, unit=False)
        for conv in head.vgg.convs:
            torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return head.requires_grad_(False)


def plain(head: HypercolumnHead, image: torch.Tensor) -> torch.Tensor:
    """The head as the paper puts it: everything enlarged, concatenated, convolved."""
    size = image.shape[2:]
    levels = [F.interpolate(tap, size=size, mode="bilinear", align_corners=False) for tap in head.vgg(image)]
    return head.out(head.mix(torch.cat([image, *levels], dim=1)).clamp(min=0)).clamp(min=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (32, 48), (53, 40)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fast_form_is_the_plain_one(head, size, dtype, bound):
    image = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(0)).to(dtype)
    head.to(dtype)
    kept = image.clone()
    found, wanted = head(image), plain(head, image)
    head.float()
    assert torch.equal(image, kept)
    assert wanted.std() > 0
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


def test_gradients_are_those_of_the_plain_form(head):
    image = torch.randn((1, 3, 20, 24), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head.double()
    pairs = []
    for form in (head, lambda x: plain(head, x)):
        x = image.clone().requires_grad_(True)
        head.mix.weight.requires_grad_(True)
        pairs.append(torch.autograd.grad(form(x).square().sum(), [x, head.mix.weight]))
    head.float().requires_grad_(False)
    for found, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(found, wanted)


def test_vgg_halves_between_its_taps_and_is_frozen():
    vgg = Vgg19(image_channels=3)
    taps = vgg(torch.zeros(1, 3, 37, 51))
    assert [tuple(t.shape[1:]) for t in taps] == [
        (64, 37, 51), (128, 18, 25), (256, 9, 12), (512, 4, 6), (512, 2, 3),
    ]  # fmt: skip
    assert not any(p.requires_grad for p in vgg.parameters())


def test_unit_images_are_brought_to_the_signed_range(head):
    image = torch.rand((1, 3, 16, 20), generator=torch.Generator().manual_seed(1))
    unit = HypercolumnHead(image_channels=3, channels=5, padding=head.padding, unit=True)
    unit.load_state_dict(head.state_dict())
    torch.testing.assert_close(unit(image), head(2 * image - 1))


def test_each_pass_of_the_head_is_one_pass_of_vgg(head):
    passes = []
    handle = head.vgg.register_forward_hook(lambda *_: passes.append(1))
    head(torch.zeros(1, 3, 16, 16))
    handle.remove()
    assert len(passes) == 1
