"""Clean pictures for training: found, decoded once, cropped and turned at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["PicturePool", "find_pictures", "split_pictures"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def find_pictures(folder: str | Path) -> list[Path]:
    """Return a folder's picture files, sorted by name.

    Raises
    ------
    ValueError
        The folder is missing or has no picture.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data folder {folder} does not exist")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"data folder {folder} has no picture ({', '.join(SUFFIXES)})")
    return paths


def split_pictures(paths: Sequence[Path], validation: int) -> tuple[list[Path], list[Path]]:
    """Split pictures into training and validation by their names' hashes.

    The split depends on the names alone, not on their order. An added picture may take the place of
    one held out, but never brings a picture of the training into the validation.

    Raises
    ------
    ValueError
        Fewer than one picture is left for training.
    """
    if not 0 <= validation < len(paths):
        raise ValueError(f"{validation} of {len(paths)} pictures for validation leave none to train")
    ranked = sorted(paths, key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    held_out = set(ranked[:validation])
    return [p for p in paths if p not in held_out], [p for p in paths if p in held_out]


class PicturePool:
    """Pictures as uint8 tensors in memory, and random crops of them.

    Parameters
    ----------
    paths : sequence of Path
        Files that Pillow reads; brought to 8-bit RGB.
    least : int
        Smallest side wanted, in pixels; smaller pictures are an error.

    Attributes
    ----------
    digest : str
        sha256 over the decoded pixels, for the model card.
    """

    def __init__(self, paths: Sequence[Path], *, least: int) -> None:
        from PIL import Image, ImageOps

        self.paths = list(paths)
        self.pictures: list[Tensor] = []  # each (3, H, W) uint8
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                with Image.open(path) as opened:
                    if opened.mode.startswith(("I", "F")):  # Pillow would cut these off at 255
                        raise ValueError(f"picture {path} has pixels of mode {opened.mode}; wanted 8 bits a channel")
                    pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
            except OSError as error:
                raise ValueError(f"cannot read picture {path}: {error}") from error
            if min(pixels.shape[:2]) < least:
                raise ValueError(
                    f"picture {path} is {pixels.shape[1]}x{pixels.shape[0]}; the crops need at least {least}x{least}"
                )
            digest.update(pixels.tobytes())
            self.pictures.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def crops(self, count: int, size: int, generator: Generator) -> Tensor:
        """Draw crops, each flipped and turned by multiples of 90 degrees at random.

        Returns
        -------
        (count, 3, size, size) float32 tensor in [0, 1]
        """
        crops = []
        for _ in range(count):
            a, b, c, d = torch.rand(4, generator=generator).tolist()
            picture = self.pictures[int(a * len(self.pictures))]
            top = int(b * (picture.shape[1] - size + 1))
            left = int(c * (picture.shape[2] - size + 1))
            crop = picture[:, top : top + size, left : left + size]
            turn = int(d * 8)  # the square's eight symmetries
            crop = torch.rot90(crop, turn % 4, (1, 2))
            crops.append(crop.flip(2) if turn >= 4 else crop)
        return torch.stack(crops).float() / 255

    def centres(self, size: int) -> Tensor:
        """Return every picture's central crop, as (N, 3, size, size) float32 in [0, 1]."""
        crops = []
        for picture in self.pictures:
            top, left = (picture.shape[1] - size) // 2, (picture.shape[2] - size) // 2
            crops.append(picture[:, top : top + size, left : left + size])
        return torch.stack(crops).float() / 255
