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

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# By mallopt(3) it turns trimming off; the largest number that an int holds would mean 2 GiB.
_NEVER_TRIMMED = -1
# The largest that is accepted wins; glibc has a limit, which differs between its versions.
_MMAP_THRESHOLDS = (2**30, 2**25)
# In bytes: glibc's own to begin with.
_LARGE = 2**17
_USER_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

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


def hand_back() -> bool:
    """Keep no freed memory any more, and hand back what is kept.

    The more sizes the images of a training have, the more gaps there are between the blocks that it
    keeps: up to twice what a step needs. Without them a step takes up to twice as long, which is
    better than to be killed.

    Returns:
        whether anything was kept.
    """
    global _is_kept
    if not _is_kept:
        return False
    _is_kept = False
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, _LARGE)
    ctypes.CDLL(None).malloc_trim(0)
    return True


def _keep_large_blocks() -> bool:
    return any(_set(_M_MMAP_THRESHOLD, threshold) for threshold in _MMAP_THRESHOLDS)


def _set(parameter: int, value: int) -> bool:
    """Whether the C library has taken up a setting of its allocator."""
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
