"""Paths into stores, with that part of ``pathlib.Path`` which readers of data use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from dre_ssod.stores.cache import local_copy
from dre_ssod.stores.objects import CHAIN, StoreError, ask, describe, is_address


@dataclass(frozen=True, order=True)
class StorePath:
    """A path of an object, or of a folder of objects.

    Of ``zip://photos::s3://bucket/photos.zip``, ``before`` is ``zip://``, ``inner`` is ``photos``
    and ``after`` is ``::s3://bucket/photos.zip``.

    Attributes:
        before: the protocol.
        inner: the path; where a store has buckets or hosts, these are its first part.
        after: the rest of a chained address, or "".
    """

    before: str
    inner: PurePosixPath
    after: str = ""

    @classmethod
    def parse(cls, address: str) -> StorePath:
        """The path that an address names."""
        first, chain, rest = address.partition(CHAIN)
        protocol, _, inner = first.partition("://")
        return cls(f"{protocol}://", PurePosixPath(inner), chain + rest)

    def __str__(self) -> str:
        inner = "" if self.inner == PurePosixPath() else str(self.inner)
        return f"{self.before}{inner}{self.after}"

    @property
    def name(self) -> str:
        """The last part."""
        return self.inner.name

    @property
    def stem(self) -> str:
        """The last part without its extension."""
        return self.inner.stem

    @property
    def suffix(self) -> str:
        """The extension."""
        return self.inner.suffix

    @property
    def parent(self) -> StorePath:
        """The folder above."""
        return replace(self, inner=self.inner.parent)

    @property
    def top(self) -> StorePath:
        """The bucket, the host or the archive: what no name in a file may ever leave."""
        return replace(self, inner=PurePosixPath(*self.inner.parts[: 0 if self.after else 1]))

    def __truediv__(self, name: str) -> StorePath:
        if CHAIN in name:
            raise StoreError(
                f"{self}: {name!r} has '{CHAIN}' in it, which addresses use to join: rename it"
            )
        return replace(self, inner=self.inner / name)

    def with_suffix(self, suffix: str) -> StorePath:
        """With another extension."""
        return replace(self, inner=self.inner.with_suffix(suffix))

    def is_relative_to(self, other: object) -> bool:
        """Whether this is below another path, or that path itself."""
        if not isinstance(other, StorePath) or not self._same_store(other):
            return False
        return self.inner.is_relative_to(other.inner)

    def relative_to(self, other: StorePath) -> PurePosixPath:
        """The way from another path to this one, which is below it."""
        if not self._same_store(other):
            raise ValueError(f"{self} is not below {other}")
        return self.inner.relative_to(other.inner)

    def _same_store(self, other: StorePath) -> bool:
        return (self.before, self.after) == (other.before, other.after)

    def absolute(self) -> StorePath:
        """Itself."""
        return self

    def kind(self) -> str:
        """ "file", "directory", or "" where there is nothing.

        Raises:
            StoreError: if the store cannot be asked.
        """
        try:
            found = describe(str(self))
        except FileNotFoundError:
            return ""
        # A web server's folder is a page of links.
        is_page = found.get("mimetype") == "text/html"
        return "directory" if is_page else str(found["type"])

    def exists(self) -> bool:
        """Whether there is an object or a folder of this name."""
        return bool(self.kind())

    def is_file(self) -> bool:
        """Whether this is an object."""
        return self.kind() == "file"

    def is_dir(self) -> bool:
        """Whether this is a folder of objects."""
        return self.kind() == "directory"

    def iterdir(self) -> Iterator[StorePath]:
        """What lies directly in this folder."""
        return (self / name for name, _ in self._entries())

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """What lies directly in this folder under a name of this pattern."""
        return (self / name for name, _ in self._entries() if fnmatchcase(name, pattern))

    def read_bytes(self) -> bytes:
        """The content of the object as it is now, through the cache."""
        return Path(local_copy(str(self))).read_bytes()

    def names(self) -> Iterator[str]:
        """Names of all objects below this folder, relative to it; one page at a time.

        Raises:
            FileNotFoundError: if there is no such folder.
            StoreError: if the store cannot be asked.
        """
        is_s3 = ask(str(self), lambda system, _: hasattr(system, "call_s3"))
        # fsspec would give a whole folder at once: a gigabyte for a million objects.
        return self._s3_names() if is_s3 else self._names_by_folder()

    def _names_by_folder(self) -> Iterator[str]:
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            for name, is_folder in folder._entries():
                if is_folder:
                    waiting.append(folder / name)
                else:
                    yield str((folder / name).relative_to(self))

    def _s3_names(self) -> Iterator[str]:
        bucket, *parts = self.inner.parts
        prefix = "".join(f"{part}/" for part in parts)
        request = {"Bucket": bucket, "Prefix": prefix}
        while True:
            page = ask(str(self), lambda system, _: system.call_s3("list_objects_v2", **request))
            for entry in page.get("Contents", ()):
                name = entry["Key"][len(prefix) :]
                # What ends with a slash marks a folder.
                if not name.endswith("/") and name:
                    yield name
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _entries(self) -> list[tuple[str, bool]]:
        """Name of each thing directly in this folder, and whether it is a folder."""

        def listed(system: Any, path: str) -> list[tuple[str, bool]]:
            entries = [
                (e["name"].rstrip("/"), e["type"] == "directory")
                for e in system.ls(path, detail=True)
            ]
            # An object of the folder's own name marks that it is there.
            return [(n.rpartition("/")[2], f) for n, f in entries if n != path.rstrip("/")]

        return ask(str(self), listed)


Place = Path | StorePath
"""A path on this machine or into a store."""


def is_taken(place: Place) -> bool:
    """Whether no new folder can be made there: it is a file, or a folder that is not empty."""
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def place_of(text: str) -> Place:
    """The path that a text names."""
    return StorePath.parse(text) if is_address(text) else Path(text)
