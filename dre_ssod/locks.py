"""One writer per folder: locks that the system releases with the process, however it ends.

They are POSIX record locks. The kernel holds them for the process, so that neither a killed run nor
a loading process that outlives it keeps a folder closed, and NFS, SMB, CephFS and GPFS take them
to the server, so that they hold between machines. Where a file system has none (some FUSE mounts),
a note says so; where it keeps them to one machine (NFS mounted with ``nolock``, Lustre with
``localflock``, sshfs), machines do not see each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from dre_ssod.errors import FolderInUseError
from dre_ssod.files import naming_failures

Holder = dict[str, Any]
"""Who has a lock: ``host``, ``process`` and ``since``, in JSON; empty where nobody says."""
_BYTE = 2**30
"""The byte that is locked: behind the content, which SMB would else keep others from reading."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_held: dict[Path, Holder] = {}
"""Lock files of this process. They must not be opened again: closing one releases its lock."""


@contextlib.contextmanager
def holding(path: Path) -> Iterator[str | None]:
    """While entered, this process is the only one that has the lock of a file.

    The file stays behind, empty; after a kill it still names the process.

    Args:
        path: of the lock file, in a folder that exists.

    Yields:
        What the user should know about the lock; None if it is as it should be.

    Raises:
        FolderInUseError: if another process has it, with its host, its number and since when.
        FileError: if the file cannot be written.
    """
    path = path.resolve()
    if path in _held:
        raise FolderInUseError(_in_use(path.parent, _held[path]))
    with naming_failures(path):
        file = path.open("a+", encoding="utf-8")
    with file:
        note = _take(file, path.parent)
        holder: Holder = {"host": platform.node(), "process": os.getpid(), "since": now()}
        with naming_failures(path):
            file.truncate(0)
            file.write(json.dumps(holder))
            file.flush()
        _held[path] = holder
        try:
            yield note
        finally:
            del _held[path]
            file.truncate(0)


@contextlib.contextmanager
def taking_turns(path: Path) -> Iterator[None]:
    """While entered, other processes that enter wait; for the moments of reading and writing.

    Args:
        path: of the lock file, in a folder that exists.
    """
    with naming_failures(path):
        file = path.open("a", encoding="utf-8")
    with file:
        # Without locks, as :func:`holding` has said, all that is left is to be quick.
        with contextlib.suppress(OSError):
            _lock(file, fcntl.LOCK_EX)
        yield


class Claims:
    """Numbered pieces of work that several processes share, each taken by one of them at a time.

    Piece n is byte n of a lock file: what a process has ends with it, however it ends, and on
    another machine as soon as the file server notices. Use as a context manager.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the lock file, in a folder that exists; opened once per process, see ``_held``.
        """
        with naming_failures(path):
            self._file = path.open("a", encoding="utf-8")
        self._path = path
        self.note: str | None = None
        """What the user should know about the locks, once the first was asked for."""

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, number: int) -> bool:
        """Whether this process has the piece now, and no other; True where nobody can know."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.note = (
                f"The file system of {self._path.parent} has no locks ({error.strerror}): several "
                "processes may do the same work, to the same result."
            )
        return True

    def give_back(self, number: int) -> None:
        """Let others take a piece."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


def now() -> str:
    """Local time with its offset from UTC, to the second (ISO 8601)."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _take(file: IO[str], folder: Path) -> str | None:
    """Take the lock or refuse; returns the note of :func:`holding`."""
    try:
        _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise FolderInUseError(_in_use(folder, _read_holder(file))) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return (
            f"The file system of {folder} has no locks ({error.strerror}): see to it that nothing "
            "else writes there."
        )
    former = _read_holder(file)
    if not former or former.get("host") == platform.node():
        return None
    return (
        f"{_name(former)} has been writing to {folder} and never said that it ended. It was "
        "killed, or the file system keeps its locks to one machine: see to it that it is gone."
    )


def _lock(file: IO[str], operation: int) -> None:
    fcntl.lockf(file, operation, 1, _BYTE)


def _read_holder(file: IO[str]) -> Holder:
    file.seek(0)
    try:
        found = json.loads(file.read())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _in_use(folder: Path, holder: Holder) -> str:
    who = f"{_name(holder)} writes there" if holder else "another process writes there"
    return f"{folder} is in use: {who}. Wait for it, end it, or choose another folder."


def _name(holder: Holder) -> str:
    return (
        f"process {holder.get('process')} of the machine {holder.get('host')!r}, started "
        f"{holder.get('since')},"
    )
