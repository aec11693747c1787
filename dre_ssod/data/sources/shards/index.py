"""The index of a set of shards: a file that processes map into memory and share.

It holds what :mod:`scanning` found in each shard, one after the other, and at its end, as JSON,
which shards these are. It lies beside the shards or, where that cannot be written, in the cache of
stores. It is made once; shards that have changed since, by size and time or by what their store
says of them, are read again, and no others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from dre_ssod.data.sources.shards.patterns import ASKED_AT_ONCE, Shard
from dre_ssod.data.sources.shards.scanning import COLUMNS, Column, Content, scan
from dre_ssod.errors import FileError
from dre_ssod.files import naming_failures, open_whole
from dre_ssod.locks import taking_turns
from dre_ssod.stores import Cache, StorePath

_MAGIC = b"dre_ssod shards 3"
"""Ends an index; the number changes with what scanning takes, too."""
_NUMBER = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A shard in an index.

    Attributes:
        name, size, identity: as of :class:`Shard`.
        start: byte of the index that its columns begin at; its names follow them.
        images: their number, N.
        names: bytes of their names.
        digest, problem, lost, passed_over: as of :class:`Content`.
    """

    name: str
    size: int
    identity: str
    start: int
    images: int
    names: int
    digest: str
    problem: str
    lost: float
    passed_over: Sequence[tuple[str, str]]

    @property
    def shard(self) -> tuple[str, int, str]:
        """What tells whether the entry still holds."""
        return self.name, self.size, self.identity


class Index:
    """An index, mapped into memory; only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: if it cannot be opened.
            ValueError: if it is no index.
        """
        self._path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tail = len(self._map) - len(_MAGIC)
        if self._map[tail:] != _MAGIC:
            raise ValueError(f"{path} is no index of shards")
        (length,) = _LENGTH.unpack_from(self._map, tail - _LENGTH.size)
        content = self._map[tail - _LENGTH.size - length : tail - _LENGTH.size]
        self.entries = [Entry(**entry) for entry in json.loads(content)]
        self.ends = np.cumsum([entry.images for entry in self.entries]).tolist()
        """Number of images in the shards up to and with each."""
        self.starts = [0, *self.ends[:-1]]
        """The number in the set of the first image of each shard."""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __reduce__(self) -> tuple[type[Index], tuple[Path]]:
        # Loading processes map the file themselves.
        return type(self), (self._path,)

    def locate(self, number: int) -> tuple[int, int]:
        """The shard of an image of the set, and its number there."""
        shard = bisect_right(self.ends, number)
        return shard, number - self.starts[shard]

    def image(self, shard: int, number: int) -> tuple[tuple[int, int, int, int], str]:
        """(block, size, label_block, label_size) of an image of a shard, and its name."""
        entry = self.entries[shard]
        block, size, label_block, label_size, end = (
            _NUMBER.unpack_from(self._map, entry.start + 4 * (row * entry.images + number))[0]
            for row in range(len(COLUMNS))
        )
        last = entry.start + 4 * (len(COLUMNS) - 1) * entry.images
        begin = _NUMBER.unpack_from(self._map, last + 4 * (number - 1))[0] if number else 0
        names = last + 4 * entry.images
        name = self._map[names + begin : names + end].decode()
        return (block, size, label_block, label_size), name

    def columns(self, shard: int) -> Column:
        """(5, N) of a shard."""
        entry = self.entries[shard]
        count = len(COLUMNS) * entry.images
        flat = np.frombuffer(self._map, "<u4", count, entry.start)
        return flat.reshape(len(COLUMNS), entry.images)

    def content(self, shard: int) -> Content:
        """All that is known of a shard."""
        entry = self.entries[shard]
        names = entry.start + 4 * len(COLUMNS) * entry.images
        return Content(
            self.columns(shard),
            self._map[names : names + entry.names],
            *(entry.problem, entry.lost, entry.passed_over),
        )


def open_index(shards: Sequence[Shard], root: str) -> Index:
    """The index of shards as they are now, made or renewed where needed.

    Of several processes one makes it, and the others wait.

    Args:
        root: the folder that the shards have in common.

    Raises:
        FileError: if it can be written nowhere.
        SourceError, StoreError: if a shard cannot be read.
    """
    wanted = [(shard.name, shard.size, shard.identity) for shard in shards]
    name = index_path(shards, root).name
    cache = Cache.from_environment().derived
    folders = [cache] if isinstance(shards[0].place, StorePath) else [Path(root), cache]
    for folder in folders:
        known = _read(folder / name)
        if known is not None and [entry.shard for entry in known.entries] == wanted:
            return known
    for folder in folders:
        try:
            return _renew(folder / name, shards, wanted)
        except FileError:
            if folder is folders[-1]:
                raise
    raise AssertionError("there is a folder")


def index_path(shards: Sequence[Shard], root: str) -> Path:
    """Where the index of shards on a disk is; another pattern in the same folder has another."""
    key = sha256("\n".join([root, *(shard.name for shard in shards)]).encode()).hexdigest()[:12]
    return Path(root) / f"shards-{key}.index"


def _read(path: Path) -> Index | None:
    """An index, unless there is none that this version can read."""
    try:
        index = Index(path)
    except (FileNotFoundError, ValueError, TypeError, struct.error):
        return None
    # The cache removes what was used longest ago. Another user's index stays as it is.
    with contextlib.suppress(OSError):
        os.utime(path)
    return index


def _renew(path: Path, shards: Sequence[Shard], wanted: Sequence[tuple[str, int, str]]) -> Index:
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with taking_turns(path.with_name(f"{path.name}.lock")):
            known = _read(path)
            entries = known.entries if known else []
            if [entry.shard for entry in entries] != wanted:
                numbers = {entry.shard: number for number, entry in enumerate(entries)}
                number_of = [numbers.get(shard) for shard in wanted]
                logger.info(
                    "Reading the headers of %d of %d shards into %s",
                    *(number_of.count(None), len(shards), path),
                )

                def content(number: int) -> Content:
                    if known is not None and (old := number_of[number]) is not None:
                        return known.content(old)
                    return scan(shards[number])

                write_index(path, shards, _contents(content, shards))
            return Index(path)


def _contents(content: Callable[[int], Content], shards: Sequence[Shard]) -> Iterator[Content]:
    if not isinstance(shards[0].place, StorePath):
        yield from map(content, range(len(shards)))
        return
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        # Not all at once: what was found waits in memory until it is written.
        for start in range(0, len(shards), ASKED_AT_ONCE):
            yield from pool.map(content, range(len(shards))[start : start + ASKED_AT_ONCE])


def write_index(path: Path, shards: Sequence[Shard], contents: Iterable[Content]) -> None:
    """Write an index.

    Raises:
        FileError: if it cannot be written.
    """
    entries = []
    with open_whole(path) as file:
        for shard, found in zip(shards, contents, strict=True):
            start = file.tell()
            file.write(found.columns.astype("<u4").tobytes())
            file.write(found.names + bytes(-len(found.names) % _NUMBER.size))
            entry = Entry(
                *(shard.name, shard.size, shard.identity, start, len(found), len(found.names)),
                *(found.digest, found.problem, found.lost, found.passed_over),
            )
            entries.append(asdict(entry))
        tail = json.dumps(entries).encode()
        file.write(tail + _LENGTH.pack(len(tail)) + _MAGIC)
