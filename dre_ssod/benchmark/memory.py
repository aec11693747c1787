"""Memory: the peak of tensors in a piece of work, and what a process holds."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_STATUS = Path("/proc/self/status")


def peak_bytes(task: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that ``task`` needs at its peak beyond what is in use before it.

    Counted by PyTorch's allocator; what was there before and goes is no gain. On a CPU, work space
    inside an operator is not a tensor and not counted; the resident memory of the process says
    nothing, as freed memory stays with it (see :mod:`dre_ssod.allocator`).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task()
    results = profiler.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in changes), initial=0))


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process, now or at its peak so far.

    Raises:
        OSError: on a system without Linux's ``/proc``.
    """
    name = "VmHWM" if peak else "VmRSS"
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


def private_bytes(process: int) -> int:
    """Memory of a process that it shares with no other, in bytes."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    return sum(
        int(line.split()[1]) * 1024
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
