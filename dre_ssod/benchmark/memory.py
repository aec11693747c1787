"""Memory: the peak of tensors in a piece of work, and what a process has to itself."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(task: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that ``task`` needs at its peak beyond what is in use before it.

    Counted by PyTorch's allocator; what was there before and goes is no gain. On a CPU, work space
    inside an operator is not a tensor and not counted; the resident memory of the process says
    nothing, as freed memory stays with it (see :mod:`dre_ssod.memory.allocator`).
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


def private_bytes(process: int) -> int:
    """Memory of a process that it shares with no other, in bytes."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    return sum(
        int(line.split()[1]) * 1024
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
