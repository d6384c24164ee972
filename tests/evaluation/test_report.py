"""The report as JSON and Markdown."""

import json

from napari_dmgn.evaluation import Evaluation, Score


def score(picture: str, after: float, **changes) -> Score:
    values = {
        "set": "mine", "part": "", "picture": picture, "method": "m", "protocol": "reflection-rgb",
        "width": 8, "height": 6, "seconds": 0.25, "gmac": 2.0,
        "before": {"psnr": 10.0, "ssim": 0.5, "lmse": 0.1, "ncc": float("nan")},
        "after": {"psnr": after, "ssim": 0.75, "lmse": 0.05, "ncc": 0.5},
    }  # fmt: skip
    return Score(**values | changes)


def report(*scores: Score, **sets) -> Evaluation:
    return Evaluation(
        scores=scores,
        excluded=(),
        methods={name: {"task": None} for name in dict.fromkeys(one.method for one in scores)},
        sets={name: sets.get(name, {}) for name in dict.fromkeys(one.set for one in scores)},
        environment={"napari-dmgn": "1", "torch": "2", "machine": "x", "threads": 1, "date": "today"},
    )


def test_json_has_no_numbers_that_json_has_not():
    text = json.dumps(report(score("a", float("inf"))).to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["scores"][0]["after"]["psnr"] == "inf"
    assert back["scores"][0]["before"]["ncc"] is None
    assert back["means"][0]["after"]["psnr"] == "inf"
    assert float("inf") == float(back["means"][0]["least"])
    assert "LMSE" in back["protocols"]["reflection-rgb"]


def test_means_leave_out_what_does_not_exist():
    flat = score("b", 30, before={"psnr": 12.0, "ssim": 0.5, "lmse": 0.1, "ncc": 0.8})
    (mean,) = report(score("a", 20), flat).means()
    assert mean.before["ncc"] == 0.8
    assert mean.before["psnr"] == 11
    assert (mean.after["psnr"], mean.least, mean.pairs) == (25, 20, 2)


def test_seconds_are_the_median_for_the_first_picture_takes_longer():
    times = (9, 0.25, 0.25)
    (mean,) = report(*(score(str(i), 20, seconds=s) for i, s in enumerate(times))).means()
    assert mean.seconds == 0.25


def test_no_number_of_the_cross_table_is_without_its_protocol():
    mixed = [score("a", 20), score("a", 22, method="n", protocol="rain-y")]  # clean pictures, two tasks
    text = report(*mixed).to_markdown()
    assert "|  | mine |" in text
    assert "| m | 20.00 / 0.7500 (reflection-rgb) |" in text
    assert "| n | 22.00 / 0.7500 (rain-y) |" in text
    assert "| input | – |" in text


def test_markdown_tables_are_whole_and_name_their_protocol():
    published = {"mine": {"published": {"": {"DMGN": (23.05, 0.823), "RDNet": (25.58, None)}}, "notes": ["few"]}}
    others = [score("a|b", 20), score("a|b", 22, method="n"), score("c", 30, set="theirs", protocol="rain-y")]
    text = report(*others, **published).to_markdown()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert "| mine | theirs |" not in text  # never a column without its protocol
    assert "|  | mine (reflection-rgb) | theirs (rain-y) |" in tables
    assert "| m | 20.00 / 0.7500 | 30.00 / 0.7500 |" in tables
    assert "| n | 22.00 / 0.7500 | – |" in tables
    assert "| input | 10.00 / 0.5000 | 10.00 / 0.5000 |" in tables
    assert "a\\|b" in text
    assert "DMGN 23.05 / 0.823; RDNet 25.58." in text
    assert "Note: few." in text
    block: list[int] = []
    for line in text.splitlines():  # every row of a table has as many cells as its head
        cells = line.replace("\\|", "").count("|")
        if line.startswith("|"):
            block.append(cells)
            assert cells == block[0]
        else:
            block = []
