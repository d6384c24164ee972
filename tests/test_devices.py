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


@pytest.mark.parametrize("device", [None, 5, ["cpu"]])
def test_a_device_is_a_string(device):
    with pytest.raises(ValueError, match=r"device is .*; wanted auto, cpu"):
        devices.resolve_device(device)


def test_the_first_cpu_is_the_cpu():
    assert devices.resolve_device("cpu:0") == devices.resolve_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("vendor", ["GenuineIntel", "AuthenticAMD"])
@pytest.mark.parametrize("linux", [False, True])
@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_bf16_where_the_cpu_is_faster_in_it(amx, avx512, linux, vendor, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(devices, "_CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices.platform, "processor", lambda: "" if linux else f"Model 25, {vendor}")
    if linux:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    wanted = amx or (avx512 and vendor != "GenuineIntel")
    assert devices.resolve_precision("auto", "cpu") == ("bf16" if wanted else "float32")
    assert devices.resolve_precision("bf16", "cpu") == "bf16"
    assert devices.resolve_precision("float32", "cpu") == "float32"


@pytest.mark.parametrize("name", ["bfloat16", "half", "", "float64"])
def test_what_is_no_precision_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown precision '{name}'; wanted one of auto, bf16, float32"):
        devices.resolve_precision(name, "cpu")


def test_free_memory_of_the_machine_is_sensible():
    assert 1 << 20 < devices.free_memory("cpu") < 1 << 50


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_heeds_the_limits_of_containers(version, tmp_path, monkeypatch):
    names = ("memory__max", "memory__current") if version == 2 else ("memory__limit_in_bytes", "memory__usage_in_bytes")
    cache = "inactive_file" if version == 2 else "total_inactive_file"
    root = tmp_path / "groups" if version == 2 else tmp_path / "groups" / "memory"
    write(tmp_path, meminfo="MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    write(tmp_path, own="0::/slice/job\n" if version == 2 else "5:cpu:/other\n3:memory:/slice/job\n")
    monkeypatch.setattr(devices, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(devices, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(devices, "_GROUPS", tmp_path / "groups")
    assert devices.free_memory("cpu") == 8000 * 1024  # no such groups here: inside a container, say
    stat = f"anon 5\n{cache} 1000\n"
    write(root / "slice" / "job", **dict(zip(names, ("max", "70000"), strict=True)), memory__stat=stat)
    assert devices.free_memory("cpu") == 8000 * 1024
    write(root / "slice", **dict(zip(names, ("500000", "100000"), strict=True)), memory__stat=stat)
    assert devices.free_memory("cpu") == 401_000
    write(root, **dict(zip(names, ("50000", "60000"), strict=True)), memory__stat=stat)
    assert devices.free_memory("cpu") == 0
