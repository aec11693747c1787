"""Copies of objects on this machine's disk, shared by all processes, up to a bound.

``$DRE_SSOD_CACHE`` names the folder (default: ``~/.cache/dre_ssod``), ``$DRE_SSOD_CACHE_GIB`` the
bound (default: 20). The copy of an object lies under a hash of its address and is named after its
content, so that a changed object is another copy; where its store says nothing but a size, it is
fetched whenever the store would be asked. Of the copy of a part of an object, the hash is of the
content's name as well.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from dre_ssod.errors import ConfigError
from dre_ssod.files import PARTIAL, naming_failures
from dre_ssod.locks import taking_turns
from dre_ssod.stores.objects import (
    StoreError,
    ask,
    describe,
    has_identity,
    identity,
    read_range,
)

FOLDER_VARIABLE, BOUND_VARIABLE = "DRE_SSOD_CACHE", "DRE_SSOD_CACHE_GIB"
TRUSTED_S = 86400.0
"""How long after the store was asked the copy of a picture is taken without asking again."""
IN_USE_S = 60.0
"""A copy is not removed so soon after the store was asked: somebody is about to open it."""
LARGE = 2**24
"""Bytes from which on only one process fetches an object, and the others wait for it."""
_LOCK = "lock"
_DERIVED = "shards"
# Share of the bound that a clearing frees, and that is written between two, on average.
_SLACK = 0.05
_ABANDONED_S = 86400.0
_TELLING = threading.Lock()

logger = logging.getLogger(__name__)


class _Copy(NamedTuple):
    checked: float
    size: int
    path: Path


@dataclass(frozen=True)
class Cache:
    """A folder of copies.

    Attributes:
        folder: made where needed.
        bound: bytes; exceeded by what is in use, and by a few per cent at most else.
    """

    folder: Path
    bound: float

    @classmethod
    def from_environment(cls) -> Cache:
        """The one that the environment names.

        Raises:
            ConfigError: if the bound is no positive number.
        """
        folder = os.environ.get(FOLDER_VARIABLE) or "~/.cache/dre_ssod"
        text = os.environ.get(BOUND_VARIABLE) or "20"
        try:
            bound = float(text)
        except ValueError:
            bound = 0.0
        if not 0 < bound < float("inf"):
            raise ConfigError(f"${BOUND_VARIABLE} is {text!r}; it must be a number of GiB above 0")
        return cls(Path(folder).expanduser(), bound * 2**30)

    @property
    def derived(self) -> Path:
        """The folder of what was made of many objects: removed last, since that asks most."""
        return self.folder / _DERIVED

    def find(self, address: str, trusted_s: float) -> Path | None:
        """The copy of an object, if the store was asked about it so many seconds ago at most."""
        with os.scandir(self._place(address)) as entries:
            copies = [_copy(entry) for entry in entries if not entry.name.endswith(_LOCK)]
        newest = max(filter(_is_whole, copies), default=None)
        return newest.path if newest and time.time() - newest.checked < trusted_s else None

    def update(self, address: str) -> Path:
        """The copy of an object as it is now, fetched unless there is one that surely is the same.

        Raises:
            FileNotFoundError: if there is no such object.
            IsADirectoryError: if it is a folder.
            StoreError: if the store cannot be asked.
            FileError: if the copy cannot be written.
        """
        found = describe(address)
        if found["type"] != "file":
            raise IsADirectoryError(f"{address}: is a folder of objects")
        place, size = self._place(address), found.get("size")
        # The end of the name keeps the extension, by which readers of weights go.
        end = address.partition("::")[0].rpartition("/")[2][-50:]
        path = place / f"{identity(found)}.{'' if size is None else size}.{end}"

        def get(partial: Path) -> None:
            ask(address, lambda system, inner: system.get_file(inner, str(partial)))
            if size not in (None, got := partial.stat().st_size):
                raise StoreError(f"{address}: came with {got} of its {size} bytes; start again")

        with naming_failures(path):
            place.mkdir(parents=True, exist_ok=True)
            with taking_turns(place / _LOCK) if (size or LARGE) >= LARGE else nullcontext():
                if not (has_identity(found) and self._keep(path, size)):
                    self._fetch(path, get)
        return path

    def note(self, address: str, description: dict[str, Any]) -> str:
        """Remember what the store has just said of an object of which parts are read.

        Returns:
            The :func:`identity` of the object; of a store that gives nothing but a size, a warning
            says so.

        Raises:
            FileError: if it cannot be written.
        """
        content = identity(description)
        if not has_identity(description):
            # Of many threads one alone says it.
            with _TELLING:
                _warn_of_size_alone("/".join(address.split("/")[:3]))
        # A copy of no bytes: all that is to be known is its name.
        path = self._place(_content(address)) / f"{content}.0."
        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return content

    def content(self, address: str) -> str:
        """The :func:`identity` of an object, for which the store is asked once in ``TRUSTED_S``.

        Raises:
            FileNotFoundError: if there is no such object.
            StoreError: if the store cannot be asked.
            FileError: as of :meth:`note`.
        """
        try:
            known = self.find(_content(address), TRUSTED_S)
        except FileNotFoundError:
            known = None
        if known is not None:
            return known.name.partition(".")[0]
        return self.note(address, describe(address))

    def update_part(self, address: str, start: int, size: int, content: str) -> Path:
        """The copy of ``size`` bytes of an object, fetched.

        Args:
            content: the :func:`identity` of the object.

        Raises:
            FileNotFoundError: if there is no such object.
            EOFError: if it ends before.
            StoreError: if the store cannot be asked.
            FileError: if the copy cannot be written.
        """
        path = self._place(_part(address, start, size, content)) / f"part.{size}."

        def get(partial: Path) -> None:
            found = read_range(address, start, start + size)
            if len(found) != size:
                raise EOFError(f"{address} ends before byte {start + size}")
            partial.write_bytes(found)

        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(path, get)
        return path

    def _keep(self, path: Path, size: int | None) -> bool:
        """Have :meth:`clear` leave a copy alone for now; False if there is no whole one."""
        with taking_turns(self.folder / _LOCK):
            if not path.exists() or size not in (None, path.stat().st_size):
                return False
            os.utime(path)
            return True

    def _fetch(self, path: Path, get: Callable[[Path], None]) -> None:
        """Put what ``get`` writes into a file in its place, whole."""
        partial = self.folder / f"{secrets.token_hex(8)}{PARTIAL}"
        try:
            get(partial)
            got = partial.stat().st_size
            with taking_turns(self.folder / _LOCK):
                path.parent.mkdir(exist_ok=True)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        # Not Python's own generator: training draws from it.
        if secrets.randbelow(2**30) / 2**30 < got / (_SLACK * self.bound):
            self.clear()

    def clear(self) -> None:
        """Remove the copies that were asked about longest ago, until the rest is in the bound.

        What is in :attr:`derived` goes after all of them.
        """
        with taking_turns(self.folder / _LOCK):
            now = time.time()
            copies = sorted(self._all(), key=lambda copy: (copy.path.parent == self.derived, copy))
            total = sum(copy.size for copy in copies)
            left = total if total <= self.bound else (1 - _SLACK) * self.bound
            for copy in copies:
                age, is_note = now - copy.checked, not copy.size
                abandoned = (is_note or copy.path.suffix == PARTIAL) and age > _ABANDONED_S
                # To remove a note frees nothing, and costs a question.
                if (total > left and age > IN_USE_S and not is_note) or abandoned:
                    copy.path.unlink(missing_ok=True)
                    total -= copy.size

    def _all(self) -> Iterator[_Copy]:
        for folder, _, files in os.walk(self.folder):
            locks = (f".{_LOCK}",) if Path(folder) == self.derived else ()
            for name in files:
                if name != _LOCK and not name.endswith(locks):
                    found = os.stat(os.path.join(folder, name))
                    yield _Copy(found.st_mtime, found.st_size, Path(folder, name))

    def _place(self, address: str) -> Path:
        name = sha256(address.encode(errors="surrogateescape")).hexdigest()
        return self.folder / name[:2] / name[2:40]


@functools.cache
def _warn_of_size_alone(store: str) -> None:
    """Once for a store."""
    logger.warning(
        "%s gives neither a date nor a checksum of its files: what was read of a shard is taken "
        "again while its size stays the same, whatever is in it now. Give a changed shard another "
        "name, or empty $%s",
        *(store, FOLDER_VARIABLE),
    )


def _part(address: str, start: int, size: int, content: str) -> str:
    """What a part of an object is known by in the cache."""
    return f"{address}:{start}+{size}@{content}"


def _content(address: str) -> str:
    """What the identity of an object is known by in the cache."""
    return f"{address}@"


def _copy(entry: os.DirEntry[str]) -> _Copy:
    found = entry.stat()
    return _Copy(found.st_mtime, found.st_size, Path(entry.path))


def _is_whole(copy: _Copy) -> bool:
    """Whether a copy is as long as its name says: a machine that went down may have cut it."""
    stated = copy.path.name.split(".")[1]
    return stated in ("", str(copy.size))


def local_copy(address: str) -> str:
    """The path of a copy of an object as it is now.

    Raises:
        FileNotFoundError: if there is no such object.
        IsADirectoryError: if it is a folder.
        StoreError: if the store cannot be asked.
        FileError: if the copy cannot be written.
    """
    return str(Cache.from_environment().update(address))


def open_copy(address: str) -> IO[bytes]:
    """A copy of an object that does not change, as pictures do not, opened to read.

    The store is not asked about one that it was asked about in the last ``TRUSTED_S``.

    Raises:
        FileNotFoundError, IsADirectoryError, StoreError, FileError: as :func:`local_copy`.
    """
    cache = Cache.from_environment()
    return _open_trusted(cache, address) or cache.update(address).open("rb")


def open_part(address: str, start: int, size: int) -> IO[bytes]:
    """The same of a part of an object: of ``size`` bytes from ``start`` on.

    It is of the object's content as :meth:`Cache.content` knows it.

    Raises:
        FileNotFoundError, EOFError, StoreError, FileError: as :meth:`Cache.update_part`.
    """
    cache = Cache.from_environment()
    content = cache.content(address)
    known = _open_trusted(cache, _part(address, start, size, content))
    return known or cache.update_part(address, start, size, content).open("rb")


def _open_trusted(cache: Cache, key: str) -> IO[bytes] | None:
    try:
        found = cache.find(key, TRUSTED_S)
        return found.open("rb") if found is not None else None
    except FileNotFoundError:
        # Nothing of this object, or another process has just cleared it away.
        return None
