"""What this process holds of the machine's memory, and whether there is enough left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
# Of a control group of version 2, as containers see their own.
_GROUP = Path("/sys/fs/cgroup")
# Of all memory: as long as so much is left, there is enough.
_RESERVE = 0.2


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


def is_short() -> bool:
    """Whether this machine, or container, has less memory left than this process holds.

    And less than a fifth of all: the largest may well hold half of it. False where neither says.
    """
    with contextlib.suppress(OSError):
        held = resident_bytes()
        room = [*_left_on_machine(), *_left_in_group()]
        return any(left < min(held, _RESERVE * total) for left, total in room)
    return False


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
