"""The conditional adversary: pix2pix's patch discriminator, and its losses."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

__all__ = ["FORMS", "SMALLEST", "PatchDiscriminator", "discriminator_loss", "generator_loss"]

FORMS = ("critic", "hinge")
"""What the discriminator learns by: "critic" is Eq. 14, "hinge" stops at a margin of 1."""

SMALLEST = 24
"""Least side of an image, in pixels, that leaves one patch behind the five convolutions."""


class PatchDiscriminator(nn.Module):
    """Judges 70x70 patches of (B, I): is B the background of I (Isola et al., CVPR 2017).

    Five 4x4 convolutions, the first three of stride 2, leaky ReLU between. pix2pix normalises by
    batch; here the images of a batch stay apart: each is normalised by itself, or, with
    `spectral_norm`, the weights are instead.

    Parameters
    ----------
    width : int
        Channels of the first convolution (64 in pix2pix); then twice, four and eight times that.
    spectral_norm : bool
    unit_slope : bool
        Also divide each convolution by the root of the number of windows that see a pixel, 4 / stride:
        with `spectral_norm` then |D(x) - D(y)| <= 2 |x - y| for images x, y, as vectors (2 is the
        width of the range that they are brought to). A critic needs it: without, its slope may be a
        hundred times that.
    last_bias : bool
        Of the last convolution; a constant cancels in Eq. 14, so that the critic would learn it from
        rounding errors.
    """

    def __init__(
        self, *, width: int = 64, spectral_norm: bool = True, unit_slope: bool = False, last_bias: bool = True
    ) -> None:
        super().__init__()
        channels = (6, width, 2 * width, 4 * width, 8 * width, 1)
        strides = (2, 2, 2, 1, 1)
        convs, norms = [], []
        for i, (a, b) in enumerate(itertools.pairwise(channels)):
            normalised = 0 < i < 4 and not spectral_norm  # neither the first nor the last, as in pix2pix
            bias = last_bias if i == 4 else not normalised
            conv = nn.Conv2d(a, b, 4, stride=strides[i], padding=1, bias=bias)
            nn.init.normal_(conv.weight, std=0.02)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            convs.append(parametrizations.spectral_norm(conv) if spectral_norm else conv)
            norms.append(nn.InstanceNorm2d(b) if normalised else nn.Identity())
        self.gains = tuple(stride / 4 if unit_slope else 1.0 for stride in strides)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(norms)

    def forward(self, background: Tensor, image: Tensor) -> Tensor:
        """Judge (N, 3, H, W) backgrounds of (N, 3, H, W) images in [0, 1], H and W at least `SMALLEST`.

        Backgrounds are clipped to [0, 1]: true ones lie within, so being beyond would give away a
        generated one, and a critic would drive it ever farther.

        Returns
        -------
        (N, 1, h, w) float tensor
            D of each patch, higher for true; h and w are about an eighth of H and W.
        """
        x = 2 * torch.cat([background.clamp(0, 1), image], dim=1) - 1  # (N, 6, H, W)
        last = len(self.convs) - 1
        for i, (conv, norm, gain) in enumerate(zip(self.convs, self.norms, self.gains, strict=True)):
            x = norm(conv(x) * gain)
            if i < last:
                x = F.leaky_relu(x, 0.2)
        return x


def generator_loss(judged: Tensor) -> Tensor:
    """Return Eq. 13, -E[D(B, I)], of the patches of generated backgrounds; also the hinge's."""
    return -judged.float().mean()


def discriminator_loss(real: Tensor, fake: Tensor, form: str) -> Tensor:
    """Return what the discriminator minimises.

    "critic" is Eq. 14, -E[D(B_GT, I)] + E[D(B, I)], which has no bound of its own; "hinge" is
    E[max(0, 1 - D(B_GT, I))] + E[max(0, 1 + D(B, I))].
    """
    real, fake = real.float(), fake.float()
    if form == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()
