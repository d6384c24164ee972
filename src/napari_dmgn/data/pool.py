"""Pictures in the memory of a device, and random crops of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_dmgn import devices
from napari_dmgn.data.pictures import Picture

__all__ = ["PicturePool"]


class PicturePool:
    """Pictures, or pairs, in the memory of a device; cropped, resized and turned there.

    Parameters
    ----------
    pictures : sequence of Picture
        At least one; all of them clean pictures, or all pairs.
    device : torch.device or str
        Where the pixels are kept; in main memory instead where they would take more than half of the
        device's free memory.

    Attributes
    ----------
    digest : str
        sha256 over the decoded pixels, for the model card.
    layers : int
        1 of clean pictures, 2 of pairs.
    smallest : Picture
        That of the shortest side.

    Raises
    ------
    ValueError
        No pictures.
    """

    def __init__(self, pictures: Sequence[Picture], device: torch.device | str = "cpu") -> None:
        if not pictures:
            raise ValueError("a pool of no pictures; wanted one or more")
        self.pictures = list(pictures)
        digest = hashlib.sha256()
        for picture in pictures:
            picture.update(digest)
        self.digest = digest.hexdigest()
        self.layers = pictures[0].pixels.shape[0]
        self.smallest = min(pictures, key=lambda picture: picture.side)
        self._pixels = [picture.pixels for picture in pictures]
        if torch.device(device).type != "cpu" and 2 * self.bytes < devices.free_memory(str(device)):
            self._pixels = [pixels.to(device) for pixels in self._pixels]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    @property
    def bytes(self) -> int:
        """Memory that the pixels take."""
        return sum(p.numel() * p.element_size() for p in self._pixels)

    def crops(
        self,
        count: int,
        size: int,
        generator: Generator,
        *,
        rescale: tuple[float, float] = (1.0, 1.0),
        upright: bool = False,
    ) -> Tensor:
        """Draw crops, each flipped and turned by multiples of 90 degrees at random.

        Parameters
        ----------
        count, size : int
        generator : torch.Generator
            On the CPU, so that every device draws the same.
        rescale : (low, high)
            Each crop is of a picture enlarged by a factor drawn log-uniformly from this interval;
            less than 1 makes pictures smaller, as far as they stay as large as the crop.
        upright : bool
            Only flip left and right: what is up stays up.

        Returns
        -------
        (count, layers, 3, size, size) float32 tensor in [0, 1], where the pool is

        Raises
        ------
        ValueError
            A picture is smaller than the crops, and is not resized.
        """
        if tuple(rescale) == (1.0, 1.0):
            self._check(size)
        return _unit([self._crop(size, generator, rescale, upright) for _ in range(count)])

    def _crop(self, size: int, generator: Generator, rescale: tuple[float, float], upright: bool) -> Tensor:
        low, high = rescale
        resized = (low, high) != (1.0, 1.0)
        a, b, c, d, *e = torch.rand(
            5 if resized else 4, generator=generator, dtype=torch.float32, device="cpu"
        ).tolist()
        pixels = self._pixels[int(a * len(self._pixels))]
        side = size
        if resized:
            side = min(max(1, round(size / (low * (high / low) ** e[0]))), *pixels.shape[-2:])
        top = int(b * (pixels.shape[-2] - side + 1))
        left = int(c * (pixels.shape[-1] - side + 1))
        crop = pixels[..., top : top + side, left : left + side]
        if side != size:
            crop = _resize(crop, size)
        turn = 4 * int(d * 2) if upright else int(d * 8)  # a mirror, or the square's eight symmetries
        crop = torch.rot90(crop, turn % 4, (-2, -1))
        return crop.flip(-1) if turn >= 4 else crop

    def centres(self, size: int) -> Tensor:
        """Return every picture's central crop, as (N, layers, 3, size, size) float32 in [0, 1].

        Raises
        ------
        ValueError
            A picture is smaller.
        """
        self._check(size)
        crops = []
        for pixels in self._pixels:
            top, left = (pixels.shape[-2] - size) // 2, (pixels.shape[-1] - size) // 2
            crops.append(pixels[..., top : top + size, left : left + size])
        return _unit(crops)

    def _check(self, size: int) -> None:
        if self.smallest.side < size:
            raise ValueError(f"{self.smallest.name} is {self.smallest.size}; crops of {size} px wanted that at least")


def _resize(crop: Tensor, size: int) -> Tensor:
    unit = crop.float() / 255 if crop.dtype == torch.uint8 else crop.float()
    # Antialiased, or a shrunk picture would have an aliasing that no camera makes.
    return F.interpolate(unit, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _unit(crops: list[Tensor]) -> Tensor:
    if all(crop.dtype == torch.uint8 for crop in crops):  # one pass over all of them
        return torch.stack([crop.expand(-1, 3, -1, -1) for crop in crops]).float() / 255
    unit = [crop.float() / 255 if crop.dtype == torch.uint8 else crop.float() for crop in crops]
    return torch.stack([crop.expand(-1, 3, -1, -1) for crop in unit])
