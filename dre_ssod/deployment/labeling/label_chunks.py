"""The chunks of a labeling job: a file each, with a line per image, which is written whole.

An image that could not be reached has a line that says so, and leaves its chunk unfinished: what
is known of the others stands under another name until all are labeled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dre_ssod.files import write_text

CHUNKS = "chunks"
ERROR = "error"
"""Of the line of an image without labels, why it has none."""
UNREACHED = "unreached"
"""Of such a line, true if nothing is known of the image: it is to be tried again."""

Line = dict[str, Any]
"""What a chunk holds of an image."""


def chunk_path(folder: Path, number: int) -> Path:
    """The file of a finished chunk."""
    return folder / CHUNKS / f"{number:06d}.jsonl"


def unfinished_path(folder: Path, number: int) -> Path:
    """The file of a chunk that was tried and lacks images."""
    return folder / CHUNKS / f"{number:06d}.{UNREACHED}.jsonl"


def read_chunks(folder: Path, chunks: int) -> Iterator[Line]:
    """What the chunks hold, one image after the other.

    Raises:
        FileNotFoundError: if a chunk was never tried.
    """
    for number in range(chunks):
        path = chunk_path(folder, number)
        yield from _read(path if path.exists() else unfinished_path(folder, number))


def clear_unfinished(folder: Path, chunks: int) -> None:
    """Remove what was known of chunks that are finished now, while nobody reads it."""
    for number in range(chunks):
        if chunk_path(folder, number).exists():
            unfinished_path(folder, number).unlink(missing_ok=True)


class Tries:
    """The chunks that a process labels, each of them once."""

    def __init__(self, folder: Path, chunks: int) -> None:
        """
        Args:
            folder: of the job.
            chunks: how many it has.
        """
        self._folder = folder
        self._tried: set[int] = set()
        self._before = [_written(unfinished_path(folder, number)) for number in range(chunks)]

    def is_over(self, number: int) -> bool:
        """Whether a chunk is finished, or was tried since this process began, by whomever."""
        return (
            number in self._tried
            or chunk_path(self._folder, number).exists()
            or _written(unfinished_path(self._folder, number)) != self._before[number]
        )

    def keep(self, number: int, lines: Iterable[Line]) -> int:
        """Write the lines of a chunk; returns of how many images something is known."""
        path, lines = unfinished_path(self._folder, number), list(lines)
        if path.exists():
            # What was reached before is as good: labels of an image are always the same.
            both = zip(_read(path), lines, strict=True)
            lines = [new if UNREACHED in old or UNREACHED not in new else old for old, new in both]
        reached = sum(UNREACHED not in line for line in lines)
        if reached == len(lines):
            path = chunk_path(self._folder, number)
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._tried.add(number)
        return reached


def _read(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _written(path: Path) -> int | None:
    """When a file was written; None if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
