"""That freed memory is kept; seen from outside, in processes that the setting ends with.

They load the one module, without the package around it and all that it imports.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tests import ROOT

LOADED = f"""
import runpy
keep_freed_memory = runpy.run_path({str(ROOT / "dre_ssod" / "allocator.py")!r})["keep_freed_memory"]
"""
# Touches the pages of a block and frees it, over and over; prints how many were new to the process.
PROGRAM = """
import resource
import numpy as np
kept = keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(40 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""
# Frees 3 GiB that it has not touched; prints the address space before and after, in GiB.
LARGE_PROGRAM = """
import ctypes
import resource
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype = ctypes.c_void_p
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize() / 2**30
keep_freed_memory()
start = size()
blocks = [malloc(ctypes.c_size_t(2**24)) for _ in range(192)]
assert all(blocks)
full = size()
for block in reversed(blocks):
    free(ctypes.c_void_p(block))
print(full - start, size() - start)
"""
BLOCK_PAGES = 40 * 2**20 // 4096


def words_of(program: str, **environment: str) -> list[str]:
    # No huge pages, of which one fault would bring in 512.
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    clean.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-W", "ignore", "-c", LOADED + program]
    environment = {**clean, "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    return subprocess.check_output(command, text=True, env=environment).split()


def run(**environment: str) -> tuple[bool, int]:
    kept, faults = map(int, words_of(PROGRAM, **environment))
    return bool(kept), faults


glibc_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)


@glibc_only
def test_freed_memory_is_taken_up_again() -> None:
    kept, faults = run()
    assert kept
    assert faults < BLOCK_PAGES


@glibc_only
def test_more_than_two_gibibytes_are_kept_as_well() -> None:
    taken, kept = map(float, words_of(LARGE_PROGRAM))
    assert taken > 2.9
    assert kept == pytest.approx(taken, abs=0.1)


@glibc_only
def test_settings_of_the_user_are_left_alone() -> None:
    kept, faults = run(MALLOC_TRIM_THRESHOLD_=str(2**17))
    assert not kept
    assert faults > 10 * BLOCK_PAGES
