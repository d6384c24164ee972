"""Clean pictures varied as another camera, or another photographer, would have taken them.

A few hundred photographs are soon learnt by heart: a network then knows their scenes, not what noise
looks like. What hides behind glass and what merely lies out of focus are told apart by how they are
superimposed, and that is seen in any picture: of another tint, or with a subject cut out of another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import Draw
from napari_dmgn.synthesis.fields import gaussian_blur, luminance, smooth_field

__all__ = ["Variation"]

_GAMMA = 2.2


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Changes clean pictures before anything is superimposed on them."""

    colour_jitter: float = 0.0
    """Share of the pictures whose exposure, tint and saturation change; those without colours get none."""
    shallow_focus: float = 0.0
    """Share of the pictures of which only a part is kept, before an out-of-focus rest: of the same picture or of
    another one."""

    def __bool__(self) -> bool:
        """Tell whether any picture changes."""
        return self.colour_jitter > 0 or self.shallow_focus > 0

    def scenes(self, images: Tensor, generator: Generator) -> Tensor:
        """Vary what is to be restored.

        Parameters
        ----------
        images : (N, 3, H, W) float tensor in [0, 1]
            The rest behind a subject is another one of them, drawn, or its own.
        generator : torch.Generator

        Returns
        -------
        (N, 3, H, W) float tensor in [0, 1]
        """
        n, draw = len(images), Draw(generator, images.device)
        scenes = self._recoloured(images, draw)
        subject = draw.chance((n,), self.shallow_focus).nonzero()[:, 0]
        if len(subject) == 0:
            return scenes
        drawn = (draw.uniform((len(subject),), 0, 1) * n).long().clamp(max=n - 1)
        behind = torch.where(draw.chance((len(subject),), 0.5), drawn, subject)
        return scenes.index_copy(0, subject, _before(scenes[subject], scenes[behind], draw))

    def layers(self, images: Tensor, generator: Generator) -> Tensor:
        """Vary second pictures, which are superimposed on the first: their colours only."""
        return self._recoloured(images, Draw(generator, images.device))

    def _recoloured(self, images: Tensor, draw: Draw) -> Tensor:
        chosen = draw.chance((len(images),), self.colour_jitter).nonzero()[:, 0]
        if len(chosen) == 0:
            return images
        n, plain = len(chosen), images[chosen]
        tint = draw.log_uniform((n, 3, 1, 1), 0.88, 1.14)
        gray = (plain == plain[:, :1]).all((1, 2, 3), keepdim=True)
        tint = torch.where(gray, tint[:, :1], tint)
        toned = plain.pow(draw.log_uniform((n, 1, 1, 1), 0.7, 1.4) * tint)
        saturated = torch.lerp(luminance(toned), toned, draw.uniform((n, 1, 1, 1), 0.6, 1.3)).clamp(0, 1)
        return images.index_copy(0, chosen, saturated)


def _before(subject: Tensor, behind: Tensor, draw: Draw) -> Tensor:
    """Cut shapes out of pictures and set them, opaque, before others that are out of focus."""
    n, size = len(subject), (subject.shape[2], subject.shape[3])
    coarse, fine = smooth_field(n, size, 2, draw), smooth_field(n, size, 7, draw)
    shape = torch.lerp(coarse, fine, draw.uniform((n, 1, 1, 1), 0, 0.6))
    # From a hard outline to focus that is lost gradually.
    softness = draw.log_uniform((n, 1, 1, 1), 0.01, 0.4)
    matte = ((shape - draw.uniform((n, 1, 1, 1), 0.2, 0.75)) / softness + 0.5).clamp(0, 1)
    # A lens mixes light, not pixel values: highlights stay bright.
    light = gaussian_blur(behind.pow(_GAMMA), draw.log_uniform((n,), 1.5, 7))
    return torch.lerp(light.clamp(0, 1).pow(1 / _GAMMA), subject, matte)
