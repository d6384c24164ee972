"""Sets of pairs to score: public test sets, two folders, clean pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_dmgn.evaluation.benchmarks import GENERIC, find_benchmark, guess_benchmark
from napari_dmgn.evaluation.layouts import Benchmark, find_pairs, pictures_by_stem
from napari_dmgn.evaluation.reading import read_hdf5, read_picture
from napari_dmgn.files import IMAGE_SUFFIXES
from napari_dmgn.metrics import PROTOCOL_OF_TASK, find_protocol
from napari_dmgn.paths import expanded
from napari_dmgn.zoo import TASKS

__all__ = [
    "Item",
    "PairSet",
    "Unusable",
    "benchmark_set",
    "central",
    "clean_set",
    "crop_note",
    "folder_set",
    "protocol_of",
    "ranked_pictures",
    "told_apart",
]

Array = NDArray[Any]
Pictures = tuple[Array, Array]


class Unusable(ValueError):
    """A pair that cannot be scored; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair that is read, or made, when its turn comes.

    Attributes
    ----------
    name, part : what it is called in tables; the part of the set, "" where there is one
    load : returns input and target, (H, W, 3) uint8, uint16 or floats in [0, 1], or raises ValueError
    """

    name: str
    part: str = ""
    load: Callable[[], Pictures]


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """Pairs that are scored together.

    Attributes
    ----------
    name : what it is called in tables
    task : what is to be removed; None where every model's own task counts (clean pictures)
    protocol : how it is scored; None is that of the model's task
    items : the pairs
    notes : what a reader of the table has to know
    published : PSNR and SSIM of others, by part and method
    folder : where the pictures are, absolute; tells sets of one name apart (`told_apart`)
    """

    name: str
    task: str | None
    protocol: str | None
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, tuple[float, float | None]]] | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Check the names, so that a long evaluation does not end in a mistake."""
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r} of set {self.name!r}; the tasks are {', '.join(TASKS)}")
        if self.protocol is not None:
            find_protocol(self.protocol)
        if not self.items:
            raise ValueError(f"set {self.name!r} has no pairs")

    def scored_by(self, protocol: str | None) -> PairSet:
        """Return the set under another protocol, without the figures that were not measured by it."""
        if protocol is None or protocol == self.protocol:
            return self
        return replace(self, protocol=protocol, published=None)

    def first(self, count: int | None) -> PairSet:
        """Return the set with the first pairs of each part only."""
        if count is None:
            return self
        kept: dict[str, list[Item]] = {}
        for item in self.items:
            kept.setdefault(item.part, []).append(item)
        items = tuple(item for part in kept.values() for item in part[:count])
        if len(items) == len(self.items):
            return self
        note = f"{len(items)} of {len(self.items)} pairs, as asked"
        return replace(self, items=items, notes=(*self.notes, note), published=None)


def benchmark_set(root: str | Path, name: str | None = None, *, task: str | None = None) -> PairSet:
    """Return the pairs below a folder: of a public test set, or of input and target folders.

    Parameters
    ----------
    root : the set's folder
    name : a key of `BENCHMARKS`; None takes the folder's own name, and where that is none of them any
        known layout
    task : what is to be removed, where no public set says it; None is rain

    Raises
    ------
    ValueError
        The folder, or a pair in it, is missing, or the name is unknown.
    """
    root = expanded(root)
    benchmark = find_benchmark(name) if name else guess_benchmark(root.resolve().name)
    if benchmark is None:
        task = task or "rain"
        benchmark = replace(GENERIC, task=task, protocol=protocol_of(task))
    items, notes = [], []
    for found in find_pairs(benchmark, root):
        load = _loader(benchmark, found.input, found.target, found.wanted)
        items.append(Item(name=found.name, part=found.part, load=load))
    for part in benchmark.folders:
        count, wanted = sum(item.part == part for item in items), benchmark.count.get(part)
        of = f" of {part}" if part else ""
        if count == 0:
            notes.append(f"no pictures{of} found")
        elif wanted is not None and wanted != count:
            notes.append(f"{count} pictures{of}, the published set has {wanted}")
    return PairSet(
        name=benchmark.name or root.resolve().name,
        task=benchmark.task,
        protocol=benchmark.protocol,
        items=tuple(items),
        notes=tuple(notes),
        published=benchmark.published or None,
        folder=root.resolve(),
    )


def _loader(benchmark: Benchmark, input_: Path, target: Path | None, wanted: str) -> Callable[[], Pictures]:
    def load() -> Pictures:
        if benchmark.hdf5:
            return read_hdf5(input_, *benchmark.hdf5)
        if target is None:
            raise Unusable(f"no target {wanted!r}")
        image, clean = read_picture(input_), read_picture(target)
        border = benchmark.border
        if border and all(b - a == 2 * border for a, b in zip(image.shape[:2], clean.shape[:2], strict=True)):
            clean = clean[border:-border, border:-border]
        return image, clean

    return load


def folder_set(inputs: str | Path, targets: str | Path, *, task: str | None = None) -> PairSet:
    """Return the pairs of two folders: of equal names, or else of equal and unique numbers in them.

    A picture of either folder without its like is an item that cannot be used, and says so.

    Parameters
    ----------
    inputs, targets : the folders
    task : what is to be removed; None is rain

    Raises
    ------
    ValueError
        A folder is missing or has no pictures.
    """
    inputs, targets = expanded(inputs), expanded(targets)
    ours, theirs = _by_stem(inputs), _by_stem(targets)
    pairs = {stem: stem for stem in ours if stem in theirs}
    pairs |= _by_number([s for s in ours if s not in pairs], [s for s in theirs if s not in pairs])
    items = []
    for stem, path in ours.items():
        target = theirs.get(pairs.get(stem, ""))
        items.append(Item(name=stem, load=_loader(GENERIC, path, target, f"{stem} in {targets}")))
    taken = set(pairs.values())
    for stem, path in theirs.items():
        if stem not in taken:
            items.append(Item(name=stem, load=_unusable(f"the target {path.name!r} has no input")))
    task, folder = task or "rain", inputs.resolve()
    return PairSet(name=folder.name, task=task, protocol=protocol_of(task), items=tuple(items), folder=folder)


def _by_number(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    def numbers(stems: Sequence[str]) -> dict[tuple[int, ...], str]:
        keys = [tuple(int(digits) for digits in re.findall(r"\d+", stem)) for stem in stems]
        return {key: stem for key, stem in zip(keys, stems, strict=True) if key and keys.count(key) == 1}

    mine, other = numbers(ours), numbers(theirs)
    return {stem: other[key] for key, stem in mine.items() if key in other}


def _unusable(reason: str) -> Callable[[], Pictures]:
    def load() -> Pictures:
        raise Unusable(reason)

    return load


def clean_set(folder: str | Path, *, task: str | None = None, crop: int | None = None) -> PairSet:
    """Return clean pictures as their own targets: how well a model leaves alone what has no noise.

    Parameters
    ----------
    folder : of pictures
    task : what the models should find nothing of; None is each model's own
    crop : side of the central square to take; None takes whole pictures
    """
    folder = expanded(folder)

    def loader(path: Path) -> Callable[[], Pictures]:
        def load() -> Pictures:
            picture = central(read_picture(path), crop)
            return picture, picture

        return load

    items = tuple(Item(name=path.stem, load=loader(path)) for path in ranked_pictures(folder))
    return PairSet(
        name=f"{folder.resolve().name} (clean)",
        task=task,
        protocol=None if task is None else protocol_of(task),
        items=items,
        notes=crop_note(crop),
        folder=folder.resolve(),
    )


def told_apart(sets: Sequence[PairSet]) -> list[PairSet]:
    """Put the names of the folders above before a name that sets of different folders share.

    Raises
    ------
    ValueError
        Two sets have one name and one folder, or no folder is known.
    """
    apart = [replace(one, name=_full_name(one, [other for other in sets if other.name == one.name])) for one in sets]
    names = [one.name for one in apart]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two sets are called {repeated[0]!r}; wanted different folders")
    return apart


def _full_name(one: PairSet, alike: Sequence[PairSet]) -> str:
    """Return a set's name after as many of the folders above as tell it from those of the same name."""
    folders = [other.folder for other in alike if other.folder is not None]
    if len(alike) == 1 or one.folder is None or len(set(folders)) < len(alike):
        return one.name
    above = [folder.parent for folder in folders]
    own = one.folder.parent
    if len(set(above)) < len(alike):  # the name is not that of the folder, a public set's say
        above, own = folders, one.folder
    depth = 1
    while len({folder.parts[-depth:] for folder in above}) < len(alike):
        depth += 1
    return Path(*own.parts[-depth:], one.name).as_posix()


def central(picture: Array, crop: int | None) -> Array:
    """Return the central square of a side, or the picture for None."""
    if crop is None:
        return picture
    h, w = picture.shape[:2]
    if min(h, w) < crop:
        raise Unusable(f"the picture is {w}x{h}; the crop needs {crop}x{crop}")
    top, left = (h - crop) // 2, (w - crop) // 2
    return picture[top : top + crop, left : left + crop]


def crop_note(crop: int | None) -> tuple[str, ...]:
    """Return what a table has to say of `central`."""
    return () if crop is None else (f"central {crop} pixels",)


def ranked_pictures(folder: Path) -> list[Path]:
    """Return a folder's pictures sorted by the hash of the name: any first few are a fair and lasting choice."""
    from napari_dmgn.data import hold_out_rank  # those first that a training on the folder held out

    return sorted(_by_stem(folder).values(), key=lambda path: hold_out_rank(path.name))


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"no such folder: {str(folder)!r}")
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not paths:
        raise ValueError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in the folder {str(folder)!r}")
    return pictures_by_stem(folder, paths)


def protocol_of(task: str) -> str:
    """Return what a task is scored by, or raise ValueError for an unknown one."""
    if not isinstance(task, str) or task not in PROTOCOL_OF_TASK:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    return PROTOCOL_OF_TASK[task]
