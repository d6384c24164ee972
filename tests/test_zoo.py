"""Which models there are, with or without a shipped one."""

import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch

from napari_dmgn import checkpoint, zoo
from napari_dmgn.checkpoint import CheckpointError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """An empty folder in place of the package's weights."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(zoo, "_shipped_folder", lambda: folder)
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The user's models folder."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(folder))
    return folder


@pytest.fixture
def put(tiny_network):
    """Write a model file."""

    def write(path, *, task="rain", **card):
        checkpoint.save(path, tiny_network, task=task, card=card)
        return path

    return write


def test_models_of_both_folders_are_listed_with_their_facts(shipped, mine, put, tiny_network):
    put(shipped / "rain.safetensors", licence="BSD-3-Clause")
    put(mine / "stripes.safetensors", task="haze")
    (mine / "notes.txt").write_text("not a model")
    first, second = zoo.list_models()
    assert (first.name, first.task, first.shipped, first.card) == ("rain", "rain", True, {"licence": "BSD-3-Clause"})
    assert (second.name, second.task, second.shipped) == ("stripes", "haze", False)
    assert first.parameters == sum(p.numel() for p in tiny_network.parameters())
    assert first.config == tiny_network.config.to_dict()
    assert first.bytes == first.path.stat().st_size
    assert first.sha256 == checkpoint.load(first.path).metadata.sha256


def test_without_folders_there_are_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "_shipped_folder", lambda: tmp_path / "none")
    monkeypatch.setenv("NAPARI_DMGN_MODELS", str(tmp_path / "nowhere"))
    assert zoo.list_models() == []
    assert zoo.broken_models() == []
    with pytest.raises(ValueError, match=r"no model 'rain' \(there are: none\)"):
        zoo.find_model("rain")


def test_users_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_DMGN_MODELS", "~/models")
    assert zoo.models_folder() == tmp_path.__class__.home() / "models"
    monkeypatch.delenv("NAPARI_DMGN_MODELS")
    assert zoo.models_folder().parts[-2:] == ("napari-dmgn", "models")


def test_an_unknown_users_folder_is_one_that_does_not_exist(shipped, put, monkeypatch):
    put(shipped / "rain.safetensors")
    monkeypatch.setenv("NAPARI_DMGN_MODELS", "~nobody-of-this-name/models")
    assert [model.name for model in zoo.list_models()] == ["rain"]
    assert zoo.load_model("rain").metadata.task == "rain"
    with pytest.raises(CheckpointError, match=r"cannot read model file ~nobody-of-this-name/x\.safetensors: No such"):
        zoo.find_model("~nobody-of-this-name/x.safetensors")


def test_a_broken_file_is_left_out_and_named(shipped, mine, put, caplog):
    good = put(mine / "good.safetensors")
    broken = mine / "broken.safetensors"
    broken.write_bytes(good.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert [model.name for model in zoo.list_models()] == ["good"]
    assert "broken.safetensors is truncated" in caplog.text
    ((path, message),) = zoo.broken_models()
    assert path == broken
    assert "is truncated" in message
    for name in ("broken", broken, str(broken)):
        with pytest.raises(CheckpointError, match="is truncated"):
            zoo.find_model(name)


def test_names_tasks_and_paths_find_the_same_file(shipped, mine, put, tmp_path, monkeypatch):
    rain = put(shipped / "rain.safetensors")
    stripes = put(mine / "stripes.safetensors")
    elsewhere = put(tmp_path / "else.safetensors")
    assert zoo.find_model("rain").path == rain
    assert zoo.find_model("stripes").path == stripes
    for path in (elsewhere, rain):
        for form in (path, str(path)):
            found = zoo.find_model(form)
            assert (found.path, found.shipped) == (path, path == rain)
    monkeypatch.chdir(tmp_path)
    assert zoo.find_model("else.safetensors").path.resolve() == elsewhere
    with pytest.raises(CheckpointError, match="No such file"):
        zoo.find_model("stripes.safetensors")  # a path, and not there


def test_a_task_means_the_shipped_model_and_a_name_the_users(shipped, mine, put):
    put(shipped / "light.safetensors", task="rain")
    put(mine / "rain.safetensors", task="rain")
    put(mine / "light.safetensors", task="rain")
    assert zoo.find_model("rain").path.parent == shipped
    assert zoo.find_model("light").path.parent == mine
    # Without a shipped model of the task, the user's of that name.
    (shipped / "light.safetensors").unlink()
    assert zoo.find_model("rain").path.parent == mine


def test_shipped_models_come_in_the_order_of_the_tasks_and_before_the_users(shipped, mine, put):
    put(mine / "a.safetensors", task="rain")
    for task in ("haze", "rain", "reflection"):
        put(shipped / f"{task}.safetensors", task=task)
    assert [model.name for model in zoo.list_models()] == ["rain", "haze", "reflection", "a"]


def test_a_task_without_a_shipped_model_means_the_users_own(shipped, mine, put):
    put(shipped / "rain.safetensors", task="rain")
    put(mine / "fog.safetensors", task="haze")
    assert zoo.find_model("haze").name == "fog"
    put(mine / "mist.safetensors", task="haze")
    with pytest.raises(ValueError, match="several models for haze: fog, mist; name one as the model"):
        zoo.find_model("haze")
    put(mine / "haze.safetensors", task="haze")
    assert zoo.find_model("haze").name == "haze"


def test_an_unknown_name_names_the_near_match(shipped, mine, put):
    put(mine / "stripes.safetensors")
    put(shipped / "rain.safetensors")
    with pytest.raises(ValueError, match=r"no model 'stripe'; did you mean 'stripes'\? \(there are: rain, stripes\)"):
        zoo.find_model("stripe")
    with pytest.raises(ValueError, match=r"no model 'xyzzy' \(there are"):
        zoo.find_model("xyzzy")
    with pytest.raises(ValueError, match="no model 'haze'"):
        zoo.find_model("haze")


def test_a_model_is_read_once_and_again_when_its_file_was_replaced(shipped, mine, put, tiny_network):
    path = put(mine / "mine.safetensors")
    first = zoo.shared_model("mine")
    assert zoo.shared_model("mine") is first
    assert zoo.shared_model(path) is first
    old = path.stat().st_mtime_ns
    put(path, name="another")
    os.utime(path, ns=(old + 10**7, old + 10**7))
    second = zoo.shared_model("mine")
    assert second is not first
    assert second.metadata.name == "another"
    for name, tensor in second.network.state_dict().items():
        assert torch.equal(tensor, tiny_network.state_dict()[name])


def test_what_is_done_to_a_loaded_model_changes_no_other(shipped, mine, put):
    put(mine / "mine.safetensors", name="mine")
    mine_own, before = zoo.load_model("mine"), zoo.load_model("mine").network.state_dict()
    assert mine_own.network.refiner.out.weight.is_contiguous(memory_format=torch.channels_last)
    mine_own.network.double()
    for parameter in mine_own.network.parameters():
        parameter.data.mul_(2)
    mine_own.metadata.card["name"] = "other"
    for again in (zoo.load_model("mine"), zoo.shared_model("mine")):
        assert again.metadata.card == {"name": "mine"}
        for name, tensor in again.network.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, before[name])


def test_a_file_replaced_by_a_broken_one_is_refused(shipped, mine, put):
    path = put(mine / "mine.safetensors")
    zoo.load_model("mine")
    path.write_bytes(b"broken")
    with pytest.raises(CheckpointError):
        zoo.load_model("mine")


def test_unknown_device_is_refused(shipped, mine, put):
    put(mine / "mine.safetensors")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        zoo.load_model("mine", device="gpu")


def test_listing_loads_no_torch(mine, tiny_checkpoint):
    shutil.copy(tiny_checkpoint, mine / "tiny.safetensors")
    code = (
        "import sys; from napari_dmgn.zoo import list_models; names = [m.name for m in list_models()];"
        "assert 'tiny' in names, names; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_models_if_any_are_whole():
    """The package's own folder: every file there is valid, carries its card and can be loaded."""
    shipped = [model for model in zoo.list_models() if model.shipped]
    assert [path for path, _ in zoo.broken_models() if path.parent == zoo._shipped_folder()] == []
    for model in shipped:
        assert model.task in zoo.TASKS
        assert {"name", "licence", "training", "scores"} <= set(model.card)
        assert zoo.load_model(model.name).metadata.sha256 == model.sha256
        assert zoo.find_model(model.task).shipped
