"""What "auto" means on this machine: device, precision and how much memory is free."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from napari_dmgn.words import brief

__all__ = ["free_memory", "resolve_device", "resolve_precision"]

_CPUS = Path("/proc/cpuinfo")
_MEMORY = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

PRECISIONS = ("auto", "bf16", "float32")


def resolve_device(device: str = "auto") -> str:
    """Return a torch device string for "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        Not a device, or one that this machine lacks.
    """
    import torch

    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device is {brief(device)}; wanted auto, cpu, cuda, cuda:N or mps")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {device!r}; wanted auto, cpu, cuda or cuda:N") from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r} is not there: {torch.cuda.device_count()} CUDA devices")
    if parsed.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not there")
    if parsed.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"unsupported device {device!r}; wanted auto, cpu, cuda, cuda:N or mps")
    return "cpu" if parsed.type == "cpu" else str(parsed)  # cpu:0 is the same one


def resolve_precision(precision: str, device: str) -> str:
    """Return "bf16" or "float32" for a precision ("auto", "bf16", "float32") on a device.

    "auto" is bf16 where the hardware is faster in it than in float32: GPUs that compute in it, and CPUs
    with AMX, or with AVX512-BF16 unless they are Intel's.

    Raises
    ------
    ValueError
        Not a precision.
    """
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"unknown precision {brief(precision)}; wanted one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if _has_bf16(device) else "float32"


def _has_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    if device == "cpu":
        # Without either, bf16 is emulated. Intel's cores multiply pairs of bf16 at half the rate of float32's
        # fused multiply-adds, so that where AMX is hidden from us (a virtual machine) float32 takes 0.6 of the time.
        amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        return bool(amx or (avx512 and not _made_by_intel()))
    return False


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in _CPUS.read_text()
    except OSError:  # not Linux
        return "GenuineIntel" in platform.processor()


def free_memory(device: str) -> int:
    """Return the bytes of memory that are free on a device now; of the CPU's, those that the process may take."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_available()]
    with contextlib.suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text().splitlines():
            free += _group_limits(*line.split(":", 2)[1:])
    return max(min(free), 0)


def _available() -> int:
    try:
        for line in _MEMORY.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # a laptop's spare memory, where the system does not tell


def _group_limits(controllers: str, path: str) -> list[int]:
    """What the control groups that a container or a batch system sets leave, from the own one upwards."""
    if controllers == "":
        root, most, used, cache = _GROUPS, "memory.max", "memory.current", "inactive_file"
    elif controllers == "memory":
        root, most, used = _GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        cache = "total_inactive_file"
    else:
        return []
    own = root / path.lstrip("/")
    free = []
    for folder in (own, *own.parents):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number; inside a container the path is not there
            limit, taken = (int((folder / name).read_text()) for name in (most, used))
            # Files in the cache are given up when memory is wanted.
            lines = (folder / "memory.stat").read_text().splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.split()[0] == cache)
            free.append(limit - taken + cached)
        if folder == root:
            break
    return free
