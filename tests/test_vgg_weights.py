"""VGG-19's weights: read from files, downloaded from a server on this machine, put where they belong."""

import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from napari_dmgn import checkpoint, vgg_weights
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.cli import main
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.network import DMGN

# torchvision's `features`, up to relu5_1: the channels of its convolutions, and M for a pooling.
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512)
NARROW = {"width": 8, "branch_widths": (8, 8, 12), "bottleneck_cells": 1, "attention_reduction": 4}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """What torchvision's file holds, the classifier left out; each filter is the same for all its outputs."""
    random, tensors, before, number = torch.Generator().manual_seed(0), {}, 3, 0
    for layer in LAYERS:
        if layer != "M":
            filters = torch.randn((1, before, 3, 3), generator=random) * (2 / (9 * before)) ** 0.5
            tensors[f"features.{number}.weight"] = filters.expand(layer, -1, -1, -1)
            tensors[f"features.{number}.bias"] = torch.randn(layer, generator=random) * 0.1
            before = layer
        number += 1 if layer == "M" else 2
    return tensors | {"features.30.weight": torch.zeros(1), "classifier.0.weight": torch.zeros(1)}


@pytest.fixture
def file(published, tmp_path):
    path = tmp_path / "vgg19.pth"
    torch.save(published, path)
    return path


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of one file on this machine; the cache is in a folder of the test."""

    class Handler(BaseHTTPRequestHandler):
        content, promised, requests = b"", 0, 0

        def do_GET(self):
            type(self).requests += 1
            if not self.content:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(self.promised or len(self.content)))
            self.end_headers()
            self.wfile.write(self.content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(vgg_weights, "URL", f"http://127.0.0.1:{running.server_port}/vgg19.pth")
        monkeypatch.setattr(vgg_weights, "cached_file", lambda: tmp_path / "cache" / "vgg19.pth")
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield Handler
        running.shutdown()


def test_both_kinds_of_file_give_the_published_weights(published, file, tmp_path):
    other = tmp_path / "vgg19.safetensors"
    safetensors.torch.save_file({k: v.contiguous().half() for k, v in published.items()}, other)
    for path, bound in ((file, 0), (other, 1e-3)):
        weights = vgg_weights.load(path)
        assert len(weights) == 26
        torch.testing.assert_close(weights["convs.3.bias"], published["features.7.bias"], atol=bound, rtol=bound)
        last = published["features.28.weight"].contiguous()
        torch.testing.assert_close(weights["convs.12.weight"], last, atol=bound, rtol=bound)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@torch.inference_mode()
def test_head_sees_torchvisions_features_of_the_normalised_image(published, file):
    """The oracle: torchvision's layers in a row on (RGB - mean) / spread, border included."""
    network = DMGN(replace(PRESETS["paper"], **NARROW))
    vgg_weights.insert(network, vgg_weights.load(file))
    image = torch.rand((1, 3, 20, 35), generator=torch.Generator().manual_seed(1))
    taps = []
    network.head.vgg.register_forward_hook(lambda *args: taps.extend(args[2]))
    network.head(image)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, wanted, number = (image - mean[:, None, None]) / spread[:, None, None], [], 0
    for layer in LAYERS:
        if layer == "M":
            x = F.max_pool2d(x, 2)
            number += 1
        else:
            weight, bias = (published[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            wanted += [x] if number in (0, 5, 10, 19, 28) else []
            number += 2
    assert len(taps) == len(wanted) == 5
    for found, right in zip(taps, wanted, strict=True):
        assert right.std() > 0
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in network.head.vgg.parameters())


def test_heads_that_cannot_take_the_weights_say_so(file):
    weights = vgg_weights.load(file)
    with pytest.raises(ValueError, match="the network's head is 'learned'; wanted 'vgg19'"):
        vgg_weights.insert(DMGN(replace(PRESETS["compact"], width=8, branch_widths=(8, 8))), weights)
    with pytest.raises(ValueError, match="trunk_stride is 2; VGG-19's weights want 1"):
        vgg_weights.insert(DMGN(replace(PRESETS["paper"], **NARROW, trunk_stride=2)), weights)


def test_wrong_files_are_refused_in_one_line_that_says_how_to_get_the_right_one(published, tmp_path):
    first = "features.0.weight"
    contents = {
        "no tensor features.0.weight": {k: v for k, v in published.items() if k != first},
        r"features.0.weight has shape \(64, 12, 3, 3\), wanted \(64, 3, 3, 3\)": {first: torch.zeros(64, 12, 3, 3)},
        "features.0.weight is not of finite floats": {first: torch.full((64, 3, 3, 3), torch.nan)},
        "not a PyTorch checkpoint": b"text",
    }
    for number, (message, content) in enumerate(contents.items()):
        path = tmp_path / f"{number}.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(CheckpointError, match=message) as raised:
            vgg_weights.load(path)
        assert str(raised.value).startswith(str(path))
        assert "download.pytorch.org" in str(raised.value)
        assert "\n" not in str(raised.value)
    (tmp_path / "text.safetensors").write_bytes(b"text")
    for name, message in (("none.pth", "No such"), ("none.safetensors", "o such"), ("text.safetensors", "not a")):
        with pytest.raises(CheckpointError, match=message):
            vgg_weights.load(tmp_path / name)


def test_download_is_asked_for_checked_cached_and_never_repeated(server, file, tmp_path, monkeypatch):
    server.content = file.read_bytes()
    monkeypatch.setattr(vgg_weights, "SHA256", hashlib.sha256(server.content).hexdigest())
    with pytest.raises(CheckpointError, match=r"not on this machine; ask for its download \(--vgg19 download\)"):
        vgg_weights.load()
    assert server.requests == 0
    seen = []
    weights = vgg_weights.load(fetch=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(server.content), len(server.content))
    for again in (vgg_weights.load(), vgg_weights.load(fetch=True), vgg_weights.load(file)):
        assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert server.requests == 1
    cached = vgg_weights.cached_file()
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]
    cached.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is damaged: its sha256 is"):
        vgg_weights.load()
    vgg_weights.load(fetch=True)
    assert server.requests == 2


def test_failed_downloads_leave_nothing_and_say_what_to_do(server, file, monkeypatch):
    def refused(message):
        with pytest.raises(CheckpointError, match=message) as raised:
            vgg_weights.load(fetch=True)
        assert "\n" not in str(raised.value)
        assert f"get {vgg_weights.URL} by other means and name the file" in str(raised.value)
        assert list(vgg_weights.cached_file().parent.iterdir()) == []

    refused("cannot download .*Not Found")
    server.content = b"something else"
    refused("sent a file of sha256 .*, wanted dcbb9e9d.*: nothing kept")
    server.promised = 1000  # the line breaks
    refused("broke off after 14 of 1000 bytes")
    monkeypatch.setattr(vgg_weights, "URL", "http://127.0.0.1:9/vgg19.pth")
    refused("cannot download .*refused")


def test_published_hash_is_the_one_in_the_files_name():
    assert len(vgg_weights.SHA256) == 64
    assert vgg_weights.URL.endswith(f"download.pytorch.org/models/vgg19-{vgg_weights.SHA256[:8]}.pth")
    code = "import sys; import napari_dmgn.vgg_weights; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_new_model_is_what_a_training_starts_from(file, tmp_path):
    from skimage import data, io

    from napari_dmgn.training import TrainConfig, train

    start, pictures = tmp_path / "start.safetensors", tmp_path / "pictures"
    vgg_weights.new_model(start, replace(PRESETS["paper"], **NARROW), vgg19=file)
    pictures.mkdir()
    for i in range(3):
        io.imsave(pictures / f"{i}.png", data.astronaut()[:64, 100 * i : 100 * i + 64], check_contrast=False)
    settings = {"data": str(pictures), "run": str(tmp_path / "run"), "preset": "paper", "network": NARROW, "steps": 1}
    sizes = {"phases": ((1.0, 32, 1),), "validation_pictures": 1, "validation_crop": 32}
    trained = checkpoint.load(train(TrainConfig(**settings, **sizes, start=str(start)))).network
    before = checkpoint.load(start).network
    for name, tensor in vgg_weights.load(file).items():
        assert torch.equal(trained.head.vgg.state_dict()[name], tensor)
        assert torch.equal(before.head.vgg.state_dict()[name], tensor)
    assert not torch.equal(trained.head.mix.weight, before.head.mix.weight)


def test_command_line_makes_a_new_model(server, file, tmp_path, capsys, monkeypatch):
    output = tmp_path / "new.safetensors"
    command = ["models", "new", "-o", str(output), "--preset"]
    assert main([*command, "compact", "--task", "haze", "--seed", "3"]) == 0
    assert "untrained, preset compact" in capsys.readouterr().out
    header = checkpoint.read_header(output)
    assert (header.task, header.config) == ("haze", PRESETS["compact"])
    assert header.card["training"] == "none: random weights of seed 3, for a training to start from"
    assert main([*command, "compact"]) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main([*command, "compact", "--overwrite", "--vgg19", str(file)]) == 1
    assert "VGG-19's weights are named, but the network's head is 'learned'" in capsys.readouterr().err
    assert main([*command, "paper", "--overwrite"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("napari-dmgn: error: VGG-19's weights are not on this machine")
    assert error.count("\n") == 1
    server.content = file.read_bytes()
    monkeypatch.setattr(vgg_weights, "SHA256", hashlib.sha256(server.content).hexdigest())
    assert main([*command, "paper", "--overwrite", "--vgg19", "download", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(output)}
    assert checkpoint.read_header(output).config == PRESETS["paper"]
    assert main(["models", "info", str(output), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["card"]["vgg19"].startswith("torchvision's ")
    assert facts["bytes"] == output.stat().st_size


def test_info_of_a_preset_needs_no_torch_and_measures_on_request(capsys):
    code = (
        "import sys; from napari_dmgn.cli import main; status = main(['models', 'info', 'official-reflection']); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "gmac_of_plain_hypercolumn: 466.877" in told
    assert "receptive_field: 673" in told
    assert main(["models", "info", "compact", "--size", "512x256", "--measure", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["receptive_field_measured"] == facts["receptive_field"] == 2 * 327 + 1
    assert facts["parameters"] == 3_927_466
    assert facts["gmac"] == pytest.approx(2 * 7.7839, rel=1e-3)
    assert main(["models", "info", "compact", "--size", "512"]) == 2
    assert "expected WIDTHxHEIGHT" in capsys.readouterr().err
