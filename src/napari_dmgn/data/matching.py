"""Which file of one folder belongs to which of another: by name, stem, number or a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RULES", "Matching", "check_rule", "match_pairs"]

Key = Callable[[Path], str | None]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What pairs with what.

    Attributes
    ----------
    rule : str
        The rule that was used.
    pairs : list of (input, background)
        Several inputs may share a background.
    unmatched : list of Path
        Files of both folders without a partner.
    ambiguous : list of Path
        Inputs that more than one background would fit; not in `pairs`.
    """

    rule: str
    pairs: list[tuple[Path, Path]]
    unmatched: list[Path]
    ambiguous: list[Path]


def _number(stem: str, which: int) -> str | None:
    found = re.findall(r"\d+", stem)
    return str(int(found[which])) if found else None


RULES: dict[str, Key] = {
    "name": lambda path: path.name,
    "stem": lambda path: path.stem.lower(),
    "number": lambda path: _number(path.stem, 0),
    "last number": lambda path: _number(path.stem, -1),
}
"""Rules by name, in the order in which "auto" tries them: 001.png and 001.png; a.jpg and a.png;
1400_2_0.8.png and 1400.png; rain2-17.png and norain2-17.png."""


def check_rule(rule: object) -> str:
    """Return a valid rule: "auto", a name of `RULES`, or two patterns; ValueError otherwise.

    Two patterns are those of the stems of inputs and backgrounds, separated by a space: in
    "rain-{} norain-{}" or "{}_* {}", {} is what both have in common and * is anything.
    """
    if isinstance(rule, str) and (rule == "auto" or rule in RULES):
        return rule
    parts = rule.split() if isinstance(rule, str) else []
    if len(parts) == 2 and all(part.count("{}") == 1 for part in parts):
        return str(rule)
    known = ", ".join(["auto", *RULES])
    raise ValueError(f"match is {rule!r}; wanted {known}, or two patterns such as 'rain-{{}} norain-{{}}'")


def match_pairs(inputs: Sequence[str | Path], backgrounds: Sequence[str | Path], rule: str = "auto") -> Matching:
    """Pair files; "auto" takes the first rule that finds a partner for most inputs.

    Raises
    ------
    ValueError
        Not a rule.
    """
    check_rule(rule)
    ours, theirs = ([Path(path) for path in paths] for paths in (inputs, backgrounds))
    if rule == "auto":
        tried = [_match(ours, theirs, name, key, key) for name, key in RULES.items()]
        return max(tried, key=lambda m: len(m.pairs))  # max keeps the first of equals
    if rule in RULES:
        return _match(ours, theirs, rule, RULES[rule], RULES[rule])
    first, second = (_pattern_key(part) for part in rule.split())
    return _match(ours, theirs, rule, first, second)


def _pattern_key(pattern: str) -> Key:
    words = re.split(r"(\{\}|\*)", pattern)
    # {} takes as little as it can, so that "{}_*" cuts at the first underscore.
    expression = "".join({"{}": "(.+?)", "*": ".*"}.get(word, re.escape(word)) for word in words)
    compiled = re.compile(expression)

    def key(path: Path) -> str | None:
        found = compiled.fullmatch(path.stem)
        return found[1] if found else None

    return key


def _match(inputs: Sequence[Path], backgrounds: Sequence[Path], rule: str, first: Key, second: Key) -> Matching:
    by_key: dict[str, list[Path]] = {}
    for path in backgrounds:
        if (k := second(path)) is not None:
            by_key.setdefault(k, []).append(path)
    pairs: list[tuple[Path, Path]] = []
    ambiguous: list[Path] = []
    lonely: list[Path] = []
    for path in inputs:
        k = first(path)
        partners = by_key.get(k, []) if k is not None else []
        if len(partners) == 1:
            pairs.append((path, partners[0]))
        else:
            (ambiguous if partners else lonely).append(path)
    used = {background for _, background in pairs}
    unused = [path for path in backgrounds if path not in used]
    return Matching(rule=rule, pairs=pairs, unmatched=lonely + unused, ambiguous=ambiguous)
