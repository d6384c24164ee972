"""Multiscale OME-Zarr images, made empty and then written part by part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn.files.image_file import ImageFile
from napari_dmgn.files.ome_zarr import COLOURS, import_zarr
from napari_dmgn.files.transposed import Transposed
from napari_dmgn.files.units import axis_sizes

__all__ = ["create_store", "open_to_write", "read_notes", "write_collection"]

_KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_RANK = {"T": 0, "C": 1, "S": 1, "Z": 3, "Y": 4, "X": 5}  # the format's order; others stand between
_SMALLEST_LEVEL = 256


def create_store(
    path: Path,
    *,
    shape: tuple[int, ...],
    dtype: Any,
    axes: str,
    chunk: int,
    like: ImageFile,
    name: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Make an empty OME-Zarr image with all its levels; `open_to_write` gives the finest.

    Parameters
    ----------
    path : folder, made with its parents; must not exist
    shape, dtype : of the array as it will be written, its axes in the user's order
    axes : a letter for each axis, as in `ImageFile`
    chunk : rows and columns of a chunk
    like : the image that it was made from: version, pixel sizes and, for the same axes, channels
    name : of the image
    notes : what else its metadata say, under ``napari_dmgn``

    Notes
    -----
    `pyramid.fill` makes the coarser levels of the finest one.
    """
    if len(set(axes.replace("S", "C"))) != len(axes) or not 2 <= len(axes) <= 5 or not {"Y", "X"} <= set(axes):
        raise ValueError(f"OME-Zarr holds images of 2 to 5 axes, each of them once; got {axes!r}")
    order = _stored_order(axes)
    letters = [axes[axis] for axis in order]
    sides = [shape[axis] for axis in order]
    chunks = [{"Y": chunk, "X": chunk, "S": side}.get(a, 1) for a, side in zip(letters, sides, strict=True)]
    version = _version(like)
    group = import_zarr().open_group(path, mode="w-", zarr_format=2 if version == "0.4" else 3)
    levels = _level_sides(sides, chunk)
    for level, level_shape in enumerate(levels):
        group.create_array(
            str(level),
            shape=level_shape,
            dtype=np.dtype(dtype).newbyteorder("="),
            chunks=[min(pair) for pair in zip(chunks, level_shape, strict=True)],
            **_array_options(version, letters, like),
        )
    image: dict[str, Any] = {
        "name": name,
        "axes": [_axis(letter, like) for letter in letters],
        "datasets": [
            {"path": str(level), "coordinateTransformations": _transformations(letters, level, like)}
            for level in range(len(levels))
        ],
    }
    omero = _omero(axes, shape, np.dtype(dtype), like)
    attributes = {"multiscales": [image]} | ({"omero": omero} if omero else {})
    if version == "0.4":
        image["version"] = version
        group.attrs.update(attributes)
    else:
        group.attrs["ome"] = {"version": version} | attributes
    if notes:
        group.attrs["napari_dmgn"] = dict(notes)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the notes that an image was made with; none where it is none of ours."""
    try:
        return dict(import_zarr().open_group(path, mode="r").attrs.get("napari_dmgn", {}))
    except (OSError, ValueError, TypeError):  # whatever lies there under this name
        return {}


def open_to_write(path: Path, axes: str) -> Transposed:
    """Open the finest level of an image that `create_store` made of these axes."""
    stored = import_zarr().open_group(path, mode="r+")["0"]
    order = _stored_order(axes)
    return Transposed(stored, tuple(order.index(axis) for axis in range(len(axes))))


def _stored_order(axes: str) -> list[int]:
    """The axes in the order of the format: time, channels, space."""
    return sorted(range(len(axes)), key=lambda axis: (_RANK.get(axes[axis], 2), axis))


def _version(like: ImageFile) -> str:
    version = str(like.metadata.get("ngff", {}).get("version"))
    return version if version in ("0.4", "0.5") else "0.5"


def _level_sides(sides: list[int], chunk: int) -> list[list[int]]:
    """Shapes of the levels: rows and columns halved, rounded up, until one chunk holds a frame."""
    levels = [sides]
    while max(levels[-1][-2:]) > max(_SMALLEST_LEVEL, chunk):
        levels.append([*sides[:-2], *(-(-side // 2) for side in levels[-1][-2:])])
    return levels


def _array_options(version: str, letters: list[str], like: ImageFile) -> dict[str, Any]:
    if version == "0.4":
        return {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return {"dimension_names": [_name(letter, like) for letter in letters]}


def _name(letter: str, like: ImageFile) -> str:
    name: str = _known(letter, like).get("name", "c" if letter == "S" else letter.lower())
    return name


def _axis(letter: str, like: ImageFile) -> dict[str, Any]:
    known = _known(letter, like)
    axis = {"name": _name(letter, like)}
    kind = known.get("type", _KINDS.get("C" if letter == "S" else letter))
    return axis | ({"type": kind} if kind else {}) | {key: known[key] for key in ("unit",) if key in known}


def _known(letter: str, like: ImageFile) -> dict[str, Any]:
    return axis_sizes(like).get("C" if letter == "S" else letter, {})


def _transformations(letters: list[str], level: int, like: ImageFile) -> list[dict[str, Any]]:
    scale, shift = [], []
    for letter in letters:
        known = _known(letter, like)
        step, start = float(known.get("scale", 1)), float(known.get("translation", 0))
        times = 2**level if letter in "YX" else 1
        scale.append(step * times)
        shift.append(start + step * (times - 1) / 2)  # centre of the first of the pixels that were joined
    changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(shift):
        changes.append({"type": "translation", "translation": shift})
    return changes


def _omero(axes: str, shape: tuple[int, ...], dtype: np.dtype[Any], like: ImageFile) -> dict[str, Any] | None:
    """Channels for viewers: red, green and blue of a colour picture, else those of the input, of OME-TIFF by name."""
    low, high = (0, 1) if dtype.kind == "f" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    window = {"min": low, "max": high, "start": low, "end": high}
    if "S" in axes:
        colours = [*COLOURS.items(), ("FFFFFF", "alpha")][: shape[-1]]
        channels = [{"color": c, "label": n, "active": n != "alpha", "window": window} for c, n in colours]
        return {"channels": channels}
    if "C" not in axes:
        return None
    known = like.metadata.get("ngff", {}).get("omero", {}).get("channels", [])
    names = like.metadata.get("ome", {}).get("Channel", {}).get("Name", [])
    if not known and len(names) == shape[axes.index("C")]:
        known = [{"color": "FFFFFF", "label": name, "active": True} for name in names]
    channels = [{"window": window} | channel for channel in known]
    return {"channels": channels} if channels else None


def write_collection(path: Path, names: list[str]) -> None:
    """Make a folder of OME-Zarr images an image itself: the first of them, followed by the others.

    The format lets a group list several images; a reader that shows one takes the first.
    """
    zarr = import_zarr()
    images = [zarr.open_group(path / name, mode="r") for name in names]
    listed = []
    for name, group in zip(names, images, strict=True):
        image = dict(group.attrs.get("ome", group.attrs)["multiscales"][0])
        image["datasets"] = [d | {"path": f"{name}/{d['path']}"} for d in image["datasets"]]
        listed.append(image)
    attributes = dict(images[0].attrs)
    attributes.get("ome", attributes)["multiscales"] = listed
    root = zarr.open_group(path, mode="a", zarr_format=images[0].metadata.zarr_format)
    root.attrs.update(attributes)
