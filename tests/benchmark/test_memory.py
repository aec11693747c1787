from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dre_ssod.benchmark.memory import peak_bytes, private_bytes, resident_bytes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)
MEGABYTE = 2**20


def test_the_peak_counts_what_is_freed_again() -> None:
    def task() -> None:
        torch.ones(64 * MEGABYTE // 4)

    task()
    peak = peak_bytes(task, torch.device("cpu"))
    assert 60 * MEGABYTE < peak < 80 * MEGABYTE


def test_an_earlier_peak_is_forgotten() -> None:
    torch.ones(128 * MEGABYTE // 4)
    assert peak_bytes(lambda: None, torch.device("cpu")) < 8 * MEGABYTE


def test_what_lives_on_is_resident_and_private() -> None:
    before, private = resident_bytes(), private_bytes(os.getpid())
    kept = torch.ones(64 * MEGABYTE // 4)
    assert resident_bytes() - before > 60 * MEGABYTE
    assert private_bytes(os.getpid()) - private > 60 * MEGABYTE
    assert kept[-1] == 1.0


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(OSError, match="VmNothing"):
        resident_bytes("VmNothing")
