"""Pixel sizes of image files, in the words of OME-Zarr."""

from typing import Any

from napari_dmgn.files.image_file import ImageFile

__all__ = ["axis_sizes"]

_UNITS = {
    "Å": "angstrom", "pm": "picometer", "nm": "nanometer", "µm": "micrometer", "μm": "micrometer",
    "um": "micrometer", "micron": "micrometer", "microns": "micrometer", "mm": "millimeter", "cm": "centimeter",
    "dm": "decimeter", "m": "meter", "km": "kilometer", "in": "inch", "inch": "inch", "ft": "foot",
    "ns": "nanosecond", "µs": "microsecond", "us": "microsecond", "ms": "millisecond", "s": "second",
    "sec": "second", "min": "minute", "h": "hour", "d": "day",
}  # fmt: skip


def axis_sizes(image: ImageFile) -> dict[str, dict[str, Any]]:
    """Return name, type, unit, scale and translation of the axes by their letters, as far as the file says them.

    OME-XML says micrometres and seconds where it names no unit.
    """
    known = image.metadata
    if "ngff" in known:
        sizes: dict[str, dict[str, Any]] = known["ngff"]["axes"]
        return sizes
    if "ome" in known:
        return _of_ome(known["ome"])
    if "imagej" in known:
        return _of_imagej(known["imagej"], known.get("resolution"))
    return {}


def _of_ome(ome: dict[str, str]) -> dict[str, dict[str, Any]]:
    sizes = {}
    for letter, name, unit in (
        ("X", "PhysicalSizeX", "µm"),
        ("Y", "PhysicalSizeY", "µm"),
        ("Z", "PhysicalSizeZ", "µm"),
        ("T", "TimeIncrement", "s"),
    ):
        if name in ome:
            sizes[letter] = _size(float(ome[name]), ome.get(f"{name}Unit", unit))
    return sizes


def _of_imagej(imagej: dict[str, Any], resolution: tuple[float, float] | None) -> dict[str, dict[str, Any]]:
    unit = str(imagej.get("unit", ""))
    sizes = {}
    for letter, density in zip("XY", resolution or (), strict=False):
        if density and unit:
            sizes[letter] = _size(1 / density, unit)
    if imagej.get("spacing") and unit:
        sizes["Z"] = _size(float(imagej["spacing"]), unit)
    if imagej.get("finterval"):
        sizes["T"] = _size(float(imagej["finterval"]), str(imagej.get("tunit", "s")))
    return sizes


def _size(scale: float, unit: str) -> dict[str, Any]:
    name = _UNITS.get(unit.replace("\\u00B5", "µ"))
    return {"scale": scale} | ({"unit": name} if name else {})
