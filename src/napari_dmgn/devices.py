"""What "auto" means on this machine: device, precision and how much memory is free."""

from __future__ import annotations

from pathlib import Path

__all__ = ["free_memory", "resolve_device", "resolve_precision"]

PRECISIONS = ("auto", "bf16", "float32")


def resolve_device(device: str = "auto") -> str:
    """Return a torch device string for "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises
    ------
    ValueError
        Not a device, or one that this machine lacks.
    """
    import torch

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
    return str(parsed)


def resolve_precision(precision: str, device: str) -> str:
    """Return "bf16" or "float32" for a precision ("auto", "bf16", "float32") on a device.

    "auto" is bf16 where the hardware computes in it.

    Raises
    ------
    ValueError
        Not a precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if _has_bf16(device) else "float32"


def _has_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    if device == "cpu":
        # On other CPUs bf16 is emulated, and slower than float32.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def free_memory(device: str) -> int:
    """Return the bytes of memory that are free on a device now."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # a laptop's spare memory, where the system does not tell
