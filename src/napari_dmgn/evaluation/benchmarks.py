"""The public test sets: where their copies keep the pictures, how they are scored, what others reached."""

from __future__ import annotations

import re

from napari_dmgn.evaluation.layouts import Benchmark, Rule, same_names

__all__ = ["BENCHMARKS", "GENERIC", "find_benchmark", "guess_benchmark"]

_RAIN = (
    # As published and in PReNet's copy: rainy/rain-001.png, and norain-001.png beside that folder.
    Rule(input=r"rainy/rain-(?P<n>\d+)", target="norain-{n}"),
    Rule(input=r"rainy/rain-(?P<n>\d+)", target="gt/norain-{n}"),  # AirNet's and PromptIR's copy
    Rule(input=r"rain-(?P<n>\d+)", target="norain-{n}"),
    # The later release of 200 pictures, at two scales: rain/X2/norain-1x2.png.
    Rule(input=r"rain/(?:X2/)?norain-(?P<n>\d+)(?:x2)?", target="norain/norain-{n}"),
    same_names("input", "target"),  # MPRNet's and Restormer's copy
)
# RESIDE names a hazy picture after its clean one: 0001_0.8_0.2.jpg of 0001.png, 1400_3.png of 1400.png.
_CLEAR = ("gt", "GT", "clear", "clean")
_HAZE = (
    *(Rule(input=r"hazy/(?P<n>[^/_]+)(?:_[^/]*)?", target=f"{target}/{{n}}") for target in _CLEAR),
    same_names("hazy", "GT"),
    same_names("input", "target"),
)
_OHAZE = (
    *(Rule(input=r"hazy/(?P<n>\d+)_outdoor_hazy", target=f"{target}/{{n}}_outdoor_GT") for target in _CLEAR),
    same_names("hazy", "GT"),
)
_REFLECTION = (same_names("blended", "transmission_layer"),)
_SIR2 = (
    # One tag of a name says which picture it is, m mixed or g ground truth: ab-10-m-3, 1-Focus-11-m.
    Rule(
        input=r"blended/(?P<a>(?:[^/]*-)?)m(?P<b>(?:-[^/]*)?)",
        target="transmission_layer/{a}g{b}",
    ),
    *_REFLECTION,
    # As its authors pack it: folders of m.jpg, g.jpg and r.jpg, and postcards with the tag in the name.
    Rule(input=r"(?P<f>(?:.+/)?)m", target="{f}g"),
    Rule(input=r"(?P<f>(?:.+/)?)(?P<a>(?:[^/]*-)?)m(?P<b>(?:-[^/]*)?)", target="{f}{a}g{b}"),
)
_INDOOR = ("indoor", "indoor/nyuhaze500", "SOTS/indoor", "SOTS/indoor/nyuhaze500", "RESIDE-IN/test", "nyuhaze500", "")
_OUTDOOR = ("outdoor", "outdoor/outdoor", "SOTS/outdoor", "RESIDE-OUT/test", "")


def _sir2_folders(name: str, *more: str) -> tuple[str, ...]:
    folders = (f"{name}Dataset", f"{name} Dataset", *more)
    return tuple(f"{above}{folder}" for folder in folders for above in ("", "SIR2/"))


_POSTCARD = _sir2_folders("Postcard", "Postcard", "postcard")
_SOLID = _sir2_folders("SolidObject", "SolidObject", "Solid", "Objects", "solidobject")
_WILD = tuple(f"{folder}{below}" for folder in _sir2_folders("WildScene", "Wild", "wild") for below in ("/withgt", ""))
_SIR2_FIGURES = {
    "Postcard": {"DMGN": (22.59, 0.902), "RDNet": (26.33, None)},
    "Solid": {"DMGN": (25.13, 0.904), "RDNet": (26.78, None)},
    "Wild": {"DMGN": (25.18, 0.894), "RDNet": (27.70, None)},
}
_SOTS_FIGURES = {
    "indoor": {"DMGN": (35.33, 0.986), "gUNet-T": (37.99, 0.993), "AOD-Net": (20.51, None)},
    "outdoor": {"DMGN": (28.99, 0.971), "gUNet-T": (34.52, 0.983), "AOD-Net": (24.14, None)},
}

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="Rain100L",
            task="rain",
            protocol="rain-y",
            folders={"": ("", "test", "test/small", "Rain100L", "rain_data_test_Light")},
            rules=_RAIN,
            count={"": 100},
            published={
                "": {"DMGN": (38.53, 0.983), "PReNet": (37.48, 0.979), "Restormer (trained on Rain13K)": (38.99, 0.978)}
            },
        ),
        Benchmark(
            name="Rain100H",
            task="rain",
            protocol="rain-y",
            folders={"": ("", "test", "Rain100H", "rain_data_test_Heavy")},
            rules=_RAIN,
            count={"": 100},
            published={"": {"DMGN": (30.72, 0.903)}},
        ),
        Benchmark(
            name="SOTS",
            task="haze",
            protocol="haze-rgb",
            folders={"indoor": _INDOOR[:-1], "outdoor": _OUTDOOR[:-1]},
            rules=_HAZE,
            count={"indoor": 500, "outdoor": 500},
            border=10,  # indoor: 620x460 hazy pictures of 640x480 clean ones
            published=_SOTS_FIGURES,
        ),
        Benchmark(
            name="SOTS-indoor",
            task="haze",
            protocol="haze-rgb",
            folders={"": _INDOOR},
            rules=_HAZE,
            count={"": 500},
            border=10,
            published={"": _SOTS_FIGURES["indoor"]},
        ),
        Benchmark(
            name="SOTS-outdoor",
            task="haze",
            protocol="haze-rgb",
            folders={"": _OUTDOOR},
            rules=_HAZE,
            count={"": 500},
            published={"": _SOTS_FIGURES["outdoor"]},
        ),
        Benchmark(
            name="O-HAZE",
            task="haze",
            protocol="haze-rgb",
            folders={"": ("", "# O-HAZY NTIRE 2018", "O-HAZY NTIRE 2018", "O-HAZY", "O-HAZE")},
            rules=_OHAZE,
            count={"": 45},
            published={"": {"DMGN": (25.11, 0.910)}},
        ),
        Benchmark(
            name="TestA",
            task="haze",
            protocol="haze-rgb",
            folders={"": ("", "TestA", "nyu_test")},
            hdf5=("haze", "gt"),
        ),
        Benchmark(
            name="Real20",
            task="reflection",
            protocol="reflection-rgb",
            folders={"": ("", "real20", "real20_420", "test/real20")},
            rules=_REFLECTION,
            count={"": 20},
            published={"": {"DMGN": (23.05, 0.823), "RDNet": (25.58, None)}},
        ),
        Benchmark(
            name="SIR2",
            task="reflection",
            protocol="reflection-rgb",
            folders={"Postcard": _POSTCARD, "Solid": _SOLID, "Wild": _WILD},
            rules=_SIR2,
            count={"Postcard": 199, "Solid": 200, "Wild": 55},
            published=_SIR2_FIGURES,
        ),
        *(
            Benchmark(
                name=f"SIR2-{part}",
                task="reflection",
                protocol="reflection-rgb",
                folders={"": (*folders, "withgt", "")},
                rules=_SIR2,
                count={"": count},
                published={"": _SIR2_FIGURES[part]},
            )
            for part, folders, count in (("Postcard", _POSTCARD, 199), ("Solid", _SOLID, 200), ("Wild", _WILD, 55))
        ),
        Benchmark(
            name="CEILNet",
            task="reflection",
            protocol="reflection-rgb",
            folders={"": ("", "testdata_reflection_synthetic_table2", "testdata_CEILNET_table2")},
            rules=(Rule(input=r"(?P<n>[^/]+)-input", target="{n}-label1"), *_REFLECTION),
            count={"": 100},
        ),
    )
}
"""The public test sets by name."""

_FOLDERS = tuple(
    same_names(input_, target)
    for input_, target in (
        ("input", "target"),
        ("input", "gt"),
        ("inputs", "targets"),
        ("rainy", "clean"),
        ("rain", "norain"),
        ("hazy", "clear"),
        ("blended", "transmission_layer"),
    )
)
GENERIC = Benchmark(
    name="",
    task="",
    protocol="",
    # What `napari-dmgn synthesize` writes: picture_input.png and picture_background.png.
    rules=(*_FOLDERS, Rule(input=r"(?P<n>[^/]+)_input", target="{n}_background"), *_HAZE, *_RAIN),
)
"""Pairs that belong to no public set."""


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark of a name, whatever its capitals and hyphens.

    Raises
    ------
    ValueError
        There is none.
    """
    benchmark = guess_benchmark(name)
    if benchmark is None:
        raise ValueError(f"unknown benchmark {name!r} (there are: {', '.join(BENCHMARKS)})")
    return benchmark


def guess_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark that a folder's name says, or None."""
    plain = {re.sub(r"[\W_]", "", known).lower(): benchmark for known, benchmark in BENCHMARKS.items()}
    return plain.get(re.sub(r"[\W_]", "", name).lower())
