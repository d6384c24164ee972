"""What "auto" means, with and without the hardware."""

import pytest
import torch

from napari_dmgn import devices


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_with_gpus(two_gpus):
    assert devices.resolve_device() == devices.resolve_device("auto") == "cuda"
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert devices.resolve_device(name) == name
    with pytest.raises(ValueError, match="'cuda:2' is not there: 2 CUDA devices"):
        devices.resolve_device("cuda:2")
    assert devices.resolve_precision("auto", "cuda:1") == "bf16"
    assert devices.free_memory("cuda:1") == 123


def test_without_gpus(no_gpu):
    assert devices.resolve_device() == "cpu"
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(ValueError, match=f"'{name}' is not there"):
            devices.resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu0", "CPU", "meta", "xla"])
def test_what_is_no_device_is_refused(name, no_gpu):
    with pytest.raises(ValueError, match=f"un(known|supported) device '{name}'; wanted auto, cpu"):
        devices.resolve_device(name)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_bf16_where_the_cpu_computes_in_it(bf16, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert devices.resolve_precision("auto", "cpu") == ("bf16" if bf16 or amx else "float32")
    assert devices.resolve_precision("bf16", "cpu") == "bf16"
    assert devices.resolve_precision("float32", "cpu") == "float32"


@pytest.mark.parametrize("name", ["bfloat16", "half", "", "float64"])
def test_what_is_no_precision_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown precision '{name}'; wanted one of auto, bf16, float32"):
        devices.resolve_precision(name, "cpu")


def test_free_memory_of_the_machine_is_sensible():
    assert 1 << 20 < devices.free_memory("cpu") < 1 << 50
