"""What the samples of a TIFF's pixel are: grey levels, or colours of one model or another."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_dmgn.files.image_file import Array, RefusedError

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["check_colours", "rgb_of_cmyk"]

_CMYK = 1  # of the tag InkSet


def check_colours(path: Path, page: "TiffPage") -> None:
    """Refuse a page of colours that would be taken for RGB and are others.

    Raises
    ------
    RefusedError
    """
    from tifffile import COMPRESSION, PHOTOMETRIC

    # Of these compressions tifffile makes RGB of YCbCr, where the samples are only that and lie together.
    jpegs = {COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.JPEG_LOSSY}
    wavelets = {COMPRESSION.APERIO_JP2000_YCBC, COMPRESSION.JPEG_2000_LOSSY, COMPRESSION.JPEG2000, COMPRESSION.WEBP}
    decoded = page.compression in jpegs | wavelets and page.planarconfig == 1 and not page.extrasamples
    cmyk = (
        page.samplesperpixel == 4
        and page.dtype in (np.uint8, np.uint16)
        and page.bitspersample == 8 * page.dtype.itemsize
        and page.tags.valueof("InkSet", _CMYK) == _CMYK
    )
    known = {PHOTOMETRIC.YCBCR: decoded, PHOTOMETRIC.SEPARATED: cmyk}
    others = (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB, PHOTOMETRIC.LOGL, PHOTOMETRIC.LOGLUV)
    if not known.get(page.photometric, page.photometric not in others):
        seen = f"{PHOTOMETRIC(page.photometric).name}, {page.samplesperpixel} samples of {page.bitspersample} bits"
        wanted = "grayscale, RGB, a palette, or CMYK of 8 or 16 bits"
        raise RefusedError(f"cannot read {str(path)!r}: its colours are {seen}; wanted {wanted}")


def rgb_of_cmyk(inks: Array) -> Array:
    """Return (..., 3) colours of (..., 4) inks of whole numbers, as Pillow does for JPEG: each ink over black."""
    top = np.iinfo(inks.dtype).max
    colours = np.empty((*inks.shape[:-1], 3), inks.dtype)
    black = (top - inks[..., 3]).astype(np.uint32)
    for i in range(3):
        colours[..., i] = ((top - inks[..., i]) * black + top // 2) // top
    return colours
