"""DMGN assembled: head, separator, two branches, attention, noise distribution map, refinement."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.blocks import ChannelAttention, DeepMaskingCell, SpatialAttention
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.features import LearnedHead
from napari_dmgn.model.generators import Branch, Refiner

__all__ = ["DMGN", "NetworkOutput", "Separated"]

IMAGE_CHANNELS = 3


@dataclass(kw_only=True)
class NetworkOutput:
    """What one pass returns; all at the input's height and width.

    Attributes
    ----------
    background, coarse, noise : (N, 3, H, W) float tensors
        B, B_coarse and R, in units of the input; not clipped.
    noise_map : (N, 1, H, W) float tensor in [0, 1]
        The noise distribution map A_r (Eq. 9).
    masks : dict of (N, 1, h, w) float tensors in [0, 1]
        Each cell's mask under its name, at its own resolution; empty unless asked for.
    """

    background: Tensor
    coarse: Tensor
    noise: Tensor
    noise_map: Tensor
    masks: dict[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class Separated:
    """The first phase's local results, on the trunk's grid (pixel-unshuffled images)."""

    image: Tensor  # (N, 3 s s, h, w)
    features: Tensor  # F(I), (N, C, h, w)
    background_part: Tensor  # F_b, (N, C, h, w)
    noise: Tensor  # R, (N, 3 s s, h, w)
    noise_features: Tensor  # F(R), (N, C, h, w)
    masks: dict[str, Tensor] = field(default_factory=dict)


class DMGN(nn.Module):
    """Deep-Masking Generative Network (Feng et al., IEEE TIP 2021; figure 2).

    Three steps, so that an engine that works in tiles can share what depends on the whole image:
    `separate` (local), `attention` from the mean of `responses` over the whole image, and
    `refine` (local). `forward` runs the three on a whole image of any height and width.

    Parameters
    ----------
    config : NetworkConfig
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        image_channels = IMAGE_CHANNELS * config.trunk_stride**2
        self.head = LearnedHead(in_channels=image_channels, channels=c, levels=config.head_levels)
        self.separator = SpatialAttention(
            in_channels=c,
            channels=c,
            out_channels=c,
            convolutions=config.attention_convolutions,
        )
        self.background_branch = self._branch(config, image_channels)
        self.noise_branch = self._branch(config, image_channels)
        self.channel_attention = ChannelAttention(channels=c, reduction=config.attention_reduction)
        self.noise_attention = SpatialAttention(
            in_channels=2 * c,
            channels=c,
            out_channels=config.trunk_stride**2,
            convolutions=config.attention_convolutions,
        )
        self.refiner = Refiner(
            in_channels=3 * c,
            channels=c,
            dilations=config.refine_dilations,
            out_channels=image_channels,
            alpha=config.mask_alpha,
            decay=config.mask_decay,
            mask_reduction=config.mask_reduction,
            kernel=config.refine_kernel,
        )
        self._initialise()

    @staticmethod
    def _branch(config: NetworkConfig, image_channels: int) -> Branch:
        return Branch(
            in_channels=config.width,
            widths=config.branch_widths,
            bottleneck_cells=config.bottleneck_cells,
            out_channels=image_channels,
            mask_reduction=config.mask_reduction,
            concatenate=config.skip == "concat",
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Every cell adds a term >= 0: at full size, a dozen of them would drown the features and
        # saturate the masks before training starts.
        for module in self.modules():
            if isinstance(module, DeepMaskingCell):
                with torch.no_grad():
                    module.conv2.weight.mul_(0.1)
        # Near-zero residuals at the start: the untrained network returns its input and no noise.
        for last in (self.background_branch.out, self.noise_branch.out, self.refiner.out):
            nn.init.normal_(last.weight, std=1e-2)

    def place(self, device: torch.device | str) -> DMGN:
        """Move the network to a device, in the memory format that convolutions are fastest in."""
        self.to(device)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def separate(self, image: Tensor, *, masks: bool = False) -> Separated:
        """Separate the features and generate the noise image (Eq. 1-2).

        Parameters
        ----------
        image : (N, 3, H, W) float tensor in [0, 1]
            H and W multiples of `config.stride`.
        masks : bool
            Keep the noise branch's masks.
        """
        x = F.pixel_unshuffle(image, self.config.trunk_stride)  # the trunk's resolution
        x = x.contiguous(memory_format=torch.channels_last)
        features = self.head(x)
        background_part = features * torch.sigmoid(self.separator(features))
        kept: list[Tensor] | None = [] if masks else None
        noise = self.noise_branch(features - background_part, kept)
        return Separated(
            image=x,
            features=features,
            background_part=background_part,
            noise=noise,
            noise_features=self.head(noise),
            masks=_named("noise", kept),
        )

    def responses(self, separated: Separated) -> Tensor:
        """Return the attention's local responses to F_b and F(R) (Eq. 7), float32.

        Returns
        -------
        (N, 2 C, H / s, W / s) float32 tensor
            On a grid of s = 4 `trunk_stride` input pixels. Their mean over the whole image goes
            into `attention`.
        """
        both = [separated.background_part, separated.noise_features]
        return torch.cat([self.channel_attention.response(f) for f in both], dim=1).float()

    def attention(self, mean_responses: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the (N, 2 C) mean responses into the channel gains of F_b and of F(R) (Eq. 8)."""
        of_background, of_noise = mean_responses.chunk(2, dim=1)
        return self.channel_attention.gains(of_background), self.channel_attention.gains(of_noise)

    def refine(self, separated: Separated, gains: tuple[Tensor, Tensor], *, masks: bool = False) -> NetworkOutput:
        """Generate the coarse background, the noise distribution map and the background (Eq. 3-10).

        Parameters
        ----------
        separated : Separated
        gains : pair of (N, C, 1, 1) float tensors in [0, 1]
            Of the whole image that `separated` is a part of.
        masks : bool
            Keep the cells' masks.
        """
        s = separated
        kept: list[Tensor] | None = [] if masks else None
        refining: list[Tensor] | None = [] if masks else None
        coarse = s.image + self.background_branch(s.background_part, kept)
        # Sub-pixels of the map: (N, stride**2, h, w), one full-resolution map after the shuffle.
        noise_map = torch.sigmoid(self.noise_attention(torch.cat([s.features, s.noise_features], dim=1)))
        background_map = 1 - noise_map.mean(dim=1, keepdim=True)  # A_b = 1 - A_r
        source = torch.cat(
            [
                s.background_part * gains[0],
                s.noise_features * -gains[1],
                self.head(coarse),
            ],
            dim=1,
        )  # E of Eq. 6, (N, 3 C, h, w)
        background = s.image + self.refiner(source, background_map, refining)
        stride = self.config.trunk_stride
        return NetworkOutput(
            background=F.pixel_shuffle(background, stride),  # full resolution
            coarse=F.pixel_shuffle(coarse, stride),
            noise=F.pixel_shuffle(s.noise, stride),
            noise_map=F.pixel_shuffle(noise_map, stride),
            masks={
                **_named("background", kept),
                **s.masks,
                **_named("refine", refining),
            },
        )

    def forward(self, image: Tensor, *, masks: bool = False) -> NetworkOutput:
        """Restore a batch of whole images.

        Parameters
        ----------
        image : (N, 3, H, W) float tensor in [0, 1]
            Any H, W >= 1; padded by its border pixels to a multiple of `config.stride`.
        masks : bool
            Return the cells' masks too.
        """
        _, _, h, w = image.shape
        stride = self.config.stride
        if h % stride or w % stride:
            image = F.pad(image, (0, -w % stride, 0, -h % stride), mode="replicate")
        separated = self.separate(image, masks=masks)
        gains = self.attention(self.responses(separated).mean(dim=(2, 3)))
        out = self.refine(separated, gains, masks=masks)
        if h % stride or w % stride:
            for name in ("background", "coarse", "noise", "noise_map"):
                setattr(out, name, getattr(out, name)[..., :h, :w])
        return out


def _named(prefix: str, masks: list[Tensor] | None) -> dict[str, Tensor]:
    return {f"{prefix}/{i}": mask for i, mask in enumerate(masks or [], start=1)}
