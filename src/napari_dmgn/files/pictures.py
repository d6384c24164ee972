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
    from PIL.Image import Exif, Image
    from PIL.ImageFile import ImageFile as OpenPicture

_ORIENTATION = 0x0112  # of EXIF
_METRES_PER_INCH = 0.0254
_AFTER_HEADER = 33  # bytes: where PNG wants what is about its colours


def read_png(path: Path) -> ImageFile:
    """Read a PNG of 8 or 16 bits."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[24:25] != b"\x10":
        return read_picture(path, "PNG")
    # Pillow cuts 16-bit colours down to 8.
    from imagecodecs import png_decode

    width, height, _, kind = struct.unpack(">IIBB", header[16:26])
    channels = {0: 1, 4: 2, 6: 4}.get(kind, 3)
    check_room(path, (height, width, channels), 2 * height * width * channels + path.stat().st_size)
    content = path.read_bytes()
    chunks = _chunks(content)
    if b"acTL" in chunks:
        _check_still(path, int.from_bytes(chunks[b"acTL"][:4], "big"))
    orientation = _orientation(lambda: _exif(bytes(chunks.get(b"eXIf", b""))))
    array = upright(png_decode(content), orientation)
    if array.ndim == 3 and array.shape[-1] == 2:  # grayscale with alpha
        array = array[..., [0, 0, 0, 1]]
    facts: dict[str, Any] = {}
    with suppress(Exception), _opened(path, "PNG") as picture:  # it reads less than what has decoded the pixels
        facts = _facts(picture, orientation)
    return _picture(array, facts)


def _chunks(png: bytes) -> dict[bytes, memoryview]:
    """Return the contents of a PNG's chunks by name, of each the first."""
    view, found, place = memoryview(png), dict[bytes, memoryview](), 8
    while place + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, place)
        found.setdefault(name, view[place + 8 : place + 8 + length])
        place += 12 + length
    return found


def read_picture(path: Path, kind: str) -> ImageFile:
    """Read a PNG, JPEG, WebP or BMP of 8 bits: upright, as grayscale, RGB or RGBA."""
    from PIL import ImageOps

    with _opened(path, kind) as picture:
        # A PNG's default picture, which the animation may leave out, counts as one.
        _check_still(path, getattr(picture, "n_frames", 1))
        (width, height), transparent = picture.size, picture.has_transparency_data
        channels = 4 if transparent else 1 if picture.mode in ("1", "L") else 3
        # Pillow holds a pixel of colours in 4 bytes, and on its way into an array a picture is there up to three times
        # more, as bytes and as an array; WebP is decoded into bytes of its own besides.
        held = {1: 3, 3: 10, 4: 16}[channels] + (9 if kind == "WebP" else 0)
        check_room(path, (height, width, channels), height * width * held)
        picture.load()  # raises where pixels are broken; a PNG's EXIF would load them, and nobody would hear of it
        orientation = _orientation(picture.getexif)
        metadata = _facts(picture, orientation)
        if orientation != 1:
            ImageOps.exif_transpose(picture, in_place=True)
        return _picture(np.array(_plain(picture)), metadata)


def _check_still(path: Path, frames: int) -> None:
    if frames > 1:
        raise RefusedError(f"cannot read {str(path)!r}: an animation of {frames} pictures; wanted a single one")


def _orientation(exif: "Callable[[], Exif]") -> int:
    """Return what EXIF says of how the picture lies in the file."""
    with suppress(Exception):  # a broken note is no broken picture
        return int(exif().get(_ORIENTATION, 1))
    return 1


def _exif(content: bytes) -> "Exif":
    from PIL.Image import Exif

    exif = Exif()
    exif.load(content)
    return exif


def _facts(picture: "Image", orientation: int) -> dict[str, Any]:
    """Return what an upright file written like this one takes over."""
    facts = {key: picture.info[key] for key in ("icc_profile", "dpi") if picture.info.get(key)}
    if not all(facts.get("dpi", ())):  # BMP's word for what it does not know is 0
        del facts["dpi"]
    if orientation in TRANSPOSED and "dpi" in facts:
        facts["dpi"] = facts["dpi"][::-1]
    return facts


def _opened(path: Path, kind: str) -> "OpenPicture":
    """Open a picture by Pillow's class for its format.

    `Image.open` refuses pictures of 179 megapixels as an attack; mosaics are larger. Its limit
    belongs to the whole process, and to all threads, so that it is not ours to lift. The class for
    WebP, whose greatest picture has 268 megapixels, asks for it too.
    """
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.Image import DecompressionBombError
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    kinds: dict[str, Callable[[Path], OpenPicture]]
    kinds = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WebP": WebPImageFile, "BMP": BmpImageFile}
    try:
        return kinds[kind](path)
    except DecompressionBombError as error:
        reason = str(error).partition(",")[0]
        raise RefusedError(f"cannot read {str(path)!r}: {reason} for {kind}; wanted another format") from None
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
