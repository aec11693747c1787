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

PATH = ROOT / "dre_ssod" / "memory" / "allocator.py"
LOADED = f"""
import importlib.util
import sys
spec = importlib.util.spec_from_file_location("allocator", {str(PATH)!r})
allocator = sys.modules["allocator"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(allocator)
"""
# Touches the pages of a block and frees it, over and over; prints how many were new to the process.
PROGRAM = """
import resource
import numpy as np
kept = allocator.keep_freed_memory()
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
allocator.keep_freed_memory()
start = size()
blocks = [malloc(ctypes.c_size_t(2**24)) for _ in range(192)]
assert all(blocks)
full = size()
for block in reversed(blocks):
    free(ctypes.c_void_p(block))
print(full - start, size() - start)
"""
# Two steps, the second of larger blocks, and what stays of each; prints the memory held, in MiB.
SCATTERED_PROGRAM = """
import contextlib
import numpy as np
apart = sys.argv[1] == "apart"
allocator.keep_freed_memory()
stay = []
def step(number, size):
    blocks = []
    for _ in range(number):
        blocks.append(np.ones(size * 2**20, np.uint8))
        stay.append(bytearray(1000))
with allocator.large_blocks_apart() if apart else contextlib.nullcontext():
    step(64, 4)
step(12, 20)
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * 4096 / 2**20)
"""
BLOCK_PAGES = 40 * 2**20 // 4096


def words_of(program: str, *words: str, **environment: str) -> list[str]:
    # No huge pages, of which one fault would bring in 512.
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    clean.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-W", "ignore", "-c", LOADED + program, *words]
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


@glibc_only
def test_small_blocks_of_a_first_step_do_not_scatter_the_large_ones() -> None:
    (scattered,) = map(float, words_of(SCATTERED_PROGRAM, "beside each other"))
    (apart,) = map(float, words_of(SCATTERED_PROGRAM, "apart"))
    # 64 blocks of 4 MiB had small ones between them: none of 12 of 20 MiB finds room there.
    assert scattered > apart + 150.0


@glibc_only
def test_after_a_first_step_freed_memory_is_kept_again() -> None:
    program = PROGRAM.replace("\nfaults()\n", "\nwith allocator.large_blocks_apart(): faults()\n")
    program = program.replace("print(int(kept), faults())", "faults(); print(int(kept), faults())")
    kept, faults = map(int, words_of(program))
    assert kept
    assert faults < BLOCK_PAGES


@glibc_only
def test_whoever_does_not_keep_freed_memory_has_no_other_first_step() -> None:
    program = PROGRAM.replace("allocator.keep_freed_memory()", "0")
    program = program.replace("\nfaults()\n", "\nwith allocator.large_blocks_apart(): faults()\n")
    kept, faults = map(int, words_of(program))
    assert not kept
    # glibc's threshold has risen by itself, up to 32 MiB, and these blocks are larger.
    assert faults > 10 * BLOCK_PAGES


@glibc_only
def test_what_was_kept_is_handed_back_once() -> None:
    program = PROGRAM.replace(
        "faults()\nprint",
        """faults()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20
before = resident()
handed = [allocator.hand_back(), allocator.hand_back()]
print(*map(int, handed), before - resident(), end=" ")
print""",
    )
    first, second, handed_back, kept, faults = map(int, words_of(program))
    assert (first, second, kept) == (1, 0, 1)
    assert handed_back > 30
    assert faults > 10 * BLOCK_PAGES
