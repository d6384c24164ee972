"""Clean pictures varied as another camera, or another photographer, would have taken them.

A few hundred photographs are soon learnt by heart: a network then knows their scenes, not what noise
looks like. What hides behind glass and what merely lies out of focus, or in the shade, are told apart by how
they are superimposed, and that is seen in any picture: of another tint, in another light, or with a subject
cut out of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from napari_dmgn.synthesis.degradation import Draw
from napari_dmgn.synthesis.fields import DISPLAY_GAMMA, gaussian_blur, luminance, smooth_field

__all__ = ["Variation"]


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Changes clean pictures before anything is superimposed on them."""

    colour_jitter: float = 0.0
    """Share of the pictures whose exposure, tint and saturation change; those without colours get none."""
    shallow_focus: float = 0.0
    """Share of the pictures of which only a part is kept, before an out-of-focus rest: of the same picture or of
    another one."""
    uneven_light: float = 0.0
    """Share of the pictures of which a part lies in the shade, or in the sun. Light multiplies a scene and stays; what
    a pane reflects is added, and goes: outlines alone do not tell them apart."""
    colour_grading: float = 0.0
    """Share of the pictures whose tones and colours change as far as filters of photographs take them: curves of each
    channel's own, blacks lifted to a colour, saturation from faint to strong."""

    def __bool__(self) -> bool:
        """Tell whether any picture changes."""
        return max(self.colour_jitter, self.shallow_focus, self.uneven_light, self.colour_grading) > 0

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
        if len(subject) > 0:
            drawn = (draw.uniform((len(subject),), 0, 1) * n).long().clamp(max=n - 1)
            behind = torch.where(draw.chance((len(subject),), 0.5), drawn, subject)
            scenes = scenes.index_copy(0, subject, _before(scenes[subject], scenes[behind], draw))
        # Neither draws anything at a share of 0: trainings without them go on as they began.
        if self.uneven_light > 0:
            scenes = _some(scenes, self.uneven_light, _lit, draw)
        return self._graded(scenes, draw)

    def layers(self, images: Tensor, generator: Generator) -> Tensor:
        """Vary second pictures, which are superimposed on the first: their tones and colours only."""
        draw = Draw(generator, images.device)
        return self._graded(self._recoloured(images, draw), draw)

    def _graded(self, images: Tensor, draw: Draw) -> Tensor:
        return images if self.colour_grading == 0 else _some(images, self.colour_grading, _filtered, draw)

    def _recoloured(self, images: Tensor, draw: Draw) -> Tensor:
        return _some(images, self.colour_jitter, _jittered, draw)


def _some(images: Tensor, share: float, change: Callable[[Tensor, Draw], Tensor], draw: Draw) -> Tensor:
    """Change a share of the pictures."""
    chosen = draw.chance((len(images),), share).nonzero()[:, 0]
    return images if len(chosen) == 0 else images.index_copy(0, chosen, change(images[chosen], draw))


def _jittered(images: Tensor, draw: Draw) -> Tensor:
    n = len(images)
    tint = _tint(images, 0.88, 1.14, draw)
    toned = images.pow(draw.log_uniform((n, 1, 1, 1), 0.7, 1.4) * tint)
    return torch.lerp(luminance(toned), toned, draw.uniform((n, 1, 1, 1), 0.6, 1.3)).clamp(0, 1)


def _filtered(images: Tensor, draw: Draw) -> Tensor:
    n = len(images)
    curve = draw.log_uniform((n, 1, 1, 1), 0.8, 1.25) * _tint(images, 0.65, 1.5, draw)
    # Black becomes a faint colour in half of the pictures; white becomes no lighter.
    lift = draw.uniform((n, 1, 1, 1), -0.15, 0.15).clamp(min=0) * _tint(images, 0.3, 1, draw)
    gain = draw.uniform((n, 1, 1, 1), 0.8, 1) * _tint(images, 0.85, 1, draw)
    toned = lift + (gain - lift) * images.pow(curve)
    return torch.lerp(luminance(toned), toned, draw.log_uniform((n, 1, 1, 1), 0.4, 2.2)).clamp(0, 1)


def _tint(images: Tensor, low: float, high: float, draw: Draw) -> Tensor:
    """Draw (N, 3, 1, 1) factors, the same for all three channels of a picture without colours."""
    tint = draw.log_uniform((len(images), 3, 1, 1), low, high)
    # Earlier changes leave gray channels apart by a rounding step.
    gray = (images - images[:, :1]).abs().amax((1, 2, 3), keepdim=True) < 1e-4
    return torch.where(gray, tint[:, :1], tint)


def _before(subject: Tensor, behind: Tensor, draw: Draw) -> Tensor:
    """Cut shapes out of pictures and set them, opaque, before others that are out of focus."""
    matte = _matte(subject, draw)
    # A lens mixes light, not pixel values: highlights stay bright.
    light = gaussian_blur(behind.pow(DISPLAY_GAMMA), draw.log_uniform((len(subject),), 1.5, 7))
    return torch.lerp(light.clamp(0, 1).pow(1 / DISPLAY_GAMMA), subject, matte)


def _lit(images: Tensor, draw: Draw) -> Tensor:
    """Light a part of each picture more than the rest, in another tint as sun and sky have them."""
    n = len(images)
    matte = _matte(images, draw)
    shade = draw.log_uniform((n, 1, 1, 1), 0.2, 0.8) * _tint(images, 0.87, 1.15, draw)
    sun = draw.log_uniform((n, 1, 1, 1), 0.8, 1.6)
    return (images.pow(DISPLAY_GAMMA) * torch.lerp(shade, sun, matte)).clamp(0, 1).pow(1 / DISPLAY_GAMMA)


def _matte(images: Tensor, draw: Draw) -> Tensor:
    """Draw a shape for each picture, (N, 1, H, W) in [0, 1], from a hard outline to one that is lost gradually."""
    n, _, h, w = images.shape
    coarse, fine = smooth_field(n, (h, w), 2, draw), smooth_field(n, (h, w), 7, draw)
    shape = torch.lerp(coarse, fine, draw.uniform((n, 1, 1, 1), 0, 0.6))
    softness = draw.log_uniform((n, 1, 1, 1), 0.01, 0.4)
    return ((shape - draw.uniform((n, 1, 1, 1), 0.2, 0.75)) / softness + 0.5).clamp(0, 1)
