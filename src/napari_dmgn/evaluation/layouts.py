"""How the files of a test set are laid out and named, and the pairs found below a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from napari_dmgn.files import IMAGE_SUFFIXES

__all__ = ["Benchmark", "Found", "Rule", "find_pairs", "pictures_by_stem", "same_names"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a target is named after its input; paths relative to the set, without extension.

    Attributes
    ----------
    input : regular expression that an input's whole path matches, with named groups
    target : the target's path, with those groups in braces
    """

    input: str
    target: str

    def target_of(self, stem: str) -> str | None:
        """Return the path of an input's target without extension, or None for another file."""
        match = re.fullmatch(self.input, stem)
        return self.target.format(**match.groupdict(default="")) if match else None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public test set.

    Attributes
    ----------
    name, task, protocol : what it is called, what is to be removed, how it is scored
    folders : for each part, where it may lie below the set's folder; one part has the name ""
    rules : the ways in which its copies name the files; the first that finds a pair is taken
    count : pictures in each part, of the published set
    border : pixels that targets may have more than inputs on each side, and are cut off
    hdf5 : names of the input and the target inside one .h5 file a picture, in place of rules
    published : PSNR and SSIM of others, by method and part
    """

    name: str
    task: str
    protocol: str
    folders: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"": ("",)})
    rules: tuple[Rule, ...] = ()
    count: dict[str, int] = field(default_factory=dict)
    border: int = 0
    hdf5: tuple[str, str] | None = None
    published: dict[str, dict[str, tuple[float, float | None]]] = field(default_factory=dict)


def same_names(input_: str, target: str) -> Rule:
    """Return the rule of two folders whose files bear the same names."""
    return Rule(input=rf"{input_}/(?P<n>[^/]+)", target=f"{target}/{{n}}")


@dataclass(frozen=True, kw_only=True)
class Found:
    """An input, its target (None: missing), and the part of the set that they belong to."""

    part: str
    name: str
    input: Path
    target: Path | None
    wanted: str = ""


def find_pairs(benchmark: Benchmark, root: Path) -> list[Found]:
    """Return a set's pictures below a folder, sorted by part and name.

    Of the folders and rules of a part, the first are taken that find a whole pair; an input of
    theirs without a target is among the results.

    Raises
    ------
    ValueError
        The folder is missing, or has no pair in any of the part's layouts.
    """
    if not root.is_dir():
        raise ValueError(f"no such folder: {str(root)!r}")
    found: list[Found] = []
    for part, folders in benchmark.folders.items():
        found += next((pairs for pairs in _candidates(benchmark, part, root, folders) if pairs), [])
    if not found:
        name = benchmark.name or "input and target"
        shapes = [f"{_readable(rule.input)} and {_readable(rule.target)}" for rule in benchmark.rules]
        wanted = f"files such as {', or '.join(dict.fromkeys(shapes))}" if shapes else "one .h5 file a picture"
        raise ValueError(f"no pairs of {name} in {str(root)!r}; wanted {wanted}")
    return found


def _candidates(benchmark: Benchmark, part: str, root: Path, folders: tuple[str, ...]) -> Iterator[list[Found]]:
    for folder in folders:
        base = root / folder
        if not base.is_dir():
            continue
        if benchmark.hdf5:
            files = sorted(base.glob("*.h5"))
            yield [Found(part=part, name=path.stem, input=path, target=path) for path in files]
            continue
        stems = _pictures(base)
        for rule in benchmark.rules:
            pairs = []
            for stem, path in stems.items():
                wanted = rule.target_of(stem)
                if wanted is not None and wanted != stem:
                    pairs.append(Found(part=part, name=stem, input=path, target=stems.get(wanted), wanted=wanted))
            if any(pair.target for pair in pairs):
                yield pairs


def _pictures(base: Path) -> dict[str, Path]:
    """Return the pictures below a folder, by their relative path without extension, in natural order."""
    paths = [path for path in base.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return pictures_by_stem(base, paths)


def pictures_by_stem(base: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return paths by their place below a folder without extension, 2 before 10.

    Raises
    ------
    ValueError
        Two differ in the extension alone: which of them is meant?
    """
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.relative_to(base).with_suffix("").as_posix(), path)
        if other != path:
            raise ValueError(f"{str(path)!r} and {other.name!r} differ in the extension alone; wanted one of them")
    return dict(sorted(stems.items(), key=lambda item: _natural(item[0])))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort 2 before 10."""
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)", text) if word]


def _readable(pattern: str) -> str:
    """Turn a rule's pattern into words for a message."""
    return re.sub(r"\*+", "*", re.sub(r"\(\?P<\w+>(\(.*?\)|[^()])*\)\??|\(\?:[^()]*\)\??|\{\w+\}", "*", pattern))
