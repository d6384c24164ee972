"""An evaluation as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from napari_dmgn.evaluation.report import Evaluation, Mean, Score
from napari_dmgn.metrics import PROTOCOLS

__all__ = ["markdown"]

_UNITS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 4), "lmse": ("LMSE", 4), "ncc": ("NCC", 4)}


def markdown(evaluation: Evaluation) -> str:
    """Return an evaluation's report: means of each set, models against sets, what was left out, every pair."""
    lines = ["# Evaluation", "", _sentence(evaluation.environment), ""]
    lines += ["## Models", "", *_methods_table(evaluation.methods), ""]
    means = evaluation.means()
    if len(evaluation.methods) > 1 or len(evaluation.sets) > 1:
        lines += ["## Every model on every set", "", *_cross_table(means), ""]
    for name, facts in evaluation.sets.items():
        mine = [mean for mean in means if mean.set == name]
        lines += [f"## {name}", "", *_set_section(mine, facts), ""]
        left_out = [one for one in evaluation.excluded if one.set == name]
        if left_out:
            lines += [f"Left out, and in no mean ({len(left_out)}):", ""]
            lines += [f"* {_place(one.part, one.picture)}: {one.reason}" for one in left_out] + [""]
    for name in evaluation.sets:
        scores = [score for score in evaluation.scores if score.set == name]
        lines += [f"## {name}: every picture", "", *_picture_table(scores), ""]
    return "\n".join(lines)


def _sentence(facts: Mapping[str, Any]) -> str:
    return (
        f"napari-dmgn {facts['napari-dmgn']}, torch {facts['torch']}, {facts['machine']}, "
        f"{facts['threads']} threads, {facts['date']}."
    )


def _methods_table(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            name,
            str(facts.get("task") or "any"),
            f"{facts['parameters'] / 1e6:.2f} M" if facts.get("parameters") else "–",
            _number(facts.get("gmac_256"), 2),
            " ".join(str(facts[name]) for name in ("device", "precision") if facts.get(name)) or "–",
            str(facts.get("sha256") or "–")[:16],
        ]
        for name, facts in methods.items()
    ]
    return _table(["model", "removes", "parameters", "GMAC at 256x256", "runs on", "sha256"], rows)


def _cross_table(means: Sequence[Mean]) -> list[str]:
    """Return a row a method and a column a set: PSNR and SSIM of the whole set."""
    whole: dict[tuple[str, str], Mean] = {}
    for mean in means:  # "all" comes last
        whole[mean.method, mean.set] = mean
    heads, inputs, mixed = [""], ["input"], set()
    for name in dict.fromkeys(mean.set for mean in means):
        mine = [mean for (_, set_), mean in whole.items() if set_ == name]
        if len({mean.protocol for mean in mine}) == 1:
            heads.append(f"{name} ({mine[0].protocol})")
            inputs.append(_pair(mine[0].before))
        else:  # clean pictures, each model by the protocol of its task
            mixed.add(name)
            heads.append(name)
            inputs.append("–")
    rows = [inputs]
    for method in dict.fromkeys(mean.method for mean in means):
        row = [method]
        for name in dict.fromkeys(mean.set for mean in means):
            cell = whole.get((method, name))
            words = "–" if cell is None else _pair(cell.after)
            row.append(f"{words} ({cell.protocol})" if cell is not None and name in mixed else words)
        rows.append(row)
    return ["PSNR in dB / SSIM.", "", *_table(heads, rows)]


def _set_section(means: Sequence[Mean], facts: Mapping[str, Any]) -> list[str]:
    protocols = dict.fromkeys(mean.protocol for mean in means)
    lines = [f"Protocol `{protocol}`: {PROTOCOLS[protocol].summary}." for protocol in protocols]
    lines += ["", f"Note: {'; '.join(facts['notes'])}."] if facts.get("notes") else []
    names = list(dict.fromkeys(name for mean in means for name in mean.after))
    heads = ["model", "part", "pairs", *(f"{_UNITS[name][0]} in → out" for name in names)]
    rows = [
        [
            mean.method,
            mean.part or "all",
            str(mean.pairs),
            *(_change(mean, name) for name in names),
            _number(mean.least, 2),
            _number(mean.seconds, 3),
            _number(mean.gmac, 1),
        ]
        for mean in means
    ]
    lines += ["", *_table([*heads, "lowest PSNR", "s (median)", "GMAC"], rows)]
    for part, figures in dict(facts.get("published") or {}).items():
        values = "; ".join(
            f"{method} {psnr:.2f}" + ("" if ssim is None else f" / {ssim:.3f}")
            for method, (psnr, ssim) in figures.items()
        )
        lines += ["", f"Published{f', {part}' if part else ''} (PSNR / SSIM, by their authors): {values}."]
    return lines


def _picture_table(scores: Sequence[Score]) -> list[str]:
    names = list(dict.fromkeys(name for score in scores for name in score.after))
    heads = ["picture", "model", "size", *(f"{_UNITS[name][0]} in → out" for name in names), "s", "GMAC"]
    rows = [
        [
            _place(score.part, score.picture),
            score.method,
            f"{score.width}x{score.height}",
            *(_change(score, name) for name in names),
            _number(score.seconds, 3),
            _number(score.gmac, 1),
        ]
        for score in scores
    ]
    return _table(heads, rows)


def _change(scores: Score | Mean, name: str) -> str:
    if name not in scores.after:
        return "–"
    digits = _UNITS[name][1]
    return f"{_number(scores.before[name], digits)} → {_number(scores.after[name], digits)}"


def _pair(scores: Mapping[str, float]) -> str:
    return f"{_number(scores['psnr'], 2)} / {_number(scores['ssim'], 4)}"


def _number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _place(part: str, picture: str) -> str:
    return f"{part}: {picture}" if part else picture


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(heads), line(["---"] * len(heads)), *map(line, rows)]
