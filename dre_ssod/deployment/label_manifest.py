"""The list of images to label, kept on disk: sorted, numbered and cut into chunks.

A million images must not need a million images' memory, so names are sorted in parts on disk, and
only one chunk of them is read at a time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dre_ssod.data.sources.catalog import load_unlabeled, open_source
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.folder import FolderSource, is_image_name
from dre_ssod.data.sources.uri import is_unicode, is_uri
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole

SORTED_AT_ONCE = 100_000
"""Names held in memory while a list is sorted."""


class Entry(NamedTuple):
    """One image: its id, as in COCO files, and its name relative to the root of the list."""

    image_id: int | str
    file_name: str


@dataclass(frozen=True)
class ImageList:
    """Where images are, and which.

    Attributes:
        root: folder that the names are relative to; "" where they are complete.
        entries: in order; can be gone through once.
    """

    root: str
    entries: Iterator[Entry]


def open_images(source: str, scratch: Path) -> ImageList:
    """The images of a folder, given by its path, or of a dataset, given by name or URI.

    The images of a folder are numbered from 1 in the order of their names; those of a COCO file
    keep their ids.

    Args:
        scratch: an existing folder for parts of the list while it is sorted.

    Raises:
        SourceError: if there is no such source, or no image in it.
    """
    is_folder = not is_uri(source) and Path(source).is_dir()
    opened = open_source(source) if is_uri(source) else None
    if is_folder or isinstance(opened, FolderSource):
        folder = opened.folder if isinstance(opened, FolderSource) else Path(source).absolute()
        names = sort_names(walk_images(folder), scratch)
        entries = (Entry(number, name) for number, name in enumerate(names, start=1))
        root = str(folder)
    elif not is_uri(source) and ("/" in source or source.startswith(".")):
        raise SourceError(f"{source}: there is no such folder")
    else:
        records = load_unlabeled([source])
        root = str(opened.image_root) if isinstance(opened, CocoSource) else ""
        keep_ids = isinstance(opened, CocoSource)
        entries = (
            Entry(
                record["image_id"] if keep_ids else number,
                os.path.relpath(record["file_name"], root) if root else record["file_name"],
            )
            for number, record in enumerate(records, start=1)
        )
    first = next(entries, None)
    if first is None:
        raise SourceError(f"{source}: there is no image in it")
    return ImageList(root, itertools.chain([first], entries))


def walk_images(folder: Path) -> Iterator[str]:
    """Names of the images in a folder and below, as ``list_images`` finds them, in no fixed order.

    Raises:
        SourceError: if a folder cannot be listed, or a name is not valid Unicode.
    """
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(folder / place)
        if real in seen:
            continue
        seen.add(real)
        inside: list[str] = []
        try:
            with os.scandir(folder / place) as found:
                for item in found:
                    name = f"{place}/{item.name}" if place else item.name
                    if item.is_dir():
                        inside.append(name)
                    elif is_image_name(item.name):
                        if not is_unicode(name):
                            raise SourceError(
                                f"{folder}: the file name {name!r} is not UTF-8; rename the file"
                            )
                        yield name
        except OSError as error:
            raise SourceError(
                f"{error.filename}: the folder cannot be listed: {error.strerror}"
            ) from error
        waiting += sorted(inside, reverse=True)


def sort_names(names: Iterable[str], scratch: Path, at_once: int = SORTED_AT_ONCE) -> Iterator[str]:
    """Names in the order of ``list_images``, sorted in parts of ``at_once`` in files."""
    remaining = iter(names)
    with ExitStack() as stack:
        parts: list[Iterator[str]] = []
        while batch := sorted(itertools.islice(remaining, at_once), key=_parts):
            file = stack.enter_context(tempfile.TemporaryFile("w+", dir=scratch, encoding="utf-8"))
            file.writelines(json.dumps(name) + "\n" for name in batch)
            file.seek(0)
            parts.append(map(json.loads, file))
        yield from heapq.merge(*parts, key=_parts)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


@dataclass(frozen=True)
class Manifest:
    """A list of images on disk.

    Attributes:
        path: one JSON array [id, name] a line.
        root: see :class:`ImageList`.
        images: how many there are.
        offsets: where in the file each chunk begins, in bytes.
        chunk_images: images of a chunk; the last one may have fewer.
    """

    path: Path
    root: str
    images: int
    chunk_images: int
    offsets: tuple[int, ...]

    @classmethod
    def write(cls, path: Path, images: ImageList, chunk_images: int) -> Manifest:
        """Write the list and note where its chunks begin."""
        offsets: list[int] = []
        count = 0
        with open_whole(path) as file:
            for count, entry in enumerate(images.entries, start=1):
                if (count - 1) % chunk_images == 0:
                    offsets.append(file.tell())
                file.write(json.dumps(list(entry)).encode() + b"\n")
        return cls(path, images.root, count, chunk_images, tuple(offsets))

    def chunk(self, number: int) -> list[Entry]:
        """The images of one chunk."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[number])
            lines = itertools.islice(file, self.chunk_images)
            return [Entry(*json.loads(line)) for line in lines]

    def full_name(self, entry: Entry) -> str:
        """The path of an image."""
        return os.path.join(self.root, entry.file_name)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` needs besides the folder."""
        return {
            "root": self.root,
            "images": self.images,
            "chunk_images": self.chunk_images,
            "offsets": list(self.offsets),
        }

    @classmethod
    def from_dict(cls, path: Path, content: dict[str, Any]) -> Manifest:
        """Inverse of :meth:`as_dict`."""
        return cls(path, **{**content, "offsets": tuple(content["offsets"])})
