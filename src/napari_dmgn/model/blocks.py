"""The parts that a deep-masking network is made of; each takes plain numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ChannelAttention",
    "DeepMaskingCell",
    "SpatialAttention",
    "conv3x3",
    "fuse_background_map",
]


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the grid (or halves it, with stride 2)."""
    # Zero padding is part of the convolution kernel; any other mode copies the whole map first.
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation)


class SpatialAttention(nn.Module):
    """Attention logits from features: 3x3 convolutions + ReLU, 1x1, tanh, 1x1 (f_att, Eq. 2 and 9).

    Parameters
    ----------
    in_channels, channels, out_channels : int
        Channels of the input, of the hidden maps, and of the returned logits.
    convolutions : int
        Number of 3x3 convolutions (2 in the paper).
    """

    def __init__(self, *, in_channels: int, channels: int, out_channels: int, convolutions: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(in_channels if i == 0 else channels, channels) for i in range(convolutions))
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) features to (N, out_channels, h, w) logits."""
        h = features
        for conv in self.convs:
            h = torch.relu_(conv(h))
        logits: Tensor = self.out(torch.tanh_(self.hidden(h)))
        return logits


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
    """

    def __init__(self, *, channels: int, mask_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels, dilation=dilation)
        self.conv2 = conv3x3(channels, channels, dilation=dilation)
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
        h = torch.relu_(self.conv2(torch.relu_(self.conv1(x))))
        mask = torch.sigmoid(self.gate(torch.tanh_(self.hidden(h))))
        if background_map is not None:
            mask = fuse_background_map(mask, background_map, weight)
        return torch.addcmul(x, mask, h), mask


def fuse_background_map(mask: Tensor, background_map: Tensor, weight: float) -> Tensor:
    """Average a cell's mask with the background distribution map, (M + w A_b) / (1 + w) (Eq. 10)."""
    return torch.lerp(mask, background_map, weight / (1 + weight))


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
    """

    stride = 4

    def __init__(self, *, channels: int, reduction: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, stride=self.stride, padding=1, groups=channels)
        self.sharpness = nn.Parameter(torch.ones(channels, 1, 1))
        self.squeeze = nn.Linear(channels, max(channels // reduction, 1))
        self.excite = nn.Linear(max(channels // reduction, 1), channels)

    def response(self, features: Tensor) -> Tensor:
        """Return f' = sigmoid(w f) f on a grid four times coarser (Eq. 7).

        Parameters
        ----------
        features : (N, C, h, w) float tensor, h and w multiples of 4

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
