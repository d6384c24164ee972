"""Several processes do what one does with the same batches."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from napari_dmgn.training import iter_train, loop, state
from napari_dmgn.training import run as run_module
from napari_dmgn.training.processes import Alone, join, rank_of_environment

CHILD = """
import atexit, json, os, pathlib, sys
import torch
torch.set_num_threads(1)
from napari_dmgn.training import TrainConfig, iter_train
sys.path.insert(0, sys.argv[2])
from conftest import TinyFeatures
# The first that is registered is the last that is called.
atexit.register(lambda: tell("threads", [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]))
told = []
config = TrainConfig(**json.loads(sys.argv[1]))
for event in iter_train(config, features=TinyFeatures()):
    told.append(event.terms | {"loss": event.loss})
# A file each: both write to one pipe, where their lines may run into each other.
def tell(name, what):
    with open(os.path.join(sys.argv[3], name + os.environ["RANK"]), "w") as file:
        json.dump(what, file)
tell("told", told)
"""


@pytest.fixture
def config(pictures, settings, every_loss, tmp_path):
    def make(name, **changes):
        values = {
            "steps": 4,
            "phases": [[0.5, 32, 2], [1.0, 48, 4]],
            "groups": 2,
            "validate_every": 2,
            "precision": "float32",
            **every_loss,
        }
        return settings(pictures, tmp_path / name, **{**values, **changes})

    return make


def test_two_processes_give_the_losses_and_weights_of_one(config, features, tmp_path):
    pytest.importorskip("lightning_fabric")
    alone = config("alone")
    told = [event.terms | {"loss": event.loss} for event in iter_train(alone, features=features)]
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    both = config("both").to_dict()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*command, str(child), json.dumps(both), os.path.dirname(__file__), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    ranks = {path.name[4:]: json.loads(path.read_text()) for path in tmp_path.glob("told*")}
    assert set(ranks) == {"0", "1"}
    assert ranks["0"] == ranks["1"]  # both know the mean
    threads = [path.read_text() for path in tmp_path.glob("threads*")]
    assert len(threads) == 2
    assert not any("gloo" in names for names in threads)  # they abort an interpreter that ends before them
    for step, (one, two) in enumerate(zip(told, ranks["0"], strict=True)):
        assert one.keys() == two.keys()
        # Adam divides by the size of a gradient, so where there is nearly none (a bias of the young
        # discriminator) rounding alone makes a step of up to the rate, 2e-4.
        rough = {"adversarial", "discriminator"} if step else set()
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-3 if name in rough else 1e-5), name
    for name in (loop.MODEL, state.STATE):
        first, second = load_file(tmp_path / "alone" / name), load_file(tmp_path / "both" / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            if key.startswith(("network/", "average/")) or name == loop.MODEL:
                torch.testing.assert_close(second[key], value, atol=1e-3, rtol=1e-3)


def test_groups_are_parts_of_the_same_batch(config, batches, pictures):
    """What each of two processes makes, one with two groups makes at once."""
    whole = config("x")
    source = batches(pictures, whole)

    class Rank(Alone):
        size = 2

        def __init__(self, rank):
            super().__init__("cpu")
            self.rank = rank

    features = {"features": lambda image: [image]}
    both = run_module.Run(whole, **features).pair(source, 32, 4)
    parts = [run_module.Run(whole, processes=Rank(r), **features).pair(source, 32, 4) for r in range(2)]
    for name in ("input", "background", "noise"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(both, name))
    assert not torch.equal(parts[0].background, parts[1].background)
    one = run_module.Run(config("y", groups=1), processes=Rank(1), **features)
    assert one.groups == 2  # unasked, each process has its own
    assert torch.equal(one.pair(source, 32, 4).input, parts[1].input)
    for groups, batch in ((3, 6), (1, 3)):
        with pytest.raises(ValueError, match="wanted a multiple of 2"):
            run_module.Run(config("z", groups=groups, phases=[[1.0, 32, batch]]), processes=Rank(0), **features)


def test_processes_are_told_by_torchrun(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(join("cpu"), Alone)
    monkeypatch.setenv("RANK", "3")  # of something else, perhaps
    assert rank_of_environment() == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank_of_environment() == 3
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ValueError, match=r"wanted: pip install 'napari-dmgn\[distributed\]'"):
        join("cpu")


def test_processes_that_do_not_share_the_folder_of_a_resumed_run_are_told_so(config, features, tmp_path, monkeypatch):
    saved = config("run")
    for event in (events := iter_train(saved, features=features)):
        if event.step == 2:
            events.close()
    steps = []

    class Pretended(Alone):
        """This process and two others, which are at the steps given."""

        size = 2

        def mean(self, value):
            others = torch.tensor([[step, step**2] for step in steps], dtype=value.dtype)
            return (value + others.sum(0)) / 3

    monkeypatch.setattr(loop, "join", Pretended)
    for steps[:] in ([0, 0], [2, 0], [0, 4]):  # of the last, 2 is the mean
        with pytest.raises(ValueError, match="finds it at step 2 and others do not; wanted a folder that all"):
            iter_train(saved, features=features, resume=True)
    steps[:] = [2, 2]
    iter_train(saved, features=features, resume=True).close()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ValueError, match="finds it at step 0 and others do not"):
        iter_train(saved, features=features, resume=True)
