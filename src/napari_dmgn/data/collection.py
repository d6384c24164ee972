"""Everything that a run trains and is validated on: read, checked against each other, reported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from napari_dmgn.data.matching import match_pairs
from napari_dmgn.data.pictures import Picture, array_pictures, find_pictures, pair_pictures, read_pictures
from napari_dmgn.data.pool import PicturePool
from napari_dmgn.data.report import DataReport, SourceReport
from napari_dmgn.data.sources import Source
from napari_dmgn.data.specs import SourceSpec

__all__ = ["Collection", "Held", "collect", "hold_out_rank"]

Arrays = Sequence[Any]
"""Arrays or image layers, and pairs (input, background) of them."""
_MANY_GROUPS = 4  # with fewer files than these, frames of each are held out, not whole files


@dataclass(frozen=True, kw_only=True)
class Held:
    """Pictures and pairs held out for validation; in main memory."""

    clean: PicturePool | None
    pairs: PicturePool | None

    def __len__(self) -> int:
        """Return the number of pictures and pairs."""
        return sum(len(pool) for pool in (self.clean, self.pairs) if pool is not None)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What `collect` found.

    Attributes
    ----------
    sources : list of Source
    held : Held
    report : DataReport
    digest : str
        sha256 of the training pictures, in order.
    """

    sources: list[Source]
    held: Held
    report: DataReport
    digest: str


@dataclass(kw_only=True)
class _Part:
    """One source while it is sorted out."""

    weight: float
    report: SourceReport
    pictures: list[Picture] = field(default_factory=list)


def collect(
    specs: Sequence[SourceSpec],
    *,
    crop: int,
    validation: int,
    validation_crop: int,
    held_out: SourceSpec | None = None,
    arrays: Arrays = (),
    device: torch.device | str = "cpu",
    checking: bool = False,
) -> Collection:
    """Read the sources, hold pictures out for validation, and leave out what cannot be used.

    Pictures are held out by the hashes of their files' names: an added file may take the place of
    one held out, but never brings a picture of the training into the validation. All pictures of
    one file (pages of a stack, pairs with one background) stay on one side, but where there are so few files
    that pages of each have to be held out. A training picture whose clean pixels are those of a validation
    picture, or which is of its file, is left out, also where `held_out` is a source apart.

    Parameters
    ----------
    specs : sequence of SourceSpec
    crop, validation_crop : int
        Smallest side of pictures for training and for validation.
    validation : int
        Pictures to hold out, or to take of `held_out`.
    held_out : SourceSpec or None
        Where validation pictures come from; None holds them out of the sources.
    arrays : sequence of arrays or image layers, or of pairs (input, background) of them
        Further pictures, a source of their own.
    device : torch.device or str
        Where the training pictures are kept.
    checking : bool
        Report what would be missing instead of raising; the collection may then have no sources.

    Raises
    ------
    ValueError
        A folder is missing or empty, or too few pictures are left.
    """
    parts = [_read(spec) for spec in specs] + _from_arrays(arrays)
    if not parts:
        raise ValueError("no training pictures are named; wanted data, sources or arrays")
    report = DataReport(sources=[p.report for p in parts], crop=crop, validation_crop=validation_crop)
    try:
        held = _hold_out(parts, held_out, report, count=validation, least=validation_crop)
        if held_out is not None:
            files = {p.group for p in held}
            _drop(parts, lambda p: p.group in files, "of the file of a validation picture")
        _drop(parts, _smaller_than(crop), f"smaller than the crops of {crop} px")
        seen = {p.background_hash() for p in held}
        _drop(parts, lambda p: p.background_hash() in seen, "with the pixels of a validation picture")
        if not any(part.pictures for part in parts):
            raise ValueError(f"no picture is left to train on; {'; '.join(report.problems()) or 'all are held out'}")
    except ValueError as error:
        if not checking:
            raise
        held = []
        report.sources[0].exclude("everything", str(error))
    sources = [Source(pool=PicturePool(part.pictures, device), weight=part.weight) for part in parts if part.pictures]
    clean, pairs = ([p for p in held if len(p.pixels) == layers] for layers in (1, 2))
    report.training, report.validation = sum(len(s.pool) for s in sources), len(held)
    report.megabytes = sum(s.pool.bytes for s in sources) / 1e6
    digests = [source.pool.digest for source in sources]
    return Collection(
        sources=sources,
        held=Held(clean=PicturePool(clean) if clean else None, pairs=PicturePool(pairs) if pairs else None),
        report=report,
        # Of one source it is the pixels' own, as in the cards of earlier runs.
        digest=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def _read(spec: SourceSpec) -> _Part:
    report = SourceReport(label=spec.label)
    part = _Part(weight=spec.weight, report=report)
    if spec.clean is not None:
        files: list[tuple[Path, ...]] = [(path,) for path in find_pictures(spec.clean)]
    else:
        assert spec.input is not None
        assert spec.background is not None
        matching = match_pairs(find_pictures(spec.input), find_pictures(spec.background), spec.match)
        files = list(matching.pairs)
        report.rule = matching.rule
        report.pairs = [(a.name, b.name) for a, b in matching.pairs]
        for reason, names in (("unmatched", matching.unmatched), ("ambiguous", matching.ambiguous)):
            for path in names:
                report.exclude(reason, f"{path.parent.name}/{path.name}")
    report.files = len(files)
    for paths in files:
        try:
            part.pictures += read_pictures(paths[0]) if len(paths) == 1 else pair_pictures(*paths)
        except ValueError as error:
            reason = "unreadable" if str(error).startswith("cannot read") else "unequal"
            report.exclude(reason, str(error))
    report.count(part.pictures)
    return part


def _from_arrays(arrays: Arrays) -> list[_Part]:
    clean = _Part(weight=1.0, report=SourceReport(label="arrays"))
    pairs = _Part(weight=1.0, report=SourceReport(label="pairs of arrays", rule="order"))
    for i, item in enumerate(arrays):
        name = f"array {i}"
        images = item if isinstance(item, list | tuple) and len(item) == 2 else [item]
        if not all(map(_is_image, images)):
            raise ValueError(f"{name} is {_kind(item)}; wanted an array, a layer, or a pair (input, background)")
        if len(images) == 2:
            pairs.pictures += array_pictures(item[0], name, item[1])
            pairs.report.files += 1
        else:
            clean.pictures += array_pictures(item, name)
            clean.report.files += 1
    parts = [part for part in (clean, pairs) if part.pictures]
    for part in parts:
        part.report.count(part.pictures)
    return parts


def _is_image(item: object) -> bool:
    return hasattr(item, "shape") or (hasattr(item, "rgb") and hasattr(item, "data"))


def _kind(item: object) -> str:
    if not isinstance(item, list | tuple):
        return f"a {type(item).__name__}"
    return f"a {type(item).__name__} of {len(item)} ({', '.join(sorted({type(part).__name__ for part in item}))})"


def _smaller_than(side: int) -> Callable[[Picture], bool]:
    return lambda picture: picture.side < side


def _drop(parts: Sequence[_Part], bad: Callable[[Picture], bool], reason: str) -> None:
    for part in parts:
        kept = []
        for picture in part.pictures:
            if bad(picture):
                part.report.exclude(reason, f"{picture.name} ({picture.size})")
            else:
                kept.append(picture)
        part.pictures = kept


def _hold_out(
    parts: Sequence[_Part], held_out: SourceSpec | None, report: DataReport, *, count: int, least: int
) -> list[Picture]:
    if held_out is not None:
        own = _read(held_out)
        own.report.label = f"validation {own.report.label}"
        report.sources.append(own.report)
        _drop([own], _smaller_than(least), f"smaller than validation_crop {least}")
        if not own.pictures:
            raise ValueError(f"no picture is left to validate on; {'; '.join(own.report.problems())}")
        return sorted(own.pictures, key=_rank)[:count]
    fit = [p for part in parts for p in part.pictures if p.side >= least]
    total = sum(len(part.pictures) for part in parts)
    if len(fit) < count:
        problems = "; ".join(report.problems())
        raise ValueError(
            f"{len(fit)} of {total} pictures have the {least} px of validation_crop; wanted {count} to "
            f"validate on (validation_pictures) and others to train on, or a smaller validation_crop"
            f"{f'; {problems}' if problems else ''}"
        )
    if count >= total:
        wanted = "lower validation_pictures" if total > 1 else "wanted at least 2 pictures, or validation, a source"
        raise ValueError(f"{count} of {total} pictures for validation leave none to train; {wanted}")
    several = len({p.group for p in fit}) >= _MANY_GROUPS
    held = _choose(fit, count, several)
    # The other pictures of the files held out show the same scenes.
    chosen, groups = {id(p) for p in held}, {p.group for p in held}
    for part in parts:
        beside = [p for p in part.pictures if id(p) not in chosen and p.group in groups] if several else []
        for picture in beside:
            part.report.exclude("beside a validation picture, of the same file", picture.name)
        dropped = chosen | {id(p) for p in beside}
        part.pictures = [p for p in part.pictures if id(p) not in dropped]
    return held


def _choose(pictures: Sequence[Picture], count: int, several: bool) -> list[Picture]:
    """Return the pictures to hold out, whole files where there are several, in the order in which they were found."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group, []).append(picture)
    ranked = sorted(groups.values(), key=lambda group: _rank(group[0]))
    if not several and len(pictures) > len(groups):
        # The last frames of each: neighbours in a stack resemble each other.
        queue = [p for rank in zip(*_padded([g[::-1] for g in ranked]), strict=True) for p in rank if p is not None]
    else:
        queue = [picture for group in ranked for picture in group]
    chosen = {id(p) for p in queue[:count]}
    return [p for p in pictures if id(p) in chosen]


def _padded(rows: list[list[Picture]]) -> list[list[Picture | None]]:
    longest = max(len(row) for row in rows)
    return [[*row, *[None] * (longest - len(row))] for row in rows]


def hold_out_rank(name: str) -> str:
    """Return what file names are sorted by to choose those held out: first come, first held."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _rank(picture: Picture) -> str:
    return hold_out_rank(picture.file)
