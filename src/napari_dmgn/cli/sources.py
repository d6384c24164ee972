"""What the words of a command line name: image files, folders of them, patterns; and where results go."""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_dmgn.cli.common import UsageError, check_absent, one_line
from napari_dmgn.files import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, is_store

__all__ = ["Source", "check_results", "find_sources", "input_files", "result_path"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image that was named, or found in a folder or by a pattern.

    Attributes
    ----------
    path : its file, or its folder where it is a Zarr store
    folder : where its results go, below the folder of all results
    found : whether it was found, and not named itself
    """

    path: Path
    folder: Path = Path()
    found: bool = False


def find_sources(
    words: Iterable[Path | str], *, recursive: bool = False, stores: bool = False, output: Path | None = None
) -> list[Source]:
    """Return the images that the words name, each once.

    Parameters
    ----------
    words : image files, folders (the images directly inside) and patterns such as ``in/*.png``
    recursive : look into sub-folders too, of folders and of what patterns match, and keep them in `Source.folder`
    stores : take Zarr stores too
    output : the folder of results, which is not looked into where it lies in a folder that is

    Raises
    ------
    UsageError
        If a word names nothing that can be read.
    """
    sources: dict[str, Source] = {}
    for word in map(Path, words):
        for source in _named(word, recursive, stores, output):
            sources.setdefault(os.path.abspath(source.path), source)
    return list(sources.values())


def input_files(words: Iterable[Path | str]) -> list[Path]:
    """Return the image files that the words name, each once; see `find_sources`."""
    return [source.path for source in find_sources(words)]


def _named(word: Path, recursive: bool, stores: bool, output: Path | None) -> list[Source]:
    if _is_image(word, stores):
        return [Source(path=word)]
    if word.is_dir():
        paths, root = _inside(word, recursive, stores, output), word
        nothing = f"no image ({', '.join(IMAGE_SUFFIXES)}) in the folder {str(word)!r}"
    elif word.exists():
        raise UsageError(f"cannot read {str(word)!r}: expected one of {', '.join(IMAGE_SUFFIXES)}")
    elif glob.has_magic(str(word)):
        paths, root = _matching(word, recursive, stores, output), _fixed_part(word)
        nothing = f"no image ({', '.join(IMAGE_SUFFIXES)}) matches {str(word)!r}"
    else:
        raise UsageError(f"no such file: {str(word)!r}")
    found = [
        Source(path=path, folder=path.parent.relative_to(root) if recursive else Path(), found=True)
        for path in sorted(paths)
    ]
    if not found:
        raise UsageError(nothing)
    return found


def _is_image(path: Path, stores: bool) -> bool:
    if path.is_dir():
        return stores and is_store(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _inside(folder: Path, recursive: bool, stores: bool, output: Path | None) -> Iterator[Path]:
    """Yield the images in a folder; what is hidden and the folder of results are left out."""
    for path in folder.iterdir():
        if path.name.startswith("."):  # an unfinished run's results, say
            continue
        if _is_image(path, stores) or _leads_nowhere(path):
            yield path
        elif recursive and _is_searched(path, output):
            yield from _below(path, stores, output)


def _below(folder: Path, stores: bool, output: Path | None) -> Iterator[Path]:
    """Yield the images in a folder that was found, and in those below; one that is locked is told and left out."""
    try:
        yield from _inside(folder, True, stores, output)
    except PermissionError as error:
        warnings.warn(f"left out: {one_line(error)}", stacklevel=2)


def _leads_nowhere(path: Path) -> bool:
    """Whether it is an image's link to what is not there: told as an input that cannot be read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_symlink() and not path.exists()


def _is_searched(path: Path, output: Path | None) -> bool:
    if not path.is_dir() or path.is_symlink() or is_store(path):
        return False
    return not (output and output.is_dir() and path.samefile(output))


def _matching(pattern: Path, recursive: bool, stores: bool, output: Path | None) -> Iterator[Path]:
    """Yield the images that match; with those in sub-folders and in folders that match, some twice, if recursive."""
    if not recursive:
        yield from (path for path in map(Path, glob.iglob(str(pattern), recursive=True)) if _is_image(path, stores))
        return
    root = _fixed_part(pattern)
    for path in map(Path, glob.iglob(str(pattern.parent / "**" / pattern.name), recursive=True)):
        if not all(_is_searched(folder, output) for folder in path.parents if root in folder.parents):
            continue
        if _is_searched(path, output):
            yield from _below(path, stores, output)
        elif _is_image(path, stores):
            yield path


def _fixed_part(pattern: Path) -> Path:
    """Return the folder before a pattern's first wildcard."""
    parts = pattern.parts
    wild = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])


def result_path(folder: Path, source: Path, part: str, *, store: bool = False) -> Path:
    """Return a result's file: of the input's kind; PNG for JPEG, which would lose more, and for what is not written."""
    stem, suffix = source.stem, source.suffix
    if suffix.lower() in (".jpg", ".jpeg") or suffix.lower() in set(IMAGE_SUFFIXES).difference(WRITTEN_SUFFIXES):
        suffix = ".png"
    if store and suffix.lower() != ".zarr":  # a store by any name
        stem, suffix = source.name, ".zarr"
    if suffix.lower() == ".zarr" and not stem.lower().endswith(".ome"):
        suffix = ".ome.zarr"  # what is written is OME-Zarr, whatever was read
    if stem.lower().endswith(".ome"):  # many readers know OME-TIFF by its double suffix
        stem, suffix = stem[:-4], stem[-4:] + suffix
    return folder / f"{stem}_{part}{suffix}"


def check_results(results: Iterable[tuple[Path, Iterable[Path]]], *, inputs: Iterable[Path], overwrite: bool) -> None:
    """Refuse, before any work, results that would meet each other, an input, or an existing file."""
    sources = {path.resolve() for path in inputs}
    owner: dict[Path, Path] = {}
    for source, targets in results:
        for target in targets:
            if target in owner:
                both = f"{str(owner[target])!r} and {str(source)!r} would both be written to {target}"
                raise UsageError(f"{both}; give one of them, or one at a time")
            owner[target] = source
            if target.resolve() in sources:
                raise UsageError(f"the result {str(target)!r} would replace an input")
            check_absent(target, overwrite=overwrite)
