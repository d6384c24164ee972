"""PNG and JPEG: Pillow for 8 bits a channel, imagecodecs for 16."""

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile


def read_png(path: Path) -> ImageFile:
    """Read a PNG of 8 or 16 bits."""
    with path.open("rb") as file:
        header = file.read(25)
    if header[24:] != b"\x10":
        return read_picture(path)
    # Pillow cuts 16-bit colours down to 8.
    from imagecodecs import png_decode

    array = png_decode(path.read_bytes())
    if array.ndim == 3 and array.shape[-1] == 2:  # grayscale with alpha
        array = array[..., [0, 0, 0, 1]]
    return _picture(array, {})


def read_picture(path: Path) -> ImageFile:
    """Read a PNG or JPEG of 8 bits: upright, as grayscale, RGB or RGBA."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # Large scientific images are no attack; Pillow still refuses those of 179 megapixels.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            metadata = {key: file.info[key] for key in ("icc_profile", "dpi") if file.info.get(key)}
            picture = ImageOps.exif_transpose(file)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return _picture(np.array(picture), metadata)


def _picture(array: Array, metadata: dict[str, Any]) -> ImageFile:
    rgb = array.ndim == 3
    return ImageFile(array=array, rgb=rgb, axes="YXS" if rgb else "YX", metadata=metadata)


def write_picture(file: BinaryIO, kind: str, array: Array, like: ImageFile) -> None:
    """Write an 8-bit PNG or JPEG."""
    from PIL import Image

    options = {key: value for key, value in like.metadata.items() if key == "dpi"}
    profile = like.metadata.get("icc_profile")
    # A profile says of which colours it speaks; one of RGB does not fit a grayscale map.
    if profile and profile[16:20] == (b"GRAY" if array.ndim == 2 else b"RGB "):
        options["icc_profile"] = profile
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    Image.fromarray(np.ascontiguousarray(array)).save(file, format=kind, **options)


def encode_png16(array: Array) -> bytes:
    """Return the bytes of a 16-bit PNG, grayscale or RGB(A)."""
    from imagecodecs import png_encode

    return bytes(png_encode(np.ascontiguousarray(array, dtype=np.uint16)))
