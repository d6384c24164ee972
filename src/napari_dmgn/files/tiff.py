"""TIFF of any type and number of axes; ImageJ and OME keep their pixel sizes."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile

_IMAGEJ_KEYS = ("spacing", "unit", "finterval", "fps", "tunit")
_OME_KEYS = ("PhysicalSize", "TimeIncrement")
_CLASSIC_TIFF_LIMIT = 2**32 - 2**25


def read_tiff(path: Path) -> ImageFile:
    """Read the first series at full resolution, its colours on the last axis."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as file:
        if not file.series:
            raise ValueError("it holds no image")
        series = file.series[0]
        page = series.keyframe
        array, axes = series.asarray(), series.axes
        metadata: dict[str, Any] = {
            "resolution": page.resolution,
            "resolutionunit": int(page.resolutionunit),
        }
        if file.imagej_metadata:
            known = file.imagej_metadata
            metadata["imagej"] = {key: known[key] for key in _IMAGEJ_KEYS if key in known}
        elif file.ome_metadata:
            metadata["ome"] = _ome_sizes(file.ome_metadata)
        if page.photometric == PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = np.iinfo(array.dtype).max - array
    if "S" in axes:
        place = axes.index("S")
        array = np.moveaxis(array, place, -1)
        axes = axes[:place] + axes[place + 1 :] + "S"
        if array.shape[-1] not in (3, 4):
            axes = axes.replace("C", "Q")[:-1] + "C"
    if set("QI") & set(axes):  # tifffile's letters for axes of which the file says nothing
        return ImageFile(array=array, rgb=axes.endswith("S") or None, metadata=metadata)
    rgb = axes.endswith("S")
    channel_axis = axes.index("C") if "C" in axes and not rgb else None
    return ImageFile(array=array, rgb=rgb, channel_axis=channel_axis, axes=axes, metadata=metadata)


def _ome_sizes(xml: str) -> dict[str, str]:
    pixels = ET.fromstring(xml).find(".//{*}Pixels")
    attributes = {} if pixels is None else pixels.attrib
    return {key: value for key, value in attributes.items() if key.startswith(_OME_KEYS)}


def write_tiff(file: BinaryIO, array: Array, like: ImageFile, *, axes: str | None, rgb: bool) -> None:
    """Write a TIFF; in ImageJ's or OME's dialect where `like` was, and where the type allows it."""
    from tifffile import imwrite

    metadata: dict[str, Any] = {"axes": axes} if axes else {}
    options: dict[str, Any] = {"photometric": "rgb" if rgb else "minisblack"}
    if rgb and array.shape[-1] == 4:
        options["extrasamples"] = ["unassalpha"]
    for key in ("resolution", "resolutionunit"):
        if key in like.metadata:
            options[key] = like.metadata[key]
    standard = axes is not None and set(axes) <= set("TZCYXS")
    dtype = array.dtype.newbyteorder("=").str[1:]
    if standard and "imagej" in like.metadata and array.nbytes < _CLASSIC_TIFF_LIMIT:
        if dtype in (("u1",) if rgb else ("u1", "u2", "f4")):
            options["imagej"] = True
            metadata |= like.metadata["imagej"]
    elif standard and "ome" in like.metadata and dtype not in ("f2", "i8", "u8"):
        options["ome"] = True
        metadata |= like.metadata["ome"]
    imwrite(file, array, metadata=metadata, **options)
