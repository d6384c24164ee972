"""Image files: PNG, JPEG, WebP, BMP, TIFF and OME-Zarr, with the axes, pixel size and colour profile that they name."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from napari_dmgn.files.image_file import Array, ImageFile, RefusedError, axes_of
from napari_dmgn.files.multiscale import create_store, open_to_write, read_notes, write_collection
from napari_dmgn.files.ome_zarr import is_store, open_store
from napari_dmgn.files.pictures import encode_png16, read_picture, read_png, write_picture
from napari_dmgn.files.pyramid import Block, blocks, fill
from napari_dmgn.files.tiff import read_tiff, write_tiff
from napari_dmgn.files.transposed import Transposed

__all__ = [
    "IMAGE_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "Block",
    "ImageFile",
    "Transposed",
    "blocks",
    "create_store",
    "fill",
    "is_store",
    "open_store",
    "open_to_write",
    "read_image",
    "read_notes",
    "replacing",
    "write_collection",
    "write_image",
]

_KINDS_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_KINDS_READ = _KINDS_WRITTEN | {".webp": "WebP", ".bmp": "BMP"}
IMAGE_SUFFIXES = tuple(_KINDS_READ)
"""Extensions that are read."""
WRITTEN_SUFFIXES = tuple(_KINDS_WRITTEN)
"""Those of them that are written too."""
_KIND_OF_HEAD = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}


def read_image(path: str | os.PathLike[str], *, series: int | None = None) -> ImageFile:
    """Read a PNG, JPEG, WebP, BMP or TIFF file; of a TIFF one series at full resolution.

    Pictures come upright (orientation of TIFF and EXIF applied), stacks as they lie in the file;
    palettes and CMYK come as RGB, grayscale with alpha as RGBA. Samples of a TIFF that are neither
    colours nor alpha, a fourth band say, make channels of all. The pixels' type is the file's, of 1 bit
    uint8; the extension has to be that of an image, but the content decides which. A large TIFF whose
    pixels lie in the file as they are in memory is mapped: its array is read-only, and is read from the
    file where it is indexed.

    Parameters
    ----------
    path : of the file
    series : of the images that a TIFF holds, counted from 0
        None takes the first, with a logged warning where there are others.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is not an image of these formats, or a broken one, has no such series or colours
        of another kind, is an animation, or is larger than the free memory.
    """
    path = Path(path)
    kind = _kind_of_name(path, "read", _KINDS_READ)
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {str(path)!r}") from None
    except IsADirectoryError:
        raise ValueError(f"cannot read {str(path)!r}: it is a folder") from None
    found = _kind_of_head(head)
    if found is None:
        seen = f"it starts with {head[:8]!r}" if head else "it is empty"
        raise ValueError(f"cannot read {str(path)!r}: not a {kind} image ({seen})")
    if series is not None and found != "TIFF":
        raise ValueError(f"{str(path)!r} is a {found} image and has no series; got series {series}")
    try:
        if found == "TIFF":
            return read_tiff(path, series)
        return read_png(path) if found == "PNG" else read_picture(path, found)
    except (MemoryError, RefusedError):
        raise
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot read {str(path)!r}: a broken {found} image ({reason})") from error


def write_image(
    path: str | os.PathLike[str],
    array: Array,
    *,
    like: ImageFile | None = None,
    rgb: bool | None = None,
) -> None:
    """Write a PNG, JPEG (quality 95) or TIFF file, whole or not at all.

    Parameters
    ----------
    path : its extension names the format; an existing file is replaced
    array : TIFF takes any real type and number of axes, PNG 8 and 16 bits, JPEG 8 bits
    like : the file that `array` was made from; its axes, pixel size and profile are taken over
    rgb : whether an axis, S of `like` or else the last, is RGB(A); None follows `like`, or else guesses by the shape

    Raises
    ------
    ValueError
        If the format cannot hold the array.
    OSError
        If the folder is missing or full. Nothing is left behind.
    """
    path = Path(path)
    kind = _kind_of_name(path, "write", _KINDS_WRITTEN)
    like = like or ImageFile(array=array)
    axes = axes_of(array, like)
    if rgb is None:
        rgb = axes.endswith("S") if axes else array.ndim > 2 and array.shape[-1] in (3, 4)
    reason = _misfit(kind, array, rgb)
    if reason:
        raise ValueError(f"cannot write {str(path)!r}: {reason}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {str(path.parent)!r}")
    if kind == "TIFF" and shutil.disk_usage(path.parent).free < array.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with replacing(path) as file:
        if kind == "TIFF":
            write_tiff(file, array, like, axes=axes, rgb=rgb)
        elif array.dtype.itemsize == 2:
            file.write(encode_png16(array, like))
        else:
            write_picture(file, kind, array, like)


def _kind_of_head(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":  # the length stands between
        return "WebP"
    return next((kind for start, kind in _KIND_OF_HEAD.items() if head.startswith(start)), None)


def _kind_of_name(path: Path, verb: str, kinds: dict[str, str]) -> str:
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(kinds)
        raise ValueError(f"cannot {verb} {str(path)!r}: extension {path.suffix!r} is none of {known}")
    return kind


def _misfit(kind: str, array: Array, rgb: bool) -> str | None:
    """Why a format cannot hold an array, or None if it can."""
    dtype = array.dtype
    if array.size == 0:
        return f"an array of shape {array.shape} has no pixels"
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        return f"no image format holds {dtype}"
    if kind == "TIFF":
        return None if array.ndim >= 2 else f"an image has 2 axes or more; got shape {array.shape}"
    if array.ndim != (3 if rgb else 2):
        return f"{kind} holds one picture, not shape {array.shape}; use .tif"
    if kind == "JPEG" and rgb and array.shape[-1] == 4:
        return "JPEG holds no alpha; use .png or .tif"
    if dtype.kind != "u" or dtype.itemsize > (2 if kind == "PNG" else 1):
        bits = "8 or 16" if kind == "PNG" else "8"
        return f"{kind} holds whole numbers of {bits} bits, not {dtype}; use .tif"
    return None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete and on the disk."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")  # short: `path` may have the longest name there is
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
