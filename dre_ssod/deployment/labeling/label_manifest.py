"""The list of images to label, kept on disk: sorted, numbered and cut into chunks.

It is sorted in memory once, some 170 MiB for a million names; whoever labels reads one chunk of
names at a time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.folder import FolderSource, list_images
from dre_ssod.data.sources.opening import open_source
from dre_ssod.data.sources.uri import is_uri
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole
from dre_ssod.stores import place_of


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


def full_name(root: str, file_name: str) -> str:
    """The path or address of an image that a list with this root names so."""
    return str(place_of(root) / file_name) if root else file_name


def open_images(source: str) -> ImageList:
    """The images of a folder, given by its path, or of a dataset, given by name or URI.

    The images of a folder are numbered from 1 in the order of their names; those of a COCO file
    keep their ids.

    Raises:
        SourceError: if there is no such source, or no image in it.
    """
    opened = open_source(source) if is_uri(source) else None
    if opened is None and Path(source).is_dir():
        opened = FolderSource(source, Path(source).absolute())
    if isinstance(opened, FolderSource):
        names = list_images(opened.folder)
        entries = (Entry(number, name) for number, name in enumerate(names, start=1))
        return _not_empty(source, str(opened.folder), entries)
    if opened is None and ("/" in source or source.startswith(".")):
        raise SourceError(f"{source}: there is no such folder")
    records = load_unlabeled([source])
    if isinstance(opened, CocoSource):
        root = str(opened.image_root)
        entries = (Entry(r["image_id"], os.path.relpath(r["file_name"], root)) for r in records)
        return _not_empty(source, root, entries)
    entries = (Entry(number, r["file_name"]) for number, r in enumerate(records, start=1))
    return _not_empty(source, "", entries)


def _not_empty(source: str, root: str, entries: Iterator[Entry]) -> ImageList:
    first = next(entries, None)
    if first is None:
        raise SourceError(f"{source}: there is no image in it")
    return ImageList(root, itertools.chain([first], entries))


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
        return full_name(self.root, entry.file_name)

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
