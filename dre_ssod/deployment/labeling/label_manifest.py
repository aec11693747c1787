"""The list of images to label, kept on disk: sorted, numbered and cut into chunks.

It is sorted in memory once, some 170 MiB for a million names; whoever labels reads one chunk of
names at a time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dre_ssod.data.sources.catalog import load_unlabeled
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.folder import FolderSource, list_images
from dre_ssod.data.sources.opening import Source, open_source
from dre_ssod.data.sources.programs.labels import ProgramSource
from dre_ssod.data.sources.uri import is_uri
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole
from dre_ssod.stores import Place, StorePath, is_address, is_piece, place_of


class Entry(NamedTuple):
    """One image: its id, as in COCO files, and its name relative to the root of the list."""

    image_id: int | str
    file_name: str


@dataclass(frozen=True)
class ImageList:
    """Where images are, and which.

    Attributes:
        root: folder that the names are relative to; "" where they are complete, as those of shards
            and of images in a store whose source names no folder.
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
    opened = _opened(source)
    if isinstance(opened, FolderSource):
        names = list_images(opened.folder)
        entries = (Entry(number, name) for number, name in enumerate(names, start=1))
        return _not_empty(source, str(opened.folder), entries)
    if opened is None and ("/" in source or source.startswith(".")):
        raise SourceError(f"{source}: there is no such folder")
    records = load_unlabeled([source])
    named = opened.image_root if isinstance(opened, CocoSource | ProgramSource) else None
    root = _root_of(records, named)
    keeps_ids = isinstance(opened, CocoSource)
    entries = (
        Entry(r["image_id"] if keeps_ids else number, _name_in(root, r["file_name"]))
        for number, r in enumerate(records, start=1)
    )
    return _not_empty(source, root, entries)


def searched_folder(source: str) -> Place | None:
    """The folder of which a source takes every image that comes to lie there; None of others."""
    return _searched_by(_opened(source))


def _searched_by(opened: Source | None) -> Place | None:
    if isinstance(opened, FolderSource):
        return opened.folder
    return opened.image_root if isinstance(opened, ProgramSource) else None


def _opened(source: str) -> Source | None:
    """What a URI or the path of a folder names; None for a name, and where there is no folder."""
    if is_uri(source):
        return open_source(source)
    is_folder = Path(source).is_dir()
    return FolderSource(source, Path(source).absolute()) if is_folder else None


def _root_of(records: Sequence[dict[str, Any]], named: Place | None) -> str:
    """The folder that a source has ``named`` for its images, or the lowest one that holds them all.

    That is a higher one where images lie outside of the named one. "" for shards, and in a store
    where none is named that holds them all.
    """
    files = (record["file_name"] for record in records)
    if not records or any(is_address(file) or is_piece(file) for file in files):
        holds_all = isinstance(named, StorePath) and all(
            StorePath.parse(record["file_name"]).is_relative_to(named) for record in records
        )
        return str(named) if holds_all else ""
    lowest = os.path.commonpath({os.path.dirname(os.path.abspath(r["file_name"])) for r in records})
    is_named = named is not None and Path(lowest).is_relative_to(os.path.abspath(str(named)))
    return str(named) if is_named else lowest


def _name_in(root: str, file: str) -> str:
    """The name of an image relative to the root of its list."""
    if root and is_address(file):
        return str(StorePath.parse(file).relative_to(StorePath.parse(root)))
    return os.path.relpath(file, root) if root else file


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

    @property
    def place(self) -> str:
        """Where the images are: their root, or the first one."""
        return self.root or self.full_name(self.chunk(0)[0])

    def is_of(self, source: str) -> bool:
        """Whether a source, as it is found from the working folder, is that of this list.

        Raises:
            SourceError: if there is no such source; a folder of this list may be gone.
        """
        if not is_uri(source) and _same(str(Path(source).absolute()), self.root):
            return True
        opened = _opened(source)
        folder = _searched_by(opened)
        if isinstance(opened, CocoSource) and not opened.outside:
            folder = opened.image_root
        if folder is not None:
            return _same(str(folder), self.root)
        # Where the images of the others are is known once they are listed.
        images = open_images(source)
        return _same(images.root or next(images.entries).file_name, self.place)

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


def _same(place: str, other: str) -> bool:
    """Whether two paths or addresses are of the same place, whatever links and dots are in them."""
    return place == other or os.path.realpath(place) == os.path.realpath(other)
