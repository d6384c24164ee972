"""TIFF of any type and number of axes; ImageJ and OME keep their pixel sizes, OME its channels' names."""

import logging
import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile, RefusedError, profile_for
from napari_dmgn.files.orientation import TRANSPOSED, upright
from napari_dmgn.files.room import check_room
from napari_dmgn.files.samples import check_colours, inverted, read_samples, sample_options

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_LOG = logging.getLogger(__name__)

_IMAGEJ_KEYS = ("spacing", "unit", "finterval", "fps", "tunit")
_OME_KEYS = ("PhysicalSize", "TimeIncrement")
_PROFILE = 34675  # tag of the colour profile
_OFFSETS = 2**32
_CLASSIC_TIFF_LIMIT = _OFFSETS - 2**25
# What is smaller costs little memory and, once read, no longer depends on the file.
_MAPPED_BYTES = 2**28


def read_tiff(path: Path, series: int | None = None) -> ImageFile:
    """Read one series at full resolution, its colours on the last axis; see `read_image`."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as file:
        _check_pages(file)
        number = _chosen(path, series, len(file.series))
        chosen = file.series[number]
        page = chosen.keyframe
        check_colours(path, page)
        metadata = _facts(file, page, number)
        array, axes = _pixels(path, file, chosen), chosen.axes
        if array.dtype.kind == "b":  # black and white, as those of PNG
            array = array.view(np.uint8) * np.uint8(1 if page.photometric == PHOTOMETRIC.PALETTE else 255)
        if page.photometric == PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = inverted(array, axes)
        # ImageJ calls the pseudo-colours of a display a palette too; what it measured are the indices.
        if page.photometric == PHOTOMETRIC.PALETTE and not file.is_imagej and "S" not in axes:
            array, axes = _coloured(array, page.colormap), axes + "S"
        colours_at = axes.find("S") if "S" in axes[:-1] else None
        if "S" in axes:
            array, axes, facts = read_samples(array, axes, page)
            metadata |= facts
        if set(axes) - {"S", "C"} == {"Y", "X"}:  # pages of a stack may lie otherwise each
            orientation = page.tags.valueof("Orientation", 1)
            array = upright(array, orientation, rows=axes.index("Y"), columns=axes.index("X"))
            if orientation in TRANSPOSED:
                metadata["resolution"] = metadata["resolution"][::-1]
    rgb = axes.endswith("S")
    unknown = bool(set("QI") & set(axes))  # tifffile's letters for axes of which the file says nothing
    return ImageFile(
        array=array,
        rgb=True if rgb else None if unknown else False,
        channel_axis=axes.index("C") if "C" in axes and not rgb and (not unknown or "samples_at" in metadata) else None,
        axes=None if unknown else axes,
        metadata=metadata,
        colours_at=colours_at if rgb else None,
    )


def _chosen(path: Path, series: int | None, count: int) -> int:
    """Return the number of the series to read; say so where it is one of several and nobody chose it."""
    if not count:
        raise ValueError("it holds no image")
    if series is None and count > 1:
        _LOG.warning("%r holds %d series of images; only the first, series 0, is read", str(path), count)
    if series is not None and not 0 <= series < count:
        has = f"the series 0 to {count - 1}" if count > 1 else "series 0 only"
        raise RefusedError(f"series {series} is not in {str(path)!r}, which has {has}")
    return series or 0


def _check_pages(file: "TiffFile") -> None:
    """Refuse a file that ends before the last of its pages; tifffile only logs that and goes without them."""
    if file.is_lsm and file.filehandle.size > _OFFSETS:
        return  # its offsets start again at 0, which tifffile mends
    form = file.tiff
    offset = file.pages.first.offset
    met: set[int] = set()
    while offset and offset not in met:  # a chain that bites its own tail has all its pages
        tags = _number(file, offset, form.tagnoformat, form.tagnosize)
        after = offset + form.tagnosize + (tags or 0) * form.tagsize
        following = None if tags is None else _number(file, after, form.offsetformat, form.offsetsize)
        if following is None:
            size = file.filehandle.size
            raise ValueError(f"it ends after {size} bytes, before its page {len(met)}, which lies at byte {offset}")
        met.add(offset)
        offset = following


def _number(file: "TiffFile", place: int, form: str, size: int) -> int | None:
    """Read a number at a place in the file, or None where the file has ended before."""
    if place + size > file.filehandle.size:
        return None
    file.filehandle.seek(place)
    number: int = struct.unpack(form, file.filehandle.read(size))[0]
    return number


def _pixels(path: Path, file: "TiffFile", series: "TiffPageSeries") -> Array:
    """Map the pixels of a large series where they lie in the file as they are in memory, or else read them."""
    # Others are read whole: strips of a compressed file would be decoded again for every window that
    # meets them, and whoever takes pixels in the other byte order takes them for another type.
    if (
        series.nbytes >= _MAPPED_BYTES
        and series.dataoffset is not None
        and series.keyframe.is_memmappable
        and series.dtype.newbyteorder(file.byteorder).isnative
        and all(page.parent is file for page in series.pages)  # OME-TIFF goes on in other files
    ):
        return np.memmap(path, series.dtype, "r", series.dataoffset, series.shape)
    check_room(path, series.shape, series.nbytes)
    array: Array = series.asarray()
    return array


def _coloured(indices: Array, palette: Array) -> Array:
    """Return the colours, on a new last axis, that a palette (3, N) of 16 bits has for its indices."""
    # Palettes are written of 8 bits, times 256 or 257; viewers show the upper 8.
    colours: Array = (palette.T >> 8).astype(np.uint8)[indices]
    return colours


def _facts(file: "TiffFile", page: "TiffPage", series: int) -> dict[str, Any]:
    """Return what a file written like this one takes over."""
    facts: dict[str, Any] = {"resolution": page.resolution, "resolutionunit": int(page.resolutionunit)}
    if profile := page.tags.valueof(_PROFILE):
        facts["icc_profile"] = profile
    if file.imagej_metadata:
        known = file.imagej_metadata
        facts["imagej"] = {key: known[key] for key in _IMAGEJ_KEYS if key in known}
    elif file.ome_metadata:
        facts["ome"] = _ome_facts(file.ome_metadata, series)
    return facts


def _ome_facts(xml: str, series: int) -> dict[str, Any]:
    """Return pixel sizes and, where all channels have one, their names, as tifffile writes them."""
    images = list(ET.fromstring(xml).iterfind(".//{*}Pixels"))
    if series >= len(images):
        return {}
    facts: dict[str, Any] = {key: value for key, value in images[series].items() if key.startswith(_OME_KEYS)}
    names = [channel.get("Name") for channel in images[series].iterfind("{*}Channel")]
    return facts | ({"Channel": {"Name": names}} if names and all(names) else {})


def write_tiff(file: BinaryIO, array: Array, like: ImageFile, *, axes: str | None, rgb: bool) -> None:
    """Write a TIFF; in ImageJ's or OME's dialect where `like` was, and where the type allows it."""
    from tifffile import imwrite

    options, axes = sample_options(array, like, axes=axes, rgb=rgb)
    metadata: dict[str, Any] = {"axes": axes} if axes else {}
    for key in ("resolution", "resolutionunit"):
        if key in like.metadata:
            options[key] = like.metadata[key]
    profile = profile_for(like, rgb=options["photometric"] == "rgb")
    if profile:
        options["extratags"] = [(_PROFILE, 7, len(profile), profile, True)]  # older tifffile has no word for it
    standard = axes is not None and set(axes) <= set("TZCYXS")
    dtype = array.dtype.newbyteorder("=").str[1:]
    if standard and "imagej" in like.metadata and array.nbytes < _CLASSIC_TIFF_LIMIT:
        if dtype in (("u1",) if rgb else ("u1", "u2", "f4")) and "planarconfig" not in options:
            options["imagej"] = True
            metadata |= like.metadata["imagej"]
    elif standard and "ome" in like.metadata and dtype not in ("f2", "i8", "u8"):
        options["ome"] = True
        known = like.metadata["ome"]
        names = known.get("Channel", {}).get("Name", ())
        named = axes is not None and "C" in axes and array.shape[axes.index("C")] == len(names)
        metadata |= {key: value for key, value in known.items() if named or key != "Channel"}
    imwrite(file, array, metadata=metadata, **options)
