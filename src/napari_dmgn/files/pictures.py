"""PNG, JPEG, WebP and BMP: Pillow for 8 bits a channel, imagecodecs for 16."""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile, RefusedError, profile_for
from napari_dmgn.files.orientation import TRANSPOSED, upright
from napari_dmgn.files.room import check_room

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile as OpenPicture

_ORIENTATION = 0x0112  # of EXIF
_METRES_PER_INCH = 0.0254
_AFTER_HEADER = 33  # bytes: where PNG wants what is about its colours


def read_png(path: Path) -> ImageFile:
    """Read a PNG of 8 or 16 bits."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[24:25] != b"\x10":
        return read_picture(path)
    # Pillow cuts 16-bit colours down to 8.
    from imagecodecs import png_decode

    width, height, _, kind = struct.unpack(">IIBB", header[16:26])
    channels = {0: 1, 4: 2, 6: 4}.get(kind, 3)
    check_room(path, (height, width, channels), 2 * height * width * channels + path.stat().st_size)
    content = path.read_bytes()
    orientation = _exif_orientation(content)
    array = upright(png_decode(content), orientation)
    if array.ndim == 3 and array.shape[-1] == 2:  # grayscale with alpha
        array = array[..., [0, 0, 0, 1]]
    facts: dict[str, Any] = {}
    with suppress(Exception), _opened(path) as picture:  # it reads less than what has decoded the pixels
        facts = _facts(picture, orientation)
    return _picture(array, facts)


def _exif_orientation(png: bytes) -> int:
    """Return what a PNG's eXIf says of how the picture lies in the file, wherever it stands."""
    from PIL.Image import Exif

    place = 8
    while place + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, place)
        if name == b"eXIf":
            exif = Exif()
            with suppress(Exception):  # as with 8 bits: a broken note is no broken picture
                exif.load(png[place + 8 : place + 8 + length])
                return int(exif.get(_ORIENTATION, 1))
        place += 12 + length
    return 1


def read_picture(path: Path) -> ImageFile:
    """Read a PNG, JPEG, WebP or BMP of 8 bits: upright, as grayscale, RGB or RGBA."""
    from PIL import ImageOps

    with _opened(path) as picture:
        if getattr(picture, "is_animated", False):
            frames = getattr(picture, "n_frames", 0)
            raise RefusedError(f"cannot read {str(path)!r}: an animation of {frames} pictures; wanted a single one")
        (width, height), gray = picture.size, picture.mode in ("1", "L")
        # Pillow holds a pixel of colours in 4 bytes, and on its way into an array a picture is there twice more.
        check_room(path, (height, width, 1 if gray else 3), height * width * (3 if gray else 10))
        metadata = _facts(picture, picture.getexif().get(_ORIENTATION, 1))
        ImageOps.exif_transpose(picture, in_place=True)
        return _picture(np.array(_plain(picture)), metadata)


def _facts(picture: "Image", orientation: int) -> dict[str, Any]:
    """Return what an upright file written like this one takes over."""
    facts = {key: picture.info[key] for key in ("icc_profile", "dpi") if picture.info.get(key)}
    if orientation in TRANSPOSED and "dpi" in facts:
        facts["dpi"] = facts["dpi"][::-1]
    return facts


def _opened(path: Path) -> "OpenPicture":
    """Open a picture by Pillow's class for its format.

    `Image.open` refuses pictures of 179 megapixels as an attack; mosaics are larger. Its limit
    belongs to the whole process, and to all threads, so that it is not ours to lift.
    """
    from PIL import Image
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    with path.open("rb") as file:
        head = file.read(8)
    kinds: dict[bytes, Callable[[Path], OpenPicture]] = {
        b"\x89PNG\r\n\x1a\n": PngImageFile,
        b"\xff\xd8\xff": JpegImageFile,
        b"BM": BmpImageFile,
        b"RIFF": WebPImageFile,
    }
    kind = next((kind for start, kind in kinds.items() if head.startswith(start)), None)
    if kind is None:
        return Image.open(path)
    try:
        return kind(path)
    except SyntaxError as error:  # Pillow's word for a header that makes no sense
        raise ValueError(str(error)) from error


def _plain(picture: "Image") -> "Image":
    """Return a picture as grayscale, RGB or RGBA."""
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode == "1":
        return picture.convert("L")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _picture(array: Array, metadata: dict[str, Any]) -> ImageFile:
    rgb = array.ndim == 3
    return ImageFile(array=array, rgb=rgb, axes="YXS" if rgb else "YX", metadata=metadata)


def write_picture(file: BinaryIO, kind: str, array: Array, like: ImageFile) -> None:
    """Write an 8-bit PNG or JPEG."""
    from PIL import Image

    options = {key: value for key, value in like.metadata.items() if key == "dpi"}
    profile = profile_for(like, rgb=array.ndim == 3)
    if profile:
        options["icc_profile"] = profile
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    Image.fromarray(np.ascontiguousarray(array)).save(file, format=kind, **options)


def encode_png16(array: Array, like: ImageFile) -> bytes:
    """Return the bytes of a 16-bit PNG, grayscale or RGB(A)."""
    from imagecodecs import png_encode

    content = bytes(png_encode(np.ascontiguousarray(array, dtype=np.uint16)))
    notes = b""
    profile = profile_for(like, rgb=array.ndim == 3)
    if profile:
        notes += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if "dpi" in like.metadata:
        across, down = (round(dots / _METRES_PER_INCH) for dots in like.metadata["dpi"])
        notes += _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    return content[:_AFTER_HEADER] + notes + content[_AFTER_HEADER:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
