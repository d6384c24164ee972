"""A model file survives the round trip, and each kind of damage is told in one line."""

import hashlib
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_dmgn import checkpoint
from napari_dmgn.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def good(tiny_checkpoint):
    """Tensors and metadata of a valid file."""
    content = tiny_checkpoint.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return load_file(tiny_checkpoint), json.loads(content[8 : 8 + length])["__metadata__"]


def refused(path, message):
    """Both readers, or `load` alone, refuse the file in one line that names it."""
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_round_trip_keeps_every_bit(tiny_network, tmp_path):
    path = tmp_path / "new" / "folder" / "model.safetensors"
    card = {"name": "näme", "scores": {"a": 1.5, "b": [1, None]}, "licence": "BSD-3-Clause"}
    checkpoint.save(path, tiny_network, task="haze", card=card)
    model = checkpoint.load(path)
    wanted = tiny_network.state_dict()
    assert list(model.network.state_dict()) == list(wanted)
    for name, tensor in model.network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name])
    assert model.config == tiny_network.config
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    metadata = model.metadata
    assert (metadata.name, metadata.task, metadata.card, metadata.path) == ("näme", "haze", card, path)
    assert metadata.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(path.parent) == [path.name]
    with torch.inference_mode():
        image = torch.rand((1, 3, 9, 14), generator=torch.Generator().manual_seed(0))
        assert torch.equal(model(image).background, tiny_network(image).background)


def test_header_tells_what_the_network_is(tiny_checkpoint, tiny_network):
    header = checkpoint.read_header(tiny_checkpoint)
    assert header.config == tiny_network.config
    assert (header.task, header.format, header.card["name"]) == ("rain", "napari-dmgn/1", "tiny")
    assert header.bytes == tiny_checkpoint.stat().st_size
    assert header.tensors == {k: ("F32", tuple(v.shape)) for k, v in tiny_network.state_dict().items()}
    assert header.parameters == sum(p.numel() for p in tiny_network.parameters())


def test_header_is_read_without_torch(tiny_checkpoint):
    code = (
        "import sys; from napari_dmgn.checkpoint import read_header; read_header(sys.argv[1]);"
        "sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_on_disk_load_as_float32(dtype, good, tmp_path):
    tensors, metadata = good
    path = tmp_path / "model.safetensors"
    save_file({k: v.to(dtype) for k, v in tensors.items()}, path, metadata)
    network = checkpoint.load(path).network
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tensors[name].to(dtype).float())
    if dtype == torch.float16:
        assert path.stat().st_size < 0.75 * sum(4 * t.numel() for t in tensors.values())


def test_a_half_network_is_saved_as_it_is(tiny_network, tmp_path):
    import copy

    path = tmp_path / "half.safetensors"
    checkpoint.save(path, copy.deepcopy(tiny_network).half(), task="rain", card={})
    assert {dtype for dtype, _ in checkpoint.read_header(path).tensors.values()} == {"F16"}
    assert checkpoint.is_halved(checkpoint.read_header(path))
    assert checkpoint.load(path).metadata.name == "half"  # without a name in the card, the file's


def test_halving_leaves_tensors_of_few_values(tiny_network, tmp_path):
    import copy

    path = tmp_path / "halved.safetensors"
    checkpoint.save(path, checkpoint.halve(copy.deepcopy(tiny_network)), task="rain", card={})
    header = checkpoint.read_header(path)
    assert checkpoint.is_halved(header)
    state = checkpoint.load(path).network.state_dict()
    kinds = {name: dtype for name, (dtype, _) in header.tensors.items()}
    assert set(kinds.values()) == {"F16", "F32"}
    for name, tensor in tiny_network.state_dict().items():
        few = tensor.numel() <= 256
        assert kinds[name] == ("F32" if few else "F16")
        assert torch.equal(state[name], tensor if few else tensor.half().float())
    checkpoint.save(path, tiny_network, task="rain", card={})
    assert not checkpoint.is_halved(checkpoint.read_header(path))


def test_what_is_no_readable_file_is_refused(tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("This is not a model, but a text that is long enough.\n" * 4)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "empty.safetensors").touch()
    zipped = tmp_path / "zip.safetensors"
    zipped.write_bytes(b"PK\x03\x04" + bytes(200))  # what torch.save writes begins like this
    for path, message in (
        (tmp_path / "missing.safetensors", "No such file"),
        (tmp_path / "folder.safetensors", "directory"),
        (tmp_path / "empty.safetensors", "not a safetensors file"),
        (text, "not a safetensors file"),
        (zipped, "not a safetensors file"),
    ):
        refused(path, message)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.read_header(path)


def test_a_file_cut_anywhere_or_with_more_at_its_end_is_refused(tiny_checkpoint, tmp_path):
    content = tiny_checkpoint.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    path = tmp_path / "cut.safetensors"
    lengths = {*range(20), *range(20, len(content), len(content) // 40), start - 1, start, start + 1, len(content) - 1}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        refused(path, "truncated")
    for surplus in (1, 8, 1000):
        path.write_bytes(content + bytes(surplus))
        refused(path, "longer than its header says")


def test_foreign_and_changed_metadata_are_refused(good, tmp_path):
    tensors, metadata = good
    config = json.loads(metadata["config"])
    path = tmp_path / "model.safetensors"

    def without(name):
        return {k: v for k, v in metadata.items() if k != name}

    cases = [
        (None, "no napari-dmgn model: its format is None"),
        ({"format": "pt"}, "its format is 'pt', wanted 'napari-dmgn/1'"),
        ({**metadata, "format": "napari-dmgn/2"}, "its format is 'napari-dmgn/2'"),
        ({**metadata, "extra": "1"}, r"unknown metadata fields: \['extra'\]"),
        (without("card"), r"missing or unknown metadata fields: \['card'\]"),
        (without("task"), r"\['task'\]"),
        ({**metadata, "config": "{"}, "broken metadata"),
        ({**metadata, "config": "[]"}, "broken metadata"),
        ({**metadata, "config": "3"}, "broken metadata"),
        ({**metadata, "config": "[" * 100_000}, "broken metadata"),
        ({**metadata, "config": json.dumps({**config, "depth": 3})}, r"unknown network settings \['depth'\]"),
        ({**metadata, "config": json.dumps({**config, "width": 0})}, "network setting width is 0"),
        ({**metadata, "config": json.dumps({**config, "width": 2**40})}, "network setting width is 1099511627776"),
        ({**metadata, "config": json.dumps({**config, "head_levels": 5_000_000})}, "head_levels is 5000000"),
        ({**metadata, "config": json.dumps({**config, "branch_widths": 8})}, "branch_widths is 8"),
        ({**metadata, "task": "rain"}, "broken metadata"),
        ({**metadata, "task": "3"}, "task is no string"),
        ({**metadata, "card": "[]"}, "card no object"),
    ]
    for changed, message in cases:
        save_file(tensors, path, changed)
        refused(path, message)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.read_header(path)


def test_broken_headers_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers = [
        "{ ",
        "[" * 100_000,
        "[]",
        "3.0",
        '"text"',
        "null",
        json.dumps({"a": 3}),
        json.dumps({"a": {}}),
        json.dumps({"a": {**tensor, "shape": 1}}),
        json.dumps({"a": {**tensor, "shape": ["x"]}}),
        '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
        json.dumps({"a": {**tensor, "data_offsets": [0]}}),
        json.dumps({"a": {**tensor, "data_offsets": None}}),
        json.dumps({"__metadata__": None, "a": tensor}),
        json.dumps({"__metadata__": "text", "a": tensor}),
        json.dumps({"__metadata__": ["format"], "a": tensor}),
        json.dumps({"__metadata__": {"format": ["napari-dmgn/1"]}, "a": tensor}),
        b"\xff\xfe{}",
    ]
    for header in headers:
        raw = header if isinstance(header, bytes) else header.encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
        refused(path, "header is broken|no napari-dmgn model")


def test_an_absurd_header_length_is_refused_unread(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in (0, 1, 2**31, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + bytes(100))
        refused(path, "not a safetensors file")
    with path.open("wb") as file:  # a header of 100 MB in a sparse file that is as long
        file.write(struct.pack("<Q", 100 << 20))
        file.truncate((100 << 20) + 8)
    refused(path, "not a safetensors file")


def test_tensors_that_do_not_fit_the_network_are_refused(good, tmp_path):
    tensors, metadata = good
    path = tmp_path / "model.safetensors"
    for name in (min(tensors), max(tensors), "head.stem.weight"):
        tensor = tensors[name]
        wrong_shape = torch.zeros((*tensor.shape, 1))
        cases = [
            ({k: v for k, v in tensors.items() if k != name}, f"lacks 1 tensors, the first is {name}"),
            ({**tensors, name: wrong_shape}, f"tensor {name} has shape .*, wanted"),
            ({**tensors, f"{name}2": tensor.clone()}, f"has 1 unknown tensors, the first is {name}2"),
            ({**tensors, name: tensor.to(torch.int32)}, f"tensor {name} is I32, wanted"),
        ]
        for value in (float("nan"), float("inf"), -float("inf")):
            damaged = tensor.clone()
            damaged.view(-1)[-1] = value
            cases.append(({**tensors, name: damaged}, f"tensor {name} holds values that are not finite"))
        for changed, message in cases:
            save_file(changed, path, metadata)
            refused(path, message)


def test_settings_of_a_network_of_terabytes_are_refused(good, tmp_path):
    tensors, metadata = good
    path = tmp_path / "model.safetensors"
    config = {**json.loads(metadata["config"]), "width": 1 << 14}
    save_file(tensors, path, {**metadata, "config": json.dumps(config)})
    refused(path, "has shape .*, wanted|lacks")


def test_overlapping_tensors_are_refused(tiny_checkpoint, tmp_path):
    content = tiny_checkpoint.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    names = sorted((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    size = header[names[0]]["data_offsets"][1]
    header[names[1]]["data_offsets"] = [0, size]
    raw = json.dumps(header).encode()
    path = tmp_path / "overlap.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])
    refused(path, "damaged")


def test_a_network_that_is_not_finite_is_not_saved(tiny_network, tmp_path):
    import copy

    broken = copy.deepcopy(tiny_network)
    with torch.no_grad():
        broken.head.stem.weight[0, 0, 0, 0] = float("nan")
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"not saved: tensor head\.stem\.weight"):
        checkpoint.save(path, broken, task="rain", card={})
    assert os.listdir(tmp_path) == []


def test_a_task_that_is_no_string_is_not_saved(tiny_network, tmp_path):
    with pytest.raises(ValueError, match="a model's task is a string; got None"):
        checkpoint.save(tmp_path / "model.safetensors", tiny_network, task=None, card={})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_crash_while_writing_leaves_the_earlier_file(error, tiny_network, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, tiny_network, task="rain", card={"version": 1})
    before = path.read_bytes()

    def fails(_):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        checkpoint.save(path, tiny_network, task="rain", card={"version": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(type(error)):
        checkpoint.save(tmp_path / "new.safetensors", tiny_network, task="rain", card={})
    assert os.listdir(tmp_path) == [path.name]


def test_the_data_is_on_disk_before_it_gets_its_name(tiny_network, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    seen = []

    def fsync(descriptor):
        seen.append((path.exists(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.save(path, tiny_network, task="rain", card={})
    assert seen == [(False, path.stat().st_size)]


def test_loading_leaves_the_global_random_state_alone(tiny_checkpoint):
    before = torch.random.get_rng_state()
    checkpoint.load(tiny_checkpoint)
    assert torch.equal(torch.random.get_rng_state(), before)
