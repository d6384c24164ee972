"""What the samples of a TIFF's pixel are: grey levels, colours of one model or another, alpha, or channels."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile, RefusedError

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["check_colours", "inverted", "read_samples", "sample_options"]

_CMYK = 1  # of the tag InkSet
_ALPHAS = ((1,), (2,))  # of the tag ExtraSamples: colours times it, and beside it


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


def inverted(array: Array, axes: str) -> Array:
    """Return grey levels of which 0 was white with 0 as black; further samples stay."""
    result: Array = np.iinfo(array.dtype).max - array
    if "S" in axes:
        place = axes.index("S")
        np.moveaxis(result, place, -1)[..., 1:] = np.moveaxis(array, place, -1)[..., 1:]
    return result


def read_samples(array: Array, axes: str, page: "TiffPage") -> tuple[Array, str, dict[str, Any]]:
    """Tell colours, with or without alpha, from samples that are channels.

    Returns
    -------
    array : colours on the last axis, gray with alpha as RGBA; channels where they were. Three samples side by
        side are colours, also where the file calls them grey levels, as GDAL does with 16 bits
    axes : S for colours, C for channels
    facts : what `sample_options` needs to write the like
    """
    from tifffile import PHOTOMETRIC

    place = axes.index("S")
    samples = np.moveaxis(array, place, -1)
    count, extra = samples.shape[-1], tuple(int(kind) for kind in page.extrasamples)
    gray = page.photometric in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
    if gray:
        channels = count != 3 or place < len(axes) - 1
    else:
        channels = count not in (3, 4) or (count == 4 and extra not in ((), *_ALPHAS))
    if page.photometric == PHOTOMETRIC.SEPARATED:
        samples = _rgb_of_cmyk(samples)
    elif gray and count == 2 and extra in _ALPHAS:
        samples = samples[..., [0, 0, 0, 1]]
    elif channels:
        model = "rgb" if page.photometric == PHOTOMETRIC.RGB and count > 3 else "minisblack"
        facts = {"extrasamples": extra, "samples_at": place, "photometric": model}
        return array, axes.replace("C", "Q").replace("S", "C"), facts
    return samples, axes.replace("S", "") + "S", {"extrasamples": extra} if extra in _ALPHAS else {}


def sample_options(array: Array, like: ImageFile, *, axes: str | None, rgb: bool) -> tuple[dict[str, Any], str | None]:
    """Return what tifffile is to be told of an array's samples, and the axes with S for them."""
    known = like.metadata
    extra = known.get("extrasamples", ())
    at = known.get("samples_at")
    options: dict[str, Any]
    if not rgb and at is not None and array.ndim == like.array.ndim and array.shape[at] == like.array.shape[at]:
        options = {"photometric": known["photometric"]}
        options["planarconfig"] = "contig" if at == array.ndim - 1 else "separate"
        if len(extra) == array.shape[at] - (3 if known["photometric"] == "rgb" else 1):
            options["extrasamples"] = extra
        return options, axes and axes.replace("C", "S")
    options = {"photometric": "rgb" if rgb else "minisblack"}
    place = -1
    if axes is not None and "S" in axes[:-1]:  # planes, of colours or no longer
        if rgb:
            options["planarconfig"] = "separate"
            place = axes.index("S")
        else:
            axes = axes.replace("S", "C")
    if rgb and array.shape[place] == 4:
        options["extrasamples"] = extra if len(extra) == 1 else ("unassalpha",)
    return options, axes


def _rgb_of_cmyk(inks: Array) -> Array:
    """Return (..., 3) colours of (..., 4) inks of whole numbers, as Pillow does for JPEG: each ink over black."""
    top = np.iinfo(inks.dtype).max
    colours = np.empty((*inks.shape[:-1], 3), inks.dtype)
    black = (top - inks[..., 3]).astype(np.uint32)
    for i in range(3):
        colours[..., i] = ((top - inks[..., i]) * black + top // 2) // top
    return colours
