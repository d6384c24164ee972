"""What JPEG does to a picture, on tensors: quantised cosines and halved chroma."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["jpeg"]

# Annex K of the standard (ITU-T T.81), rows from low to high vertical frequency.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress, each image at its own quality, with 4:2:0 chroma.

    The arithmetic of the standard and of libjpeg's quality scale, on floats: close to what an
    encoder followed by a decoder gives, not equal to its last bit.

    Parameters
    ----------
    images : (N, 3, H, W) float tensor in [0, 1]
    quality : (N,) tensor
        1 to 100.

    Returns
    -------
    (N, 3, H, W) float tensor in [0, 1], multiples of 1/255
    """
    h, w = images.shape[2:]
    levels = (images.clamp(0, 1) * 255).round()
    # Whole blocks of 16: the border's pixels go on, as in encoders.
    padded = F.pad(levels, (0, -w % 16, 0, -h % 16), mode="replicate")
    red, green, blue = (padded[:, i : i + 1] for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = F.avg_pool2d(torch.cat([(blue - luma) / 1.772, (red - luma) / 1.402], 1), 2)
    luma = _quantised(luma.round() - 128, _table(_LUMA, quality)) + 128
    # Decoders smooth the chroma while enlarging it, as this interpolation does.
    chroma = F.interpolate(_quantised(chroma.round(), _table(_CHROMA, quality)), scale_factor=2, mode="bilinear")
    cb, cr = chroma[:, :1], chroma[:, 1:]
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return torch.cat([red, green, blue], 1)[:, :, :h, :w].round().clamp(0, 255) / 255


def _table(values: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Scale a quantisation table as libjpeg does: (N, 8, 8)."""
    quality = quality.float()
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None, None]
    table = torch.tensor(values, device=quality.device, dtype=quality.dtype)
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Round the cosine coefficients of every 8x8 block of (N, C, H, W) planes to multiples of the table's steps."""
    n, c, h, w = planes.shape
    k = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosines = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    cosines[0] /= math.sqrt(2)
    blocks = planes.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)  # (N, C, rows, columns, 8, 8)
    step = table[:, None, None, None]
    coefficients = (cosines @ blocks @ cosines.T / step).round() * step
    decoded = (cosines.T @ coefficients @ cosines).transpose(3, 4).reshape(n, c, h, w)
    return decoded.round()
