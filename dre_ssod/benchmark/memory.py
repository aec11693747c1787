"""Peak memory of a piece of work: of the GPU's allocator, or of the process on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_bytes(task: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``task`` needs at its peak beyond what is in use before it.

    On the CPU this is resident memory, so tensors that live on are counted where they begin.

    Raises:
        OSError: on the CPU of a system without Linux's ``/proc``.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        return torch.cuda.max_memory_allocated(device) - before
    _CLEAR_REFS.write_text("5")  # sets the peak to the present
    before = resident_bytes("VmRSS")
    task()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str = "VmRSS") -> int:
    """Resident memory of this process ("VmRSS"), or its peak ("VmHWM"), in bytes."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def private_bytes(process: int) -> int:
    """Memory of a process that it shares with no other, in bytes."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    return sum(
        int(line.split()[1]) * 1024
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
