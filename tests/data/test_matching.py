"""Pairs are matched by name, stem, number or pattern; what is not is told."""

from pathlib import Path

import pytest

from napari_dmgn.data import match_pairs
from napari_dmgn.data.matching import check_rule


def match(inputs, backgrounds, rule="auto"):
    found = match_pairs([Path("in") / n for n in inputs.split()], [Path("out") / n for n in backgrounds.split()], rule)
    return found, [(a.name, b.name) for a, b in found.pairs]


@pytest.mark.parametrize(
    ("inputs", "backgrounds", "rule", "pairs"),
    [
        ("a.png b.png", "a.png b.png", "name", "a.png:a.png b.png:b.png"),
        ("a.jpg B.jpg", "a.png b.png", "stem", "a.jpg:a.png B.jpg:b.png"),
        ("1400_1_0.8.png 1400_2_0.9.png 1401_1_0.8.png", "1400.png 1401.png", "number",
         "1400_1_0.8.png:1400.png 1400_2_0.9.png:1400.png 1401_1_0.8.png:1401.png"),
        ("rain-001.png rain-2.png", "norain-1.png norain-002.png", "number",
         "rain-001.png:norain-1.png rain-2.png:norain-002.png"),
        ("set2_r7.png set2_r8.png", "set2_b7.png set2_b8.png", "last number",
         "set2_r7.png:set2_b7.png set2_r8.png:set2_b8.png"),
    ],
)  # fmt: skip
def test_auto_finds_the_rule_of_usual_layouts(inputs, backgrounds, rule, pairs):
    found, names = match(inputs, backgrounds)
    assert found.rule == rule
    assert [":".join(pair) for pair in names] == pairs.split()
    assert not found.unmatched
    assert not found.ambiguous
    assert match(inputs, backgrounds, rule)[1] == names


def test_patterns_name_what_both_have_in_common():
    found, names = match("x_hazy_1.png y_hazy_2.png z.png", "x_GT.png y_GT.png", "{}_hazy_* {}_GT")
    assert names == [("x_hazy_1.png", "x_GT.png"), ("y_hazy_2.png", "y_GT.png")]
    assert [p.name for p in found.unmatched] == ["z.png"]
    # {} ends at the first place where the pattern fits.
    assert match("a_b_c.png", "a.png a_b.png", "{}_* {}")[1] == [("a_b_c.png", "a.png")]


def test_what_has_no_partner_or_several_is_told():
    found, names = match("a1.png b2.png c3.png", "x1.png y2.png z2.png w4.png", "number")
    assert names == [("a1.png", "x1.png")]
    assert [str(p) for p in found.ambiguous] == ["in/b2.png"]
    assert [str(p) for p in found.unmatched] == ["in/c3.png", "out/y2.png", "out/z2.png", "out/w4.png"]


def test_paths_may_be_text():
    found = match_pairs(["in/a.png", "in/b.png"], ["out/a.png"])
    assert found.pairs == [(Path("in/a.png"), Path("out/a.png"))]
    assert found.unmatched == [Path("in/b.png")]


@pytest.mark.parametrize("rule", ["like", "", "{}", "{} x", "{} {} {}", None, 3])
def test_wrong_rules_are_refused(rule):
    with pytest.raises(ValueError, match="wanted auto, name, stem, number, last number, or two patterns"):
        check_rule(rule)
