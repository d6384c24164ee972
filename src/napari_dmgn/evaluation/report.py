"""What an evaluation found: scores of every pair and their means."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from napari_dmgn import __version__
from napari_dmgn.metrics import PROTOCOLS

__all__ = ["Evaluation", "Excluded", "Mean", "Score", "environment"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One method's score of one pair.

    Attributes
    ----------
    set, part, picture, method, protocol : what was scored, and how
    width, height : in pixels
    before, after : the protocol's scores of the input and of the result, by name
    seconds : that the method took
    gmac : 10^9 multiply-accumulates, where the method knows them
    """

    set: str
    part: str
    picture: str
    method: str
    protocol: str
    width: int
    height: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    gmac: float | None


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A pair that is in no mean, and why."""

    set: str
    part: str
    picture: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a method's scores of a part, or of a whole set (part "all").

    Attributes
    ----------
    pairs : how many
    before, after : means by the scores' names
    least : the lowest PSNR of a result
    seconds : median, since the first picture takes longer
    gmac : mean, where the method knows it
    """

    set: str
    part: str
    method: str
    protocol: str
    pairs: int
    before: dict[str, float]
    after: dict[str, float]
    least: float
    seconds: float
    gmac: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes
    ----------
    scores : of every pair by every method
    excluded : pairs that could not be scored
    methods : facts of each method, by name: task, file, checksum, device and precision, parameters, GMAC at 256x256
    sets : facts of each set, by name: task, notes, published figures
    environment : versions, processor, date
    """

    scores: tuple[Score, ...]
    excluded: tuple[Excluded, ...]
    methods: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]

    def means(self) -> list[Mean]:
        """Return the means over each part and, where a set has several, over all of it."""
        groups: dict[tuple[str, str, str], list[Score]] = {}
        for name in self.sets:
            mine = [score for score in self.scores if score.set == name]
            parts = list(dict.fromkeys(score.part for score in mine))
            for part in [*parts, "all"] if len(parts) > 1 else parts:
                for score in mine:
                    if part in ("all", score.part):
                        groups.setdefault((name, part, score.method), []).append(score)
        return [_mean(*key, group) for key, group in groups.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready; infinite numbers become "inf", those that do not exist None."""
        plain = {
            "environment": dict(self.environment),
            "protocols": {
                name: PROTOCOLS[name].summary for name in dict.fromkeys(score.protocol for score in self.scores)
            },
            "methods": {name: dict(facts) for name, facts in self.methods.items()},
            "sets": {name: dict(facts) for name, facts in self.sets.items()},
            "means": [asdict(mean) for mean in self.means()],
            "scores": [asdict(score) for score in self.scores],
            "excluded": [asdict(one) for one in self.excluded],
        }
        result: dict[str, Any] = _finite(plain)
        return result

    def to_markdown(self) -> str:
        """Return the report: means of each set, models against sets, what was left out, every pair."""
        from napari_dmgn.evaluation.tables import markdown

        return markdown(self)


def environment() -> dict[str, Any]:
    """Return what the times depend on."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "napari-dmgn": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _mean(set_: str, part: str, method: str, scores: Sequence[Score]) -> Mean:
    def mean(values: Iterable[Mapping[str, float]]) -> dict[str, float]:
        rows = list(values)
        return {name: _average([row[name] for row in rows]) for name in rows[0]}

    costs = [score.gmac for score in scores if score.gmac is not None]
    return Mean(
        set=set_,
        part=part,
        method=method,
        protocol=scores[0].protocol,
        pairs=len(scores),
        before=mean(score.before for score in scores),
        after=mean(score.after for score in scores),
        least=min(score.after["psnr"] for score in scores),
        seconds=statistics.median(score.seconds for score in scores),
        gmac=_average(costs) if costs else None,
    )


def _average(values: Sequence[float]) -> float:
    """Return the mean of the values that exist (NCC of a flat picture does not)."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
