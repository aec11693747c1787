"""What is wrong with image files: one check per file, spread over processes, and equal contents.

At level "header" nothing is decoded: size and orientation come from the header, and whether the
file is whole from its last bytes. Only a file that does not end as its format does is decoded.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from PIL import Image

from dre_ssod.data.images import ImageError, open_picture, read_header, read_image
from dre_ssod.workers import init_checking

LEVELS = ("header", "full")
TAIL_BYTES = 4096
CHUNK = 64
"""Files that a process takes at a time."""
MIN_FILES_FOR_POOL = 512
"""Below it, starting processes takes longer than checking headers."""

Result = TypeVar("Result")

_ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}
_LENGTH_FIELDS = {"WEBP": (slice(4, 8), 8), "BMP": (slice(2, 6), 0)}
"""Where the start of a file states its length, and how many bytes that does not count."""
_TIFF_PARTS = ((273, 279), (324, 325))
"""Tags of the offsets and byte counts of strips and of tiles."""


class Progress(Protocol):
    """A progress bar, such as tqdm's."""

    def reset(self, total: int) -> object:
        """Start to count up to a total."""

    def update(self, count: int) -> object:
        """Count further files."""


@dataclass(frozen=True)
class FileCheck:
    """What was found out about an image file.

    Attributes:
        status: "ok", "missing", "empty" (no bytes), "truncated" or "unreadable".
        reason: what the decoder said, if the status is not "ok".
        width, height: pixels, in the orientation in which training decodes the file; 0 if unknown.
        orientation: EXIF orientation, 1 for an image that is stored upright.
        mode: Pillow's name of the pixel format, such as "RGB"; "" if unknown.
        several: the file has further pictures, which are not used.
        odd_end: the file decodes, although it does not end as its format does.
        bytes: length of the file.
        tail: CRC-32 of its last ``TAIL_BYTES``.
    """

    status: str
    reason: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    mode: str = ""
    several: bool = False
    odd_end: bool = False
    bytes: int = 0
    tail: int = 0


def check_file(path: str, level: str = "header") -> FileCheck:
    """Check one image file; never raises for what a file holds.

    Args:
        level: "header", or "full" to decode every image as training does.
    """
    try:
        with open_picture(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            start = stream.read(8)
            stream.seek(max(0, size - TAIL_BYTES))
            end = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return FileCheck("missing", "there is no such file")
    except ImageError as error:
        return FileCheck("unreadable", str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return FileCheck("unreadable", str(error))
    if size == 0:
        return FileCheck("empty", "the file has no bytes")
    found = FileCheck("ok", bytes=size, tail=zlib.crc32(end))
    try:
        with warnings.catch_warnings():
            # Large images and odd metadata: whether they can be decoded is what counts.
            warnings.simplefilter("ignore")
            header = read_header(path)
            whole = _is_whole(path, header.file_format, size, start, end)
            if level == "full" or not whole or header.mode[0] in "IF":
                read_image(path, "RGB")
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        status = "truncated" if "truncated" in reason.lower() else "unreadable"
        return replace(found, status=status, reason=reason)
    return replace(
        found,
        width=header.width,
        height=header.height,
        orientation=header.orientation,
        mode=header.mode,
        several=header.several,
        odd_end=whole is False,
    )


def check_files(
    paths: Sequence[str],
    level: str = "header",
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[list[FileCheck], list[list[str]]]:
    """Check files and find those of equal content.

    Args:
        paths: different paths.
        workers: processes, at least 1.
        progress: counts the files.

    Returns:
        One check per path, in order; and the groups of paths whose bytes are equal, in order. Bytes
        are compared by SHA-256, which is computed only where length and tail are equal already.
    """
    if progress is not None:
        progress.reset(len(paths))
    with _pool(workers) as pool:
        checks: list[FileCheck] = []
        for chunk in _map(pool, partial(_check_many, level=level), _chunks(paths)):
            checks += chunk
            if progress is not None:
                progress.update(len(chunk))
        alike: dict[tuple[int, int], list[str]] = defaultdict(list)
        for path, check in zip(paths, checks, strict=True):
            if check.bytes:
                alike[check.bytes, check.tail].append(path)
        suspects = [path for group in alike.values() if len(group) > 1 for path in group]
        digests = [name for chunk in _map(pool, _hash_many, _chunks(suspects)) for name in chunk]
    equal: dict[str, list[str]] = defaultdict(list)
    for path, digest in zip(suspects, digests, strict=True):
        if digest:
            equal[digest].append(path)
    return checks, [group for group in equal.values() if len(group) > 1]


def useful_workers(files: int, level: str, cores: int) -> int:
    """How many processes are worth starting for a number of files; at least 1."""
    if level == "header" and files < MIN_FILES_FOR_POOL:
        return 1
    return max(1, min(cores, files // CHUNK))


def _is_whole(path: str, file_format: str, size: int, start: bytes, end: bytes) -> bool | None:
    """Whether a file is as long as its format demands; None if only decoding tells."""
    if file_format in _ENDINGS:
        return end.endswith(_ENDINGS[file_format])
    if file_format in _LENGTH_FIELDS:
        field, uncounted = _LENGTH_FIELDS[file_format]
        return int.from_bytes(start[field], "little") + uncounted <= size
    try:
        with open_picture(path) as stream, Image.open(stream) as image:
            tags = getattr(image, "tag_v2", {})
            ends = [
                offset + count
                for offsets, counts in _TIFF_PARTS
                for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
            ]
    except Exception:  # On damaged files, Pillow raises errors of any type: decoding names them.
        return None
    return max(ends) <= size if ends else None


def _check_many(paths: Sequence[str], level: str) -> list[FileCheck]:
    return [check_file(path, level) for path in paths]


def _hash_many(paths: Sequence[str]) -> list[str]:
    """SHA-256 of each file's bytes; "" for one that can no longer be read."""
    digests = []
    for path in paths:
        try:
            with open_picture(path) as stream:
                digests.append(hashlib.sha256(stream.read()).hexdigest())
        except (OSError, ImageError):
            digests.append("")
    return digests


def _chunks(paths: Sequence[str]) -> list[Sequence[str]]:
    return [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]


@contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    if workers == 1:
        yield None
        return
    with ProcessPoolExecutor(workers, initializer=init_checking) as pool:
        yield pool


def _map(
    pool: Executor | None,
    function: Callable[[Sequence[str]], list[Result]],
    chunks: list[Sequence[str]],
) -> Iterator[list[Result]]:
    return map(function, chunks) if pool is None else pool.map(function, chunks)
