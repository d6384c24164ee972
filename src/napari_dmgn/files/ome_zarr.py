"""OME-Zarr images, of any version up to 0.5, and plain Zarr arrays; read by the zarr library where indexed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from napari_dmgn.files.image_file import Array, ImageFile
from napari_dmgn.files.transposed import Transposed

__all__ = ["COLOURS", "import_zarr", "is_store", "open_store"]

# Types of the axes that are none of these by name, in the order in which they get the letters that are left.
_LETTERS = {"T": "time", "C": "channel", "X": None, "Y": None, "Z": "space"}
_SPARE = "QUVWABDEFGHIJKLMNOPR"  # of axes of frames; not S, which is colours
_MARKERS = ("zarr.json", ".zgroup", ".zarray")
COLOURS = {"FF0000": "red", "00FF00": "green", "0000FF": "blue"}
"""Names of the first channels of a colour picture, by what OME calls their colours."""


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any(os.path.isfile(path / name) for name in _MARKERS)  # also of a folder that we may not look into


def import_zarr() -> Any:
    """Return the zarr library; ModuleNotFoundError says how to get it."""
    try:
        import zarr
    except ModuleNotFoundError as error:
        message = "OME-Zarr needs the package zarr: pip install 'napari-dmgn[large]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    return zarr


def open_store(path: Path, *, level: int = 0, rgb: bool | None = None) -> ImageFile:
    """Open one level of an OME-Zarr image, or a plain Zarr array; pixels are read where indexed.

    Parameters
    ----------
    path : folder of the image's group, or of an array
    level : resolution, 0 the finest
    rgb : whether the channels are the colours of one picture, which then become the last axis;
        None looks whether they are 8 bits deep and named red, green and blue by their colours

    Returns
    -------
    ImageFile
        `array` reads as it is indexed. `metadata["ngff"]` has the version, and type, unit, scale,
        translation and, where it says more than the letter, name of each axis by its letter.

    Raises
    ------
    ValueError
        No Zarr store, no image in it, broken metadata, or no such level.
    """
    zarr = import_zarr()
    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # whatever broken metadata lead to
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot read {str(path)!r}: not a Zarr store ({reason})") from error
    if isinstance(node, zarr.Array):
        if level:
            raise ValueError(f"{str(path)!r} has no levels, it is a plain Zarr array; got level {level}")
        return ImageFile(array=_view(node, tuple(range(node.ndim))))
    try:
        ome = node.attrs.get("ome", node.attrs)
        image = ome["multiscales"][0] if ome.get("multiscales") else None
        levels = [] if image is None else [dataset["path"] for dataset in image["datasets"]]
    except Exception as error:
        raise _broken(path, error) from error
    if image is None:
        inside = ", ".join(sorted(node.keys())) or "nothing"
        raise ValueError(f"cannot read {str(path)!r}: no OME-Zarr image; it holds {inside}: name one of them")
    if not 0 <= level < len(levels):
        raise ValueError(f"level {level} is not in {str(path)!r}, which has the levels 0 to {len(levels) - 1}")
    try:
        return _opened(node[levels[level]], ome, image, level, rgb)
    except Exception as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ValueError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ValueError(f"cannot read {str(path)!r}: its OME-Zarr metadata are broken ({reason})")


def _opened(stored: Any, ome: Mapping[str, Any], image: Mapping[str, Any], level: int, rgb: bool | None) -> ImageFile:
    """Describe a level that was found."""
    axes = _axes(image, stored.ndim)
    letters = "".join(axes)
    described = {"version": _version(ome, image), "axes": _sizes(image, level, axes)}
    if "omero" in ome:
        described["omero"] = ome["omero"]
    colours = _are_colours(letters, stored, described.get("omero")) if rgb is None else rgb
    order = tuple(range(stored.ndim))
    if colours and "C" in letters:
        place = letters.index("C")
        order = (*order[:place], *order[place + 1 :], place)
        letters = letters.replace("C", "") + "S"
    channel_axis = letters.index("C") if "C" in letters else None
    return ImageFile(
        array=_view(stored, order),
        rgb=letters.endswith("S"),
        channel_axis=channel_axis,
        axes=letters,
        metadata={"ngff": described},
    )


def _view(stored: Any, order: tuple[int, ...]) -> Array:
    return cast("Array", Transposed(stored, order))  # all of an array that reading it by windows needs


def _version(ome: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    return "0.5" if "version" in ome else str(image.get("version", "0.4"))


def _axes(image: Mapping[str, Any], ndim: int) -> dict[str, dict[str, Any]]:
    """Type, unit and, where it is another, name of each axis by its letter.

    Before version 0.4 axes had names only, or none. An axis of no known name or type is one of frames:
    its letter means nothing.
    """
    axes = image.get("axes", "tczyx"[-ndim:])
    named = [dict(axis) if isinstance(axis, Mapping) else {"name": axis} for axis in axes]
    names = [str(axis.pop("name")) for axis in named]
    if len(names) != ndim or len({name.lower() for name in names}) != ndim:
        raise ValueError(f"axes {', '.join(names)} of an array of {ndim}")
    letters = [name.upper() if name.upper() in _LETTERS else "" for name in names]

    def left(kind: str | None) -> list[int]:
        return [i for i, axis in enumerate(named) if not letters[i] and kind in (None, axis.get("type"))]

    for letter, kind in _LETTERS.items():
        if letter not in letters and (places := left(kind)):
            letters[places[-1]] = letter
    for place, letter in zip(left(None), _SPARE, strict=False):
        letters[place] = letter
    for axis, name, letter in zip(named, names, letters, strict=True):
        axis |= {} if name == letter.lower() else {"name": name}
    return dict(zip(letters, named, strict=True))


def _sizes(image: Mapping[str, Any], level: int, axes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add scale and translation of a level to its axes."""
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    dataset = image["datasets"][level]
    for change in (
        *dataset.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if isinstance(change.get("scale"), list):
            scale, shift = scale * change["scale"], shift * change["scale"]
        elif isinstance(change.get("translation"), list):
            shift = shift + change["translation"]
    numbers = zip(axes.items(), scale.tolist(), shift.tolist(), strict=True)
    return {letter: axis | {"scale": s, "translation": t} for (letter, axis), s, t in numbers}


def _are_colours(letters: str, stored: Any, omero: Any) -> bool:
    if "C" not in letters or stored.shape[letters.index("C")] not in (3, 4) or stored.dtype != np.uint8:
        return False
    channels = (omero or {}).get("channels", [])
    return [str(channel.get("color", "")).upper() for channel in channels[:3]] == list(COLOURS)
