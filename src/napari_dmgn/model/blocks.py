"""The parts that a deep-masking network is made of; each takes plain numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_dmgn.model.bands import by_rows, in_bands
from napari_dmgn.model.config import Padding

__all__ = [
    "ChannelAttention",
    "DeepMaskingCell",
    "PlainCell",
    "SpatialAttention",
    "conv3x3",
    "fuse_background_map",
    "normalise_map",
]


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
    padding: Padding = "zeros",
) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the grid (or halves it, with stride 2)."""
    # Zero padding is part of the convolution kernel; any other mode copies the whole map first.
    kind = nn.Conv2d if padding == "zeros" else ReflectedConv2d
    return kind(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=bias)


class ReflectedConv2d(nn.Conv2d):
    """A convolution that sees the map reflected beyond its border, at `padding` positions."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w), h and w above the padding, to what `nn.Conv2d` with "reflect" returns."""
        assert isinstance(self.padding, tuple)
        vertical, horizontal = self.padding
        x = reflected(x, (horizontal, horizontal, vertical, vertical))
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def reflected(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """Reflect (N, C, h, w) maps beyond their border: so many positions left, right, above, below."""
    if by_rows(x):
        return F.pad(x, sides, mode="reflect")
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return F.pad(x, sides, mode="reflect")
    # Autocast would pad in float32, twice the memory, and round for the convolution afterwards.
    x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return F.pad(x, sides, mode="reflect")


class SpatialAttention(nn.Module):
    """Attention logits from features: 3x3 convolutions + ReLU, 1x1, tanh, 1x1 (f_att, Eq. 2 and 9).

    Parameters
    ----------
    in_channels, channels, out_channels : int
        Channels of the input, of the hidden maps, and of the returned logits.
    convolutions : int
        Number of 3x3 convolutions (2 in the paper).
    bias : bool
        Biases in the 1x1 convolutions.
    padding : str
        Of the 3x3 convolutions.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        out_channels: int,
        convolutions: int,
        bias: bool = True,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            conv3x3(in_channels if i == 0 else channels, channels, padding=padding) for i in range(convolutions)
        )
        self.hidden = nn.Conv2d(channels, channels, 1, bias=bias)
        self.out = nn.Conv2d(channels, out_channels, 1, bias=bias)

    def maps_and_logits(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features to what the 1x1 convolutions see, (N, channels, h, w), and to the logits."""

        def band(*features: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.cat(features, dim=1) if len(features) > 1 else features[0]
            for conv in self.convs:
                h = torch.relu_(conv(h))
            return h, self.out(torch.tanh_(self.hidden(h)))

        h, logits = in_bands(band, *features, reach=len(self.convs))
        return h, logits

    def forward(self, *features: Tensor) -> Tensor:
        """Map (N, C, h, w) features of `in_channels` channels together to (N, out_channels, h, w) logits."""
        return self.maps_and_logits(*features)[1]


class DeepMaskingCell(nn.Module):
    """Residual Deep-Masking Cell, Y = X + M * H(X) (Eq. 4-5, figure 3).

    H is two 3x3 convolutions, each with ReLU; M is one gate per position, the sigmoid of
    1x1, tanh, 1x1 of H. In the refining phase the gate is averaged with the background
    distribution map (Eq. 10).

    Parameters
    ----------
    channels : int
        Channels of X and Y.
    mask_channels : int
        Channels of the mask's hidden layer.
    dilation : int
        Dilation of both 3x3 convolutions.
    bias, padding : bool, str
        Of both 3x3 convolutions.
    """

    def __init__(
        self,
        *,
        channels: int,
        mask_channels: int,
        dilation: int = 1,
        bias: bool = True,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv1 = conv3x3(channels, channels, dilation=dilation, bias=bias, padding=padding)
        self.conv2 = conv3x3(channels, channels, dilation=dilation, bias=bias, padding=padding)
        self.hidden = nn.Conv2d(channels, mask_channels, 1)
        self.gate = nn.Conv2d(mask_channels, 1, 1)

    def forward(self, x: Tensor, *, background_map: Tensor | None = None, weight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the cell's output and its mask.

        Parameters
        ----------
        x : (N, C, h, w) float tensor
        background_map : (N, 1, h, w) float tensor in [0, 1] or None
            A_b of Eq. 10.
        weight : float
            alpha * q**(n - 1) of Eq. 10.

        Returns
        -------
        y : (N, C, h, w) float tensor
        mask : (N, 1, h, w) float tensor in [0, 1]
        """

        def band(x: Tensor, *background_map: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.relu_(self.conv2(torch.relu_(self.conv1(x))))
            mask = torch.sigmoid_(self.gate(torch.tanh_(self.hidden(h))))
            for given in background_map:
                mask = fuse_background_map(mask, given, weight)
            return _masked_sum(x, mask, h), mask

        maps = (x,) if background_map is None else (x, background_map)
        y, mask = in_bands(band, *maps, reach=2 * self.dilation)
        return y, mask


class PlainCell(nn.Module):
    """Two 3x3 convolutions, each with ReLU: what Table I's Base model has in place of a cell (Y = H(X))."""

    def __init__(
        self, *, channels: int, mask_channels: int, dilation: int = 1, bias: bool = True, padding: Padding = "zeros"
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, dilation=dilation, bias=bias, padding=padding)
        self.conv2 = conv3x3(channels, channels, dilation=dilation, bias=bias, padding=padding)

    def forward(self, x: Tensor, *, background_map: Tensor | None = None, weight: float = 0.0) -> tuple[Tensor, None]:
        """Return the output, and no mask that a background map could regularise."""
        return torch.relu_(self.conv2(torch.relu_(self.conv1(x)))), None


def _masked_sum(x: Tensor, mask: Tensor, h: Tensor) -> Tensor:
    """Return X + M * H (Eq. 5), in H's memory where nothing else wants it: fresh memory costs more than the sum."""
    if by_rows(x) or torch.is_grad_enabled() or x.dtype != h.dtype:
        return torch.addcmul(x, mask, h)
    return torch.addcmul(x, mask, h, out=h)


def fuse_background_map(mask: Tensor, background_map: Tensor, weight: float) -> Tensor:
    """Average a cell's mask with the background distribution map, (M + w A_b) / (1 + w) (Eq. 10)."""
    return torch.lerp(mask, background_map, weight / (1 + weight))


def normalise_map(noise_map: Tensor, mean: Tensor, peak: Tensor) -> Tensor:
    """Shift and scale (N, K, h, w) maps by the (N,) mean and maximum of their whole images.

    The maximum becomes 1 and the mean 0, so that values below the mean are negative.
    """
    mean, peak = mean[:, None, None, None], peak[:, None, None, None]
    # A map without any contrast is all mean: it becomes 0.
    scaled = (noise_map - mean) / (peak - mean).clamp_min(torch.finfo(mean.dtype).tiny)
    return scaled.to(noise_map.dtype)  # the range of a tiled image comes in float32


class ChannelAttention(nn.Module):
    """Adapted channel-wise attention (ACA, Eq. 7-8), in three separable steps.

    `response` is local, the average over the image is the caller's (over all tiles, if it
    works in tiles), and `gains` turns that average into one factor per channel.

    Parameters
    ----------
    channels : int
        Channels of the features.
    reduction : int
        Factor between `channels` and the hidden layer of the squeeze-and-excitation.
    bias : bool
        Biases in the convolution and in both linear layers.
    padding : str
        Of the convolution.
    """

    stride = 4

    def __init__(self, *, channels: int, reduction: int, bias: bool = True, padding: Padding = "zeros") -> None:
        super().__init__()
        kind = nn.Conv2d if padding == "zeros" else ReflectedConv2d
        self.depthwise = kind(channels, channels, 5, stride=self.stride, padding=1, groups=channels, bias=bias)
        self.sharpness = nn.Parameter(torch.ones(channels, 1, 1))
        self.squeeze = nn.Linear(channels, max(channels // reduction, 1), bias=bias)
        self.excite = nn.Linear(max(channels // reduction, 1), channels, bias=bias)

    def response(self, features: Tensor) -> Tensor:
        """Return f' = sigmoid(w f) f on a grid four times coarser (Eq. 7).

        Parameters
        ----------
        features : (N, C, h, w) float tensor
            Where h and w are no multiples of 4, the last rows and columns may go unseen.

        Returns
        -------
        (N, C, h / 4, w / 4) float tensor, >= 0
        """
        f = F.relu(self.depthwise(features))
        return torch.sigmoid(self.sharpness * f) * f

    def gains(self, mean_response: Tensor) -> Tensor:
        """Turn the image's (N, C) mean response into (N, C, 1, 1) factors in [0, 1] (Eq. 8)."""
        a = torch.sigmoid(self.excite(F.relu(self.squeeze(mean_response))))
        return a[:, :, None, None]
