"""Pieces of files: a member of a tar file, read from where it lies, be that a disk or a store."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, NamedTuple

from dre_ssod.stores.cache import open_part
from dre_ssod.stores.objects import is_address

_PREFIX = "shards://"
_FORM = re.compile(r"shards://(.+?):(\d+)\+(\d+)/(.*)", re.DOTALL)


class Piece(NamedTuple):
    """A part of a file, with a name of its own.

    As a text it is ``shards://FILE:START+SIZE/NAME``: all that is needed to read it, with the name
    at its end, where paths have theirs.

    Attributes:
        file: a path of this machine, or an address.
        start, size: in bytes.
        name: of the piece; it may have slashes.
    """

    file: str
    start: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.file}:{self.start}+{self.size}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Piece:
        """Inverse of ``str``."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"{text} is no piece of a file")
        return cls(found[1], int(found[2]), int(found[3]), found[4])

    def open(self) -> IO[bytes]:
        """Its content; of a store, through the cache.

        Raises:
            OSError: if the file cannot be opened.
            EOFError: if it ends before the piece does.
            StoreError: if the store cannot be asked.
        """
        if is_address(self.file):
            return open_part(self.file, self.start, self.size)
        with Path(self.file).open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise EOFError(f"{self.file} ends before byte {self.start + self.size}")
        return io.BytesIO(content)


def is_piece(text: str) -> bool:
    """Whether a name of a file is that of a piece."""
    return text.startswith(_PREFIX)
