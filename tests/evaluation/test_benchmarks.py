"""Every test set's copies, as their files are called in the wild, in tiny."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from napari_dmgn.evaluation import BENCHMARKS, benchmark_set
from napari_dmgn.evaluation.benchmarks import find_benchmark
from napari_dmgn.evaluation.layouts import Rule
from napari_dmgn.metrics import PROTOCOLS
from napari_dmgn.zoo import TASKS

# Set, input, target; the target holds the input's number plus 100.
COPIES = [
    ("Rain100L", "rainy/rain-{:03}.png", "norain-{:03}.png"),
    ("Rain100H", "rainy/rain-{:03}.png", "norain-{:03}.png"),
    ("Rain100L", "rainy/rain-{}.png", "gt/norain-{}.png"),
    ("Rain100L", "rain_data_test_Light/rain/X2/norain-{}x2.png", "rain_data_test_Light/norain/norain-{}.png"),
    ("Rain100H", "test/rain/norain-{}.png", "test/norain/norain-{}.png"),
    ("Rain100L", "input/{}.png", "target/{}.png"),
    ("SOTS-indoor", "hazy/14{:02}_10.png", "gt/14{:02}.png"),
    ("SOTS-indoor", "nyuhaze500/hazy/14{:02}_1.png", "nyuhaze500/gt/14{:02}.png"),
    ("SOTS-indoor", "RESIDE-IN/test/hazy/14{:02}_1.png", "RESIDE-IN/test/GT/14{:02}.png"),
    ("SOTS-outdoor", "hazy/00{:02}_0.8_0.2.jpg", "gt/00{:02}.png"),
    ("SOTS-outdoor", "outdoor/hazy/00{:02}_0.85_0.04.jpg", "outdoor/clear/00{:02}.png"),
    ("O-HAZE", "hazy/{:02}_outdoor_hazy.jpg", "GT/{:02}_outdoor_GT.jpg"),
    ("O-HAZE", "# O-HAZY NTIRE 2018/hazy/{:02}_outdoor_hazy.JPG", "# O-HAZY NTIRE 2018/GT/{:02}_outdoor_GT.jpg"),
    ("Real20", "blended/{}.jpg", "transmission_layer/{}.jpg"),
    ("SIR2-Postcard", "PostcardDataset/blended/ab-{}-m-3.png", "PostcardDataset/transmission_layer/ab-{}-g-3.png"),
    ("SIR2-Postcard", "Aperture/F11/1_7/x-{}-m-2.png", "Aperture/F11/1_7/x-{}-g-2.png"),
    ("SIR2-Solid", "blended/{}-Focus-11-m.png", "transmission_layer/{}-Focus-11-g.png"),
    ("SIR2-Solid", "SolidObjectDataset/Focus/{}/m.jpg", "SolidObjectDataset/Focus/{}/g.jpg"),
    ("SIR2-Wild", "blended/{}-m.jpg", "transmission_layer/{}-g.jpg"),
    ("SIR2-Wild", "WildSceneDataset/withgt/{}/m.jpg", "WildSceneDataset/withgt/{}/g.jpg"),
    ("CEILNet", "{}-input.png", "{}-label1.png"),
    ("CEILNet", "blended/{}.png", "transmission_layer/{}.png"),
]


def grey(value: int, size: tuple[int, int] = (12, 14)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


@pytest.mark.parametrize(("name", "input_", "target"), COPIES)
def test_a_copy_of_a_test_set_is_paired_as_its_names_say(name, input_, target, tmp_path, put):
    for number in (1, 2, 10, 3):
        put(f"set/{input_.format(number)}", grey(number))
        put(f"set/{target.format(number)}", grey(100 + number))
    found = benchmark_set(tmp_path / "set", name)
    values = [[int(picture.mean().round()) for picture in item.load()] for item in found.items]
    assert values == [[n, 100 + n] for n in (1, 2, 3, 10)]  # each with its own, in the numbers' order
    assert (found.name, found.task) == (name, BENCHMARKS[name].task)
    assert found.protocol == BENCHMARKS[name].protocol
    assert found.notes == (f"4 pictures, the published set has {BENCHMARKS[name].count['']}",)


def test_sir2_and_sots_have_parts_and_a_missing_one_is_told(tmp_path, put):
    for part, folder in (("Postcard", "PostcardDataset"), ("Wild", "WildSceneDataset/withgt")):
        put(f"SIR2/{folder}/{part}/m.jpg", grey(10))
        put(f"SIR2/{folder}/{part}/g.jpg", grey(20))
    sir2 = benchmark_set(tmp_path / "SIR2")  # by the folder's name
    assert [item.part for item in sir2.items] == ["Postcard", "Wild"]
    assert "no pictures of Solid found" in sir2.notes
    for part, number in (("indoor", 1), ("outdoor", 2)):
        put(f"RESIDE/SOTS/{part}/hazy/000{number}_1.png", grey(number))
        put(f"RESIDE/SOTS/{part}/gt/000{number}.png", grey(100 + number))
    for root in ("RESIDE", "RESIDE/SOTS"):
        sots = benchmark_set(tmp_path / root, "sots")
        assert [(item.part, int(item.load()[1].mean())) for item in sots.items] == [("indoor", 101), ("outdoor", 102)]


def test_hazy_indoor_pictures_lack_the_border_of_their_targets(tmp_path, put):
    target = grey(0, (50, 60))
    target[10:-10, 10:-10] = 77
    put("hazy/1400_1.png", grey(5, (30, 40)))
    put("hazy/1401_1.png", grey(5, (31, 40)))
    for name in ("1400", "1401"):
        put(f"gt/{name}.png", target)
    cut, uncut = (item.load() for item in benchmark_set(tmp_path, "SOTS-indoor").items)
    assert cut[1].shape == cut[0].shape == (30, 40, 3)
    assert (cut[1] == 77).all()
    assert uncut[1].shape != uncut[0].shape  # another difference is no border: not hidden


def test_an_input_without_target_says_so_when_its_turn_comes(tmp_path, put):
    for number in (1, 2):
        put(f"rainy/rain-{number}.png", grey(number))
    put("norain-2.png", grey(102))
    first, second = benchmark_set(tmp_path, "Rain100L").items
    with pytest.raises(ValueError, match="no target 'norain-1'"):
        first.load()
    assert second.load()[1].mean() == 102


def test_any_folder_with_inputs_and_targets_is_a_set_of_the_task_asked_for(tmp_path, put):
    put("mine/input/a.png", grey(1))
    put("mine/target/a.png", grey(2))
    mine = benchmark_set(tmp_path / "mine")
    assert (mine.name, mine.task, mine.protocol, mine.notes) == ("mine", "rain", "rain-y", ())
    assert benchmark_set(tmp_path / "mine", task="reflection").protocol == "reflection-rgb"
    put("made/x_input.png", grey(1))  # what `napari-dmgn synthesize` writes
    put("made/x_background.png", grey(2))
    put("made/x_noise.png", grey(3))
    (item,) = benchmark_set(tmp_path / "made").items
    assert [picture.mean() for picture in item.load()] == [1, 2]


def test_hdf5_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "0001.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    (item,) = benchmark_set(tmp_path, "TestA").items
    with pytest.raises(ValueError, match="needs the package h5py"):
        item.load()


class StandIn(dict):
    """As much of h5py's File as is used, over NumPy's own format, for where h5py is not installed."""

    def __init__(self, path, mode):
        self.path, self.mode = path, mode
        super().__init__(np.load(path) if mode == "r" else {})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mode == "w":
            with open(self.path, "wb") as file:
                np.savez(file, **self)


def test_hdf5_pictures_of_testa(tmp_path, monkeypatch):
    try:
        import h5py
    except ModuleNotFoundError:
        h5py = SimpleNamespace(File=StandIn)
        monkeypatch.setitem(sys.modules, "h5py", h5py)
    haze = np.random.default_rng(0).random((12, 14, 3)).astype(np.float32)
    for name, turn in (("0001", (0, 1, 2)), ("0002", (2, 0, 1))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["haze"], file["gt"] = haze.transpose(turn), (haze / 2).transpose(turn)
    with h5py.File(tmp_path / "0003.h5", "w") as file:
        file["haze"] = haze
    first, second, broken = benchmark_set(tmp_path, "TestA").items
    for item in (first, second):
        image, target = item.load()
        np.testing.assert_array_equal(image, haze)
        np.testing.assert_array_equal(target, haze / 2)
    with pytest.raises(ValueError, match="cannot read 'haze' and 'gt'"):
        broken.load()


def test_folders_without_pairs_and_unknown_sets_are_refused(tmp_path, put):
    put("Rain100L/other/a.png", grey(1))
    with pytest.raises(ValueError, match=r"no pairs of Rain100L in .*; wanted files such as rainy/rain-\*"):
        benchmark_set(tmp_path / "Rain100L")
    with pytest.raises(ValueError, match="no such folder"):
        benchmark_set(tmp_path / "absent", "Rain100L")
    with pytest.raises(ValueError, match="unknown benchmark 'Rain100X'"):
        benchmark_set(tmp_path, "Rain100X")
    with pytest.raises(ValueError, match="unknown task 'snow'"):
        benchmark_set(tmp_path, task="snow")
    put("two/input/a.png", grey(1))
    put("two/input/a.jpg", grey(1))
    put("two/target/a.png", grey(1))
    with pytest.raises(ValueError, match="differ in the extension alone"):
        benchmark_set(tmp_path / "two")


def test_the_table_is_in_order():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.task in TASKS
        assert benchmark.protocol in PROTOCOLS
        assert bool(benchmark.rules) != bool(benchmark.hdf5)
        assert set(benchmark.count) <= set(benchmark.folders) >= set(benchmark.published)
        assert find_benchmark(name.lower().replace("-", "_")) is benchmark


def test_a_rule_matches_whole_names_only():
    rule = Rule(input=r"rainy/rain-(?P<n>\d+)", target="norain-{n}")
    assert rule.target_of("rainy/rain-007") == "norain-007"
    for other in ("rainy/rain-7x2", "a/rainy/rain-7", "norain-7"):
        assert rule.target_of(other) is None
