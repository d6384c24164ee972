"""DMGN assembled: head, separator, two branches, attention, noise distribution map, refinement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.blocks import ChannelAttention, DeepMaskingCell, SpatialAttention, normalise_map
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.model.features import LearnedHead
from napari_dmgn.model.generators import Branch, Refiner
from napari_dmgn.model.results import NetworkOutput, Separated
from napari_dmgn.model.vgg import HypercolumnHead

__all__ = ["DMGN", "NetworkOutput", "Separated"]

IMAGE_CHANNELS = 3


class DMGN(nn.Module):
    """Deep-Masking Generative Network (Feng et al., IEEE TIP 2021; figure 2).

    Three steps, so that an engine that works in tiles can share what depends on the whole image:
    `separate` (local), `attention` from the mean of `responses` over the whole image, and
    `refine` (local). `forward` runs the three on a whole image of any height and width. Where
    `config.map_normalised`, `refine` wants the mean and the maximum of `Separated.noise_map` over
    the whole image too.

    Parameters
    ----------
    config : NetworkConfig
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        image_channels = IMAGE_CHANNELS * config.trunk_stride**2
        self.head = self._head(config, image_channels)
        self.separator = SpatialAttention(
            in_channels=c,
            channels=c,
            out_channels=c if config.separator_on == "features" else 1,
            convolutions=config.attention_convolutions,
            padding=config.padding,
        )
        self.background_branch = self._branch(config, image_channels, gain=config.background_gain)
        self.noise_branch = self._branch(config, image_channels) if config.noise_branch else None
        self.channel_attention = ChannelAttention(
            channels=c, reduction=config.attention_reduction, bias=config.attention_bias, padding=config.padding
        )
        self.noise_attention = self._noise_attention(config) if config.noise_map else None
        self.refiner = Refiner(
            in_channels=(3 if config.noise_in_source else 2) * c,
            channels=c,
            dilations=config.refine_dilations,
            out_channels=image_channels,
            alpha=config.mask_alpha,
            decay=config.mask_decay,
            mask_reduction=config.mask_reduction,
            kernel=config.refine_kernel,
            bias=config.cell_bias,
            padding=config.padding,
            output_scale=config.output_scale,
            tanh=config.refine_tanh,
            masking=config.cells == "masking",
            gain=config.background_gain,
        )
        self._initialise()

    @staticmethod
    def _head(config: NetworkConfig, image_channels: int) -> LearnedHead | HypercolumnHead:
        if config.head == "vgg19":
            return HypercolumnHead(
                image_channels=image_channels,
                channels=config.width,
                padding=config.padding,
                unit=config.image_range == "unit",
                imagenet=config.imagenet_range,
            )
        return LearnedHead(in_channels=image_channels, channels=config.width, levels=config.head_levels)

    @staticmethod
    def _noise_attention(config: NetworkConfig) -> SpatialAttention:
        return SpatialAttention(
            in_channels=2 * config.width,
            channels=config.width,
            out_channels=config.trunk_stride**2,
            convolutions=config.attention_convolutions,
            bias=config.map_bias,
            padding=config.padding,
        )

    @staticmethod
    def _branch(config: NetworkConfig, image_channels: int, *, gain: bool = False) -> Branch:
        return Branch(
            in_channels=config.width,
            widths=config.branch_widths,
            bottleneck_cells=config.bottleneck_cells,
            out_channels=image_channels,
            mask_reduction=config.mask_reduction,
            skip=config.skip,
            bias=config.cell_bias,
            padding=config.padding,
            align_corners=config.align_corners,
            output_hidden=config.output_hidden,
            output_scale=config.output_scale,
            masking=config.cells == "masking",
            gain=gain,
        )

    def _initialise(self) -> None:
        if self.refiner.out.weight.is_meta:
            return  # weights are to come; without storage, torch would load its compiler (seconds) to draw none
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
        for part in (self.background_branch, self.noise_branch, self.refiner):
            if part is not None:
                nn.init.normal_(part.out.weight, std=1e-2)
                if part.gain is not None:
                    nn.init.zeros_(part.gain.weight)

    def place(self, device: torch.device | str) -> DMGN:
        """Move the network to a device, in the memory format that convolutions are fastest in."""
        self.to(device)
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def separate(self, image: Tensor, *, masks: bool = False, noise: Tensor | None = None) -> Separated:
        """Separate the features and generate the noise image (Eq. 1-2).

        Parameters
        ----------
        image : (N, 3, H, W) float tensor in [0, 1]
            H and W multiples of `config.stride`.
        masks : bool
            Keep the noise branch's masks.
        noise : (N, 3 s s, h, w) float tensor or None
            R of an earlier pass over this image, which then is not generated again.
        """
        x = F.pixel_unshuffle(image, self.config.trunk_stride)  # the trunk's resolution
        x = x.contiguous(memory_format=torch.channels_last)
        if self.config.image_range == "signed":
            x = 2 * x - 1
        features = self.head(x)
        source, logits = self.separator.maps_and_logits(features)
        if self.config.separator_on == "features":
            source = features
        share = torch.sigmoid_(logits)
        background_part = source * share  # F_b
        kept: list[Tensor] | None = [] if masks else None
        if noise is None and self.noise_branch is not None:
            noise = self.noise_branch(source - background_part, kept)
            if self.config.noise_residual:
                noise = x + noise
        contrasts = self.config.noise_map or self.config.noise_in_source
        separated = Separated(
            image=x,
            features=features,
            background_part=background_part,
            noise=noise,
            noise_features=self.head(noise) if contrasts else None,
            background_share=share,
            masks=_named("noise", kept),
        )
        if self.config.map_normalised:
            separated.noise_map = self._distribution(separated)
        return separated

    def _distribution(self, s: Separated) -> Tensor:
        """A_r of Eq. 9 as sub-pixels, (N, stride**2, h, w): one full-resolution map after the shuffle."""
        if self.noise_attention is None or s.noise_features is None:
            share = s.background_share.mean(dim=1, keepdim=True)
            return (1 - share).expand(-1, self.config.trunk_stride**2, -1, -1)
        return torch.sigmoid_(self.noise_attention(s.features, s.noise_features))

    def responses(self, separated: Separated) -> Tensor:
        """Return the attention's local responses to F_b and F(R) (Eq. 7), at least float32.

        Returns
        -------
        (N, 2 C or C, H / s, W / s) float tensor
            On a grid of s = 4 `trunk_stride` input pixels. Their mean over the whole image goes
            into `attention`.
        """
        features = [separated.background_part]
        if self.config.noise_in_source and separated.noise_features is not None:
            features.append(separated.noise_features)
        responses = torch.cat([self.channel_attention.response(f) for f in features], dim=1)
        return responses.to(torch.promote_types(responses.dtype, torch.float32))

    def attention(self, mean_responses: Tensor) -> tuple[Tensor, ...]:
        """Turn the (N, 2 C) mean responses into the channel gains of F_b and of F(R) (Eq. 8)."""
        return tuple(self.channel_attention.gains(r) for r in torch.split(mean_responses, self.config.width, 1))

    def refine(
        self,
        separated: Separated,
        gains: tuple[Tensor, ...],
        *,
        map_range: tuple[Tensor, Tensor] | None = None,
        masks: bool = False,
    ) -> NetworkOutput:
        """Generate the coarse background, the noise distribution map and the background (Eq. 3-10).

        Parameters
        ----------
        separated : Separated
        gains : (N, C, 1, 1) float tensors in [0, 1]
            Of F_b and, where it is in the source, of F(R), of the whole image that `separated` is a part of.
        map_range : pair of (N,) float tensors
            Mean and maximum of `Separated.noise_map` over the whole image; wanted where
            `config.map_normalised`.
        masks : bool
            Keep the cells' masks.
        """
        s, config = separated, self.config
        kept: list[Tensor] | None = [] if masks else None
        refining: list[Tensor] | None = [] if masks else None
        coarse = self.background_branch(s.background_part, kept)
        clear = None
        if config.background_gain:
            assert s.noise is not None
            clear = s.image - s.noise  # I - R: what is left of B in the image
            coarse = _gained(coarse, clear)
        if config.coarse_residual:
            coarse = s.image + coarse  # not in place: in bf16 the image is the wider one
        noise_map = self._distribution(s) if s.noise_map is None else s.noise_map
        if config.map_normalised:
            assert map_range is not None
            noise_map = normalise_map(noise_map, *map_range)
        background_map = 1 - noise_map.mean(dim=1, keepdim=True)  # A_b = 1 - A_r
        if config.map_normalised:
            noise_map = noise_map.clamp(0, 1)  # for the reader, like the masks; Eq. 10 takes it as it is
        # E of Eq. 6: ACA(F_b), -ACA(F(R)), F(B_coarse)
        parts, factors = [s.background_part], [gains[0]]
        if config.noise_in_source and s.noise_features is not None:
            parts.append(s.noise_features)
            factors.append(-gains[1])
        source = (*parts, self.head(coarse))
        refinement = self.refiner(
            source, background_map if config.noise_map else None, refining, gains=(*factors, None)
        )
        background = s.image + (refinement if clear is None else _gained(refinement, clear))
        if config.map_normalised and refining is not None:
            refining = [mask.clamp(0, 1) for mask in refining]
        return NetworkOutput(
            background=self._outward(background),
            coarse=self._outward(coarse),
            noise=F.pixel_shuffle(s.image - coarse, config.trunk_stride) if s.noise is None else self._outward(s.noise),
            noise_map=F.pixel_shuffle(noise_map, config.trunk_stride),
            masks={
                **_named("background", kept),
                **s.masks,
                **_named("refine", refining),
            },
        )

    def _outward(self, image: Tensor) -> Tensor:
        """Return an image of the trunk at full resolution and in units of the input."""
        if self.config.image_range == "signed":
            image = (image + 1) / 2
        return F.pixel_shuffle(image, self.config.trunk_stride)

    def forward(self, image: Tensor, *, masks: bool = False) -> NetworkOutput:
        """Restore a batch of whole images.

        Parameters
        ----------
        image : (N, 3, H, W) float tensor in [0, 1]
            Any H, W >= 1; padded by its border pixels to `config.working_size`.
        masks : bool
            Return the cells' masks too.
        """
        _, _, h, w = image.shape
        height, width = self.config.working_size(h, w)
        if (height, width) != (h, w):
            image = F.pad(image, (0, width - w, 0, height - h), mode="replicate")
        separated = self.separate(image, masks=masks)
        gains = self.attention(self.responses(separated).mean(dim=(2, 3)))
        map_range = None
        if separated.noise_map is not None:
            map_range = separated.noise_map.mean(dim=(1, 2, 3)), separated.noise_map.amax(dim=(1, 2, 3))
        out = self.refine(separated, gains, map_range=map_range, masks=masks)
        if (height, width) != (h, w):
            for name in ("background", "coarse", "noise", "noise_map"):
                setattr(out, name, getattr(out, name)[..., :h, :w])
        return out


def _gained(made: Tensor, clear: Tensor) -> Tensor:
    """Join a generator's residual and its gain, (N, 2 C, h, w), with the image that is multiplied."""
    residual, gain = made.chunk(2, dim=1)
    return torch.addcmul(residual, gain, clear)


def _named(prefix: str, masks: list[Tensor] | None) -> dict[str, Tensor]:
    return {f"{prefix}/{i}": mask for i, mask in enumerate(masks or [], start=1)}
