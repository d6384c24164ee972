"""Image layers as OME-TIFF and OME-Zarr, with their pixel size, units and, in OME-Zarr, their place."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_dmgn.files import ImageFile

__all__ = ["FILTERS", "axis_letters", "image_file", "lost", "save", "save_layers"]

FILTERS = "OME-TIFF (*.ome.tif);;OME-Zarr (*.zarr)"

# Units of length in OME-XML's spelling, and OME-Zarr's names; napari says them by pint's names.
_XML = {
    "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m", "kilometer": "km",
    "angstrom": "Å", "picometer": "pm", "inch": "in", "foot": "ft", "pixel": "pixel",
    "nanosecond": "ns", "microsecond": "µs", "millisecond": "ms", "second": "s", "minute": "min", "hour": "h",
    "day": "d",
}  # fmt: skip
_TIMES = {"nanosecond", "microsecond", "millisecond", "second", "minute", "hour", "day"}
_SPARE = "ZTC"  # leading axes without a name, from the right


def axis_letters(placement: Mapping[str, Any], *, colours: bool) -> str:
    """Return a letter for each axis as in OME-TIFF; by the labels where they are such letters."""
    labels = [str(label).upper() for label in placement["axis_labels"]]
    named = "".join(labels)
    known = set("TZYX") if colours else set("TZCYX")  # colours are the one axis of channels of OME-Zarr
    if len(set(labels)) == len(labels) and set(labels) <= known and named.endswith("YX"):
        return named + ("S" if colours else "")
    units = [str(unit) for unit in placement["units"]]
    spare = list(_SPARE)
    letters = ["Y", "X"]
    for unit in reversed(units[:-2]):
        letter = "T" if unit in _TIMES and "T" in spare else next(iter(spare), "")
        if not letter:
            raise ValueError(f"OME images have at most 5 axes; the layer has {len(units)}")
        spare.remove(letter)
        letters.insert(0, letter)
    return "".join(letters) + ("S" if colours else "")


def image_file(placement: Mapping[str, Any], *, colours: bool) -> ImageFile:
    """Describe a layer's pixel sizes as those of an image file."""
    from napari_dmgn.files import ImageFile

    letters = axis_letters(placement, colours=colours)
    ome: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    for letter, scale, shift, unit in zip(
        letters, placement["scale"], placement["translate"], map(str, placement["units"]), strict=False
    ):
        size = {"scale": float(scale), "translation": float(shift)}
        if unit in _XML and unit != "pixel":
            size["unit"] = unit  # type: ignore[assignment]
        axes[letter] = size
        if letter in "XYZ":
            ome |= {f"PhysicalSize{letter}": float(scale), f"PhysicalSize{letter}Unit": _XML.get(unit, "pixel")}
        elif letter == "T" and unit in _TIMES:
            ome |= {"TimeIncrement": float(scale), "TimeIncrementUnit": _XML[unit]}
    return ImageFile(
        array=np.empty(0),
        axes=letters,
        rgb=colours,
        metadata={"ome": ome, "ngff": {"version": "0.5", "axes": axes}},
    )


def lost(placement: Mapping[str, Any], path: Path) -> str:
    """Say what of a layer's place the file cannot hold; empty where it holds all."""
    ndim = len(placement["scale"])
    gone = []
    if not np.allclose(placement["rotate"], np.eye(ndim)):
        gone.append("rotation")
    if np.any(placement["shear"]):
        gone.append("shear")
    if not np.allclose(placement["affine"], np.eye(ndim + 1)):
        gone.append("affine")
    if path.suffix.lower() != ".zarr" and np.any(placement["translate"]):
        gone.append("translation")
    return f"The file does not hold the layer's {', '.join(gone)}." if gone else ""


def save(data: Any, placement: Mapping[str, Any], path: Path, *, rgb: bool) -> None:
    """Write a file whole or not at all; its name ends in .tif, .tiff or .zarr.

    Parameters
    ----------
    data : NumPy, Dask or Zarr array; for OME-Zarr read frame by frame
    placement : see `source.placement`
    path : an existing file is replaced, an existing folder is not
    rgb : whether the last axis is colours

    Raises
    ------
    ValueError
        Another extension, or an array that the format cannot hold.
    OSError
        The folder is missing or full, or the store exists.
    """
    from napari_dmgn.files import write_image

    path = Path(path)
    if path.suffix.lower() == ".zarr":
        _save_store(data, placement, path, rgb=rgb)
    elif path.suffix.lower() in (".tif", ".tiff"):
        array = np.asarray(data)
        if array.dtype.str[1:] in ("f2", "i8", "u8", "b1"):
            raise ValueError(f"OME-TIFF holds no {array.dtype} values. Save as OME-Zarr, or convert the layer.")
        like = image_file(placement, colours=rgb)
        write_image(path, array, like=like, rgb=rgb)
    else:
        raise ValueError(f"'{path.name}' has the extension '{path.suffix}'; wanted .ome.tif or .zarr.")


def _save_store(data: Any, placement: Mapping[str, Any], path: Path, *, rgb: bool) -> None:
    from napari_dmgn.files import blocks, create_store, fill, open_to_write

    if path.exists():
        raise FileExistsError(f"{path} exists. Choose another name, or remove it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    letters = axis_letters(placement, colours=rgb)
    work = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        create_store(
            work,
            shape=tuple(data.shape),
            dtype=np.dtype(data.dtype),
            axes=letters,
            chunk=512,
            like=image_file(placement, colours=rgb),
            name=path.stem,
        )
        target = open_to_write(work, letters)
        leading = data.shape[: data.ndim - (3 if rgb else 2)]
        for place in np.ndindex(*leading):
            target[(*place, ...)] = np.asarray(data[place])
        for level in blocks(work):
            for block in level:
                fill(work, block)
        work.rename(path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def save_layers(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one image layer: napari's File > Save calls this.

    Parameters
    ----------
    path : ends in .ome.tif, .tif or .zarr
    data, meta : of the layer, as napari hands them over
    """
    if meta.get("multiscale"):
        data = data[0]
    rgb = bool(meta.get("rgb"))
    ndim = data.ndim - (1 if rgb else 0)
    placement = {
        "scale": meta.get("scale", np.ones(ndim)),
        "translate": meta.get("translate", np.zeros(ndim)),
        "rotate": meta.get("rotate", np.eye(ndim)),
        "shear": meta.get("shear", np.zeros(ndim * (ndim - 1) // 2)),
        "affine": meta.get("affine", np.eye(ndim + 1)),
        "units": meta.get("units") or ("pixel",) * ndim,
        "axis_labels": meta.get("axis_labels") or ("",) * ndim,
    }
    save(data, placement, Path(path), rgb=rgb)
    return [path]
