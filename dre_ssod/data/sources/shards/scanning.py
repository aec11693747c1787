"""What a tar file holds, by its headers alone: where its images lie, and where their labels."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from dre_ssod.data.sources.folder import IMAGE_EXTENSIONS, OTHER_PICTURES, is_in_hidden
from dre_ssod.data.sources.shards.patterns import Shard
from dre_ssod.data.sources.uri import is_unicode
from dre_ssod.errors import SourceError
from dre_ssod.stores import StorePath, read_range

BLOCK = tarfile.BLOCKSIZE
"""Bytes whose multiples members of a tar file begin at."""
COLUMNS = ("block", "size", "label_block", "label_size", "name_end")
"""What is known of an image: see :class:`Content`."""
# Of an object, so much is fetched at a time: many headers of small images, a part of a large one.
_WINDOW = 2**20
_LARGEST = 2**32 - 1
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}

Column = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Content:
    """The N images of a shard, in its order.

    Attributes:
        columns: (5, N), rows as ``COLUMNS`` has them: where the image begins, in blocks; its bytes;
            the same of the JSON beside it, 0 where there is none; where its name ends in ``names``.
        names: of the images, joined, in UTF-8.
        problem: what is wrong with the shard, or "".
        lost: share of its bytes that cannot be read for that.
        passed_over: what does not count, as remarks: the kind, and how many with the first of them.
    """

    columns: Column
    names: bytes
    problem: str = ""
    lost: float = 0.0
    passed_over: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the names and of where images and labels lie."""
        return sha256(self.columns.astype("<u4").tobytes() + self.names).hexdigest()


def scan(shard: Shard) -> Content:
    """Read the headers of a shard.

    Of one that is damaged, what lies before the damage counts.

    Raises:
        SourceError: if the disk does not give it.
        StoreError: if a store cannot be asked.
    """
    try:
        return _scan(shard)
    except OSError as error:
        # Not to be taken for a failure to write the index.
        raise SourceError(f"{shard.place}: cannot be read: {error}") from error


def _scan(shard: Shard) -> Content:
    members = _Members()
    with _open(shard) as file:
        start = file.read(8)
        file.seek(0)
        kind = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)
        if kind is not None:
            problem, end = f"is compressed ({kind}): shards are read from any place, unpack it", 0
        else:
            problem, end = _read_headers(file, shard.size, members)
    lost = 1 - end / shard.size if shard.size else 1.0
    return members.content(problem or members.problem, lost if problem else 0.0)


def _read_headers(file: IO[bytes], size: int, members: _Members) -> tuple[str, int]:
    """Go through a tar file; returns what is wrong with it, and the bytes up to there."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                if member.offset_data + member.size > size:
                    return f"ends within {member.name}", end
                members.add(member)
                end = tar.offset
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):
                return f"has no further header at byte {end}, nor the mark of its end", end
    except tarfile.TarError as error:
        return f"is no tar file, or is damaged after byte {end}: {error}", end
    return "", end


class _Members:
    """Collects the members of a shard."""

    def __init__(self) -> None:
        self.problem = ""
        self._images: dict[str, tuple[str, int, int]] = {}
        self._labels: dict[str, tuple[str, int, int]] = {}
        self._others: list[str] = []
        self._dotted: list[str] = []
        self._hidden: list[str] = []

    def add(self, member: tarfile.TarInfo) -> None:
        """Take a member that is a picture, or JSON; by the first dot, as WebDataset does."""
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        key, extension = folder + slash + stem, f".{extension.lower()}"
        if not extension.endswith((*IMAGE_EXTENSIONS, *OTHER_PICTURES, ".json")):
            return
        if is_in_hidden(member.name):
            self._hidden += [member.name] if extension.endswith(IMAGE_EXTENSIONS) else []
        elif extension.endswith(OTHER_PICTURES):
            self._others += [] if member.isdir() else [member.name]
        elif not member.isreg() or member.issparse():
            # Folders, and what has no bytes of its own.
            self.problem = self.problem or f"{member.name!r} is no plain file"
        elif not is_unicode(member.name) or "\0" in member.name:
            self.problem = self.problem or f"the name {member.name!r} is not UTF-8"
        elif extension != ".json" and extension not in IMAGE_EXTENSIONS:
            self._dotted.append(member.name)
        else:
            is_label = extension == ".json"
            taken = self._labels if is_label else self._images
            found = (member.name, member.offset_data // BLOCK, min(member.size, _LARGEST))
            first = taken.setdefault(key, found)
            if first is not found:
                what = "JSON files" if is_label else "images"
                self.problem = self.problem or (
                    f"two {what} are called {key!r}: {first[0]} and {member.name}; the first counts"
                )

    def content(self, problem: str, lost: float) -> Content:
        """All that was taken."""
        names = [name.encode() for name, _, _ in self._images.values()]
        columns = np.zeros((len(COLUMNS), len(names)), np.uint32)
        for number, (key, (_, block, size)) in enumerate(self._images.items()):
            columns[:4, number] = (block, size, *self._labels.get(key, ("", 0, 0))[1:])
        columns[4] = np.cumsum([len(name) for name in names], dtype=np.uint64)
        return Content(columns, b"".join(names), problem, lost, self._passed_over())

    def _passed_over(self) -> list[tuple[str, str]]:
        alone = [f"{key}.json" for key in self._labels if key not in self._images]
        found = (
            ("other-picture", self._others, "in a format that is not read"),
            ("other-picture", self._dotted, "with several dots in the name"),
            ("hidden-file", self._hidden, "hidden, or in a hidden folder"),
            ("labels-alone", alone, "without an image of that name"),
        )
        return [
            (kind, f"{len(names)} {what}, as {names[0]!r}") for kind, names, what in found if names
        ]


def _open(shard: Shard) -> IO[bytes]:
    if isinstance(shard.place, StorePath):
        return io.BufferedReader(_Ranges(str(shard.place), shard.size), _WINDOW)
    return Path(shard.place).open("rb", buffering=2**13)


class _Ranges(io.RawIOBase):
    """An object as a file, of which only what is asked for is fetched."""

    def __init__(self, address: str, size: int) -> None:
        self._address, self._size, self._position = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        content = read_range(self._address, self._position, end)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
