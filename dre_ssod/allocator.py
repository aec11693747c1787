"""Memory that is freed stays with the process, so that the next image or step takes it up again.

By default the C library hands large blocks back to the system at once and asks for new ones, whose
pages the kernel fills with zeros: four tenths of the time of an image, and a twelfth to a third of
that of a training step on a CPU (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# By mallopt(3) it turns trimming off; the largest number that an int holds would mean 2 GiB.
_NEVER_TRIMMED = -1
# The largest that is accepted wins; glibc has a limit, which differs between its versions.
_MMAP_THRESHOLDS = (2**30, 2**25)
# In bytes: glibc's own to begin with.
_LARGE = 2**17
_USER_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

# Of a control group of version 2, as containers see their own.
_GROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
# Of the memory of the machine: with less left, nothing is kept.
_RESERVE = 0.2

_is_kept = False


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for this process and for those that it forks.

    The process does not shrink between its peaks, which are up to a tenth higher in training.

    Returns:
        whether it does. Not where the C library is another one, or where the user has set it up by
        an environment variable (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``,
        ``GLIBC_TUNABLES``).
    """
    if any(name in os.environ for name in _USER_SETTINGS):
        return False
    global _is_kept
    _is_kept = _set(_M_TRIM_THRESHOLD, _NEVER_TRIMMED) and _keep_large_blocks()
    return _is_kept


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """For a first step: what it leaves behind must not lie scattered over the memory of the others.

    Large blocks are the system's for that long, so that small ones that stay, such as what kernels
    know of their shapes, lie beside each other. Else they lie between the large ones, which find no
    room there again, and the process grows. Does nothing where freed memory is not kept.
    """
    apart = _is_kept and _set(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        if apart:
            _keep_large_blocks()


def relieve_machine() -> bool:
    """Keep no freed memory any more, and hand back what is kept, if the machine has little left.

    The more sizes the images of a training have, the more gaps there are between the blocks that it
    keeps: up to twice what a step needs. Without them a step takes up to twice as long, which is
    better than to be killed.

    Returns:
        whether this call has done so.
    """
    global _is_kept
    if not _is_kept or not is_short():
        return False
    _is_kept = False
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, _LARGE)
    ctypes.CDLL(None).malloc_trim(0)
    return True


def is_short() -> bool:
    """Whether this machine, or container, has less memory left than this process holds.

    And less than a fifth of all: the largest may well hold half of it.
    """
    with contextlib.suppress(OSError):
        held = _held()
        room = [*_left_on_machine(), *_left_in_group()]
        return any(left < min(held, _RESERVE * total) for left, total in room)
    return False


def _held() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _left_on_machine() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError, LookupError, ValueError):
        found = _numbers(_MEMINFO)
        yield found["MemAvailable:"] * 1024, found["MemTotal:"] * 1024


def _left_in_group() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError, LookupError, ValueError):
        # "max" where there is no limit.
        total = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        # Pages of files that can be dropped are counted as used.
        yield total - used + _numbers(_GROUP / "memory.stat")["inactive_file"], total


def _numbers(file: Path) -> dict[str, int]:
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}


def _keep_large_blocks() -> bool:
    return any(_set(_M_MMAP_THRESHOLD, threshold) for threshold in _MMAP_THRESHOLDS)


def _set(parameter: int, value: int) -> bool:
    """Whether the C library has taken up a setting of its allocator."""
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
