"""The discriminator: its patches, its bound, and its losses against Eq. 13-14."""

import pytest
import torch

from napari_dmgn.discriminator import SMALLEST, PatchDiscriminator, discriminator_loss, generator_loss


def images(n=2, size=96, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.rand((n, 3, size, size), generator=random) for _ in range(2)]


def made(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchDiscriminator(width=4, **options)


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_a_patch_sees_seventy_pixels_and_no_more(spectral_norm):
    # Instance normalisation looks at the whole image, so it is taken out here.
    network = made(spectral_norm=spectral_norm).eval()
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)
    background, image = images(1, 128)
    background.requires_grad_(True)
    judged = network(background, image)
    judged[0, 0, 6, 7].backward()
    rows, columns = background.grad[0].abs().sum(0).nonzero().unbind(1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (70, 70)


def test_published_size():
    """2,768,705 weights: pix2pix's 70x70 discriminator of six channels, its two axes of batch norm left out."""
    network = PatchDiscriminator(spectral_norm=False)
    assert sum(p.numel() for p in network.parameters()) == 2_768_705 - 2 * (128 + 256 + 512)


def test_smallest_image_leaves_one_patch():
    for spectral_norm in (True, False):
        assert made(spectral_norm=spectral_norm)(*images(2, SMALLEST)).shape[2:] == (1, 1)
    with pytest.raises(RuntimeError):
        made()(*images(2, SMALLEST - 9))


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_images_of_a_batch_stay_apart(spectral_norm):
    network = made(spectral_norm=spectral_norm).eval()
    background, image = images(3)
    whole = network(background, image)
    for i in range(3):
        torch.testing.assert_close(network(background[i : i + 1], image[i : i + 1]), whole[i : i + 1])
    assert not torch.allclose(network(background, image.flip(0)), whole)  # it does look at I


def test_a_background_beyond_its_range_is_taken_as_clipped():
    network = made().eval()
    background, image = images()
    beyond = (3 * background - 1).requires_grad_(True)
    judged = network(beyond, image)
    assert torch.equal(judged, network(beyond.clamp(0, 1), image))
    judged.mean().backward()
    assert (beyond.grad[(beyond < 0) | (beyond > 1)] == 0).all()
    assert (beyond.grad != 0).any()


def test_spectral_norm_bounds_the_slope():
    network = made()
    background, image = images()
    for _ in range(20):  # power iterations
        network(background, image)
    network.eval()
    for conv in network.convs:
        sigma = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2)
        assert sigma == pytest.approx(1, abs=0.02)


def test_unit_slope_is_kept_between_any_two_images():
    network = made(unit_slope=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(50)  # whatever training makes of them
        for _ in range(30):
            network(*images())
        network.eval()
        for seed in range(5):
            (a, b), (c, d) = images(1, 40, seed), images(1, 40, seed + 50)
            change = (network(a, b) - network(c, d)).norm()
            assert change <= 2 * 1.01 * torch.cat([a - c, b - d]).norm()


def test_losses_are_the_equations():
    real, fake = torch.tensor([0.5, 3.0, -1.0]), torch.tensor([-2.0, 0.25, 1.0])
    assert generator_loss(fake).item() == pytest.approx(0.25)
    assert discriminator_loss(real, fake, "critic").item() == pytest.approx(-0.25 - 2.5 / 3)
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx((0.5 + 0 + 2) / 3 + (0 + 1.25 + 2) / 3)
