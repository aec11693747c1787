"""Dataset URIs: their grammar, their errors, and where their relative paths are looked for.

A URI is ``scheme://path?key=value&key=value``. Path and values are percent-encoded; an absolute
path gives three slashes (``folder:///data/images``). A comma separates the parts of a list value; a
comma inside a part is written ``%2C``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.names import check_class_name, show_names
from dre_ssod.errors import SourceError
from dre_ssod.stores import CHAIN, Place, StorePath, is_address, place_of

URI_FORMS = {
    "coco": "coco://annotations.json?images=DIR[&empty=unlabeled][&outside=allow]",
    "voc": "voc://ROOT?split=train[&classes=A,B,C] or voc://IMAGES[?annotations=DIR][&classes=A,B,C]",
    "yolo": "yolo://ROOT?split=train[&classes=A,B,C][&outside=allow] or "
    "yolo://ROOT[?classes=A,B,C][&empty=labeled]",
    "labelstudio": "labelstudio://export.json?images=DIR[&classes=A,B,C]",
    "cvat": "cvat://annotations.xml?images=DIR[&classes=A,B,C][&empty=labeled]",
    "labelme": "labelme://DIR[?images=DIR][&classes=A,B,C]",
    "via": "via://project.json?images=DIR[&classes=A,B,C][&attribute=NAME][&empty=labeled]",
    "folder": "folder://DIR",
    "shards": "shards://PATTERN[?classes=A,B,C], as shards://data/pool-{000..127}.tar",
    "sample": "sample://labeled|unlabeled|val[?seed=0]",
}
"""The accepted forms by scheme, as the error messages show them.

Files of a set may only name images inside its image folder (``coco``) or its root (``voc``,
``yolo``), unless the URI has ``outside=allow``.
"""

# In bytes; what Linux and most file systems allow.
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True)
class DatasetURI:
    """A parsed dataset URI.

    Attributes:
        text: the URI as the user wrote it.
        scheme: a key of ``URI_FORMS``.
        path: decoded.
        query: raw (still encoded) values by key.
    """

    text: str
    scheme: str
    path: str
    query: dict[str, str]

    @property
    def form(self) -> str:
        """The form that URIs of this scheme have."""
        return URI_FORMS[self.scheme]

    def allow(self, required: Collection[str] = (), optional: Collection[str] = ()) -> None:
        """Check the keys of the query.

        Raises:
            SourceError: if a key is unknown or a required one is missing.
        """
        valid = [*required, *optional]
        for key in self.query:
            if key not in valid:
                names = ", ".join(valid) if valid else "none"
                raise SourceError(f"{self.text}: unknown key {key!r}; valid: {names} ({self.form})")
        for key in required:
            if key not in self.query:
                raise SourceError(f"{self.text}: the key {key!r} is missing; write {self.form}")

    def value(self, key: str, default: str = "") -> str:
        """The decoded value of ``key``, or ``default`` if the URI does not have it."""
        return _decode(self.query[key], self.text) if key in self.query else default

    def values(self, key: str) -> list[str]:
        """The decoded parts of the list value of ``key``; empty if the URI does not have it."""
        if key not in self.query:
            return []
        return [_decode(part, self.text) for part in self.query[key].split(",")]

    def one_of(self, key: str, valid: Sequence[str]) -> str:
        """The value of ``key``, or the first valid one if the URI does not have it.

        Raises:
            SourceError: if it is not valid.
        """
        value = self.value(key, valid[0])
        if value not in valid:
            raise SourceError(f"{self.text}: {key}={value} is unknown; valid: {', '.join(valid)}")
        return value

    def class_list(self) -> tuple[str, ...]:
        """The names in ``classes=``; empty if the URI does not have it.

        Raises:
            SourceError: if a name is empty or given twice.
        """
        classes = tuple(self.values("classes"))
        if len(set(classes)) < len(classes) or "" in classes:
            names = show_names(classes)
            raise SourceError(f"{self.text}: classes= must be different names, is {names}")
        return tuple(check_class_name(name, f"{self.text}: a class") for name in classes)

    def allows_outside(self) -> bool:
        """Whether files of the set may name images outside its folder.

        Raises:
            SourceError: if ``outside`` has another value than "allow".
        """
        if self.value("outside", "allow") != "allow":
            raise SourceError(
                f"{self.text}: outside={self.value('outside')} is unknown; write outside=allow, or "
                "leave it out"
            )
        return "outside" in self.query


def is_uri(name: str) -> bool:
    """Whether ``name`` is meant as a URI, of a known scheme or not."""
    return "://" in name


def parse_uri(text: str) -> DatasetURI:
    """Read a dataset URI.

    Raises:
        SourceError: if the scheme is unknown, the path empty, or the query or an escape malformed.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in URI_FORMS:
        close = get_close_matches(scheme, URI_FORMS, n=1)
        hint = f" (did you mean {close[0]}://?)" if close else ""
        layout = f". {text} as a folder of images is folder://{text}" if is_address(text) else ""
        valid = ", ".join(URI_FORMS.values())
        raise SourceError(f"{text}: unknown scheme {scheme!r}{hint}; valid: {valid}{layout}")
    raw_path, question_mark, raw_query = rest.partition("?")
    if not raw_path:
        raise SourceError(f"{text}: there is no path after ://; write {URI_FORMS[scheme]}")
    query: dict[str, str] = {}
    for pair in raw_query.split("&") if question_mark else []:
        raw_key, equals, value = pair.partition("=")
        key = _decode(raw_key, text)
        if not key or not equals or not value:
            raise SourceError(f"{text}: {pair!r} is not key=value; write {URI_FORMS[scheme]}")
        if key in query:
            raise SourceError(f"{text}: the key {key!r} is given twice; give it once")
        query[key] = value
    return DatasetURI(text, scheme, _decode(raw_path, text), query)


def datasets_root() -> Place:
    """``$DETECTRON2_DATASETS``, read now; ``datasets`` if it is not set."""
    root = place_of(os.environ.get("DETECTRON2_DATASETS") or "datasets")
    return root if isinstance(root, StorePath) else root.expanduser()


def find_file(path: str, uri: DatasetURI) -> Place:
    """The absolute path of a file that ``uri`` names; see ``_locate``."""
    return _locate(path, uri, "file")


def find_folder(path: str, uri: DatasetURI) -> Place:
    """The absolute path of a folder that ``uri`` names; see ``_locate``."""
    return _locate(path, uri, "folder")


def find_any(path: str, uri: DatasetURI) -> Place:
    """The absolute path of a file or folder that ``uri`` names; see ``_locate``."""
    return _locate(path, uri, "file or folder")


def join_inside(
    folder: Place, path: str, limit: Place | None, where: str, remarks: Remarks | None = None
) -> Place:
    """``folder / path`` without ``..``, for a path that stands in a file of a set.

    A path with backslashes is taken as one of Windows, unless there is a file of just this name.
    In a store no path leads to another bucket, host or archive, nor to this machine.

    Args:
        folder: absolute, ``limit`` or inside it; what the path is relative to.
        path: as written in the file.
        limit: the folder that the path must not leave, be it absolute or by ``..``; None for any,
            in a store for its bucket.
            Links in the folder are not looked at: they may lead anywhere.
        where: the file and the entry, for the message.
        remarks: gets a path of Windows.

    Raises:
        SourceError: if the path leaves ``limit``, or can be no file's name.
    """
    if not path.strip() or "\0" in path or not is_unicode(path) or _is_too_long(path):
        raise SourceError(f"{where}: {path!r:.80} cannot be the name of a file")
    if isinstance(folder, StorePath) and CHAIN in path:
        raise SourceError(
            f"{where}: {path!r:.80} cannot be the name of an object: it has '{CHAIN}'"
        )
    if "\\" in path and not _has(folder, path):
        if PureWindowsPath(path).is_absolute():
            raise SourceError(
                f"{where}: {path!r} is a path of a Windows machine (backslashes and a drive); "
                f"write it relative to {folder}, with /"
            )
        if remarks is not None:
            remarks.add("windows-path", f"{where}: {path!r}")
        path = path.replace("\\", "/")
    if not os.path.isabs(path) and ".." not in path.split("/"):
        return folder / path
    if isinstance(folder, StorePath):
        limit = limit or folder.top
    place = os.path.normpath(os.path.join(_on_disk(folder), path))
    if limit is None:
        return Path(place)
    inside = os.path.relpath(place, _on_disk(limit))
    if inside.split("/")[0] == "..":
        raise SourceError(
            f"{where}: {path!r} is outside {limit}. Write names that stay in that folder, or, if "
            "you trust the file, add outside=allow to the URI"
        )
    return limit / inside


def _has(folder: Place, path: str) -> bool:
    if isinstance(folder, StorePath):
        return (folder / path).exists()
    return os.path.lexists(os.path.join(folder, path))


def _on_disk(place: Place) -> str:
    """A path of this machine that leads as one in a store does, from its top down."""
    return str(PurePosixPath("/") / place.inner) if isinstance(place, StorePath) else str(place)


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; names from a file system or JSON may not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_too_long(path: str) -> bool:
    """Whether no usual file system could hold a file of this name."""
    longest = max(len(part.encode()) for part in path.split("/"))
    return longest > _LONGEST_NAME or len(path.encode()) > _LONGEST_PATH


def _locate(path: str, uri: DatasetURI, kind: str) -> Place:
    """Try ``path`` from the current folder, then under ``datasets_root()``.

    Args:
        kind: "file", "folder" or "file or folder".

    Raises:
        SourceError: naming every tried path, if there is no such file or folder.
        StoreError: if a store cannot be asked.
    """
    tried = _candidates(path, uri)
    wrong_kind = []
    try:
        for place in tried:
            if (found := _kind_of(place)) and found in kind:
                return place
            wrong_kind += [str(place)] * bool(found)
    except OSError as error:
        raise SourceError(f"{uri.text}: {path!r} cannot be looked for: {error}") from error
    note = f" ({', '.join(wrong_kind)} exists but is not a {kind})" if wrong_kind else ""
    if len(tried) > 1:
        note += ". Relative paths start at the current folder, then at $DETECTRON2_DATASETS"
    places = " and ".join(map(str, tried))
    raise SourceError(f"{uri.text}: no {kind} {path!r}; tried {places}{note}")


def _candidates(path: str, uri: DatasetURI) -> list[Place]:
    if is_address(path):
        return [StorePath.parse(path)]
    try:
        candidate = Path(path).expanduser()
    except RuntimeError as error:
        raise SourceError(f"{uri.text}: {path!r}: {error}; write the path in full") from error
    if candidate.is_absolute():
        return [candidate]
    return [candidate.absolute(), (datasets_root() / str(candidate)).absolute()]


def _kind_of(place: Place) -> str:
    """ "file", "folder", "device or pipe", or "" where there is nothing.

    Raises:
        OSError: where that cannot be told, unlike ``Path.exists``.
    """
    if isinstance(place, StorePath):
        return {"directory": "folder"}.get(kind := place.kind(), kind)
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "device or pipe"


def encode(place: Place) -> str:
    """A path or an address as it stands in a URI."""
    return quote(str(place), safe="/:")


def _decode(raw: str, text: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise SourceError(f"{text}: a % in {raw!r} is not followed by two hex digits; write it %25")
    try:
        decoded = unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise SourceError(f"{text}: the escapes in {raw!r} are not UTF-8") from error
    if "\0" in decoded:
        raise SourceError(f"{text}: {raw!r} holds a zero byte")
    return decoded
