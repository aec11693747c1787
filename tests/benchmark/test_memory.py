from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dre_ssod.benchmark.memory import peak_bytes, private_bytes
from dre_ssod.memory.machine import resident_bytes

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
MEGABYTE = 2**20


def test_the_peak_is_of_all_that_lives_at_one_time() -> None:
    kept: list[torch.Tensor] = []

    def task() -> None:
        torch.ones(5 * MEGABYTE, dtype=torch.uint8)
        first = torch.ones(2 * MEGABYTE, dtype=torch.uint8)
        second = torch.ones(4 * MEGABYTE, dtype=torch.uint8)
        del first
        kept.append(torch.ones(MEGABYTE, dtype=torch.uint8))
        del second

    # 5 alone, 2 + 4 together, then 4 + 1.
    assert peak_bytes(task, torch.device("cpu")) == 6 * MEGABYTE


def test_what_was_there_before_does_not_count_and_is_no_gain_when_it_goes() -> None:
    kept = [torch.ones(8 * MEGABYTE, dtype=torch.uint8)]

    def task() -> None:
        kept.clear()
        torch.ones(3 * MEGABYTE, dtype=torch.uint8)

    assert peak_bytes(task, torch.device("cpu")) == 3 * MEGABYTE


@needs_proc
def test_what_lives_on_is_resident_and_private() -> None:
    before, private = resident_bytes(), private_bytes(os.getpid())
    # Of the system: an allocator may have kept as much from earlier tests, which is resident.
    kept = mmap.mmap(-1, 256 * MEGABYTE)
    np.frombuffer(kept, np.uint8)[:] = 1
    # A busy system may take back pages of files in the meantime.
    assert resident_bytes() - before > 200 * MEGABYTE
    assert private_bytes(os.getpid()) - private > 200 * MEGABYTE
    assert kept[-1] == 1
