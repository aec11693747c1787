"""That freed memory is kept; seen from outside, in processes that the setting ends with.

They load the one module, without the package around it and all that it imports.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dre_ssod import allocator
from tests import ROOT

LOADED = f"""
import importlib.util
import sys
spec = importlib.util.spec_from_file_location("allocator", {str(ROOT / "dre_ssod/allocator.py")!r})
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
def test_a_machine_that_has_little_left_gets_what_was_kept() -> None:
    program = PROGRAM.replace(
        "faults()\nprint",
        """faults()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20
before = resident()
allocator.is_short = lambda: True
relieved = [allocator.relieve_machine(), allocator.relieve_machine()]
print(*map(int, relieved), before - resident(), end=" ")
print""",
    )
    first, second, handed_back, kept, faults = map(int, words_of(program))
    assert (first, second, kept) == (1, 0, 1)
    assert handed_back > 30
    assert faults > 10 * BLOCK_PAGES


@glibc_only
def test_a_machine_that_has_enough_left_keeps_it() -> None:
    program = PROGRAM.replace(
        "faults()\nprint",
        "faults()\nallocator.is_short = bool\nassert not allocator.relieve_machine()\nprint",
    )
    kept, faults = map(int, words_of(program))
    assert kept
    assert faults < BLOCK_PAGES


MEMINFO = """MemTotal:        1000 kB
MemFree:           20 kB
MemAvailable:    {} kB
HugePages_Total: 0
"""


@pytest.mark.parametrize(
    ("available", "limit", "used", "held", "short"),
    [
        (300, None, 0, 600, False),
        (199, None, 0, 600, True),
        # Others have it.
        (199, None, 0, 150, False),
        (300, "max", 900, 600, False),
        # 100 of what is used are pages of files.
        (300, "1000", 850, 600, False),
        (300, "1000", 950, 600, True),
    ],
)
def test_memory_is_short_on_a_machine_or_in_a_container(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    available: int,
    limit: str | None,
    used: int,
    held: int,
    short: bool,
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO.format(available))
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 100\n")
    monkeypatch.setattr(allocator, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(allocator, "_GROUP", tmp_path)
    # Sizes of a machine are in KiB, those of a container in bytes.
    monkeypatch.setattr(allocator, "_held", lambda: held * (1 if limit == "1000" else 1024))
    assert allocator.is_short() == short


def test_where_nothing_is_said_of_memory_it_is_not_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(allocator, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(allocator, "_GROUP", tmp_path)
    assert not allocator.is_short()
