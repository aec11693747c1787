"""Images without labels in a folder, and which files count as images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dre_ssod.data.images import ImageError, ImageHeader, read_header
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.uri import is_unicode
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
OTHER_PICTURES = (
    *(".jfif", ".jpe", ".jif", ".mpo", ".heic", ".heif", ".avif", ".gif", ".apng", ".jp2", ".j2k"),
    *(".jxl", ".ppm", ".pgm", ".pnm", ".tga", ".ico", ".psd", ".exr", ".hdr", ".svg", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
)
"""Extensions of pictures that are not read; they are counted, so that nobody misses them."""
_KEPT_BESIDE_DATA = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "#snapshot", "lost+found", "$RECYCLE.BIN")
)
"""Folders in which macOS, Windows and network storage keep copies, thumbnails and what was lost."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's data: hidden, or a system's copies of data."""
    return name.startswith(".") or name in _KEPT_BESIDE_DATA


def is_in_hidden(path: str) -> bool:
    """Whether a file, by its path from the folder of the data, or a folder on its way is hidden."""
    return any(is_hidden(part) for part in re.split(r"[/\\]", path) if part.strip("."))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken as an image: by extension, hidden files never."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not is_hidden(name)


def remark_if_hidden(name: str, remarks: Remarks, where: str) -> None:
    """Note a picture that a file of a set names although it is hidden: it is taken at its word.

    Args:
        name: as the file has it, from the folder that it is relative to.
        where: the file and the entry.
    """
    if is_in_hidden(name):
        remarks.add("hidden-image", f"{where}: {name!r}")


def list_images(folder: Place, remarks: Remarks | None = None) -> list[str]:
    """Names of the images under ``folder``, relative to it, searched recursively through links too.

    Hidden folders are passed over. Sorted by the parts of the path, so the order is the same on
    every file system. A million names take some 170 MiB.

    Args:
        remarks: gets the pictures that are passed over for their extension or since they are
            hidden, and hidden folders.

    Raises:
        SourceError: if a folder cannot be listed, or a name is not valid Unicode.
    """
    found: list[str] = []
    for name in _walk(folder, remarks):
        if is_image_name(os.path.basename(name)):
            found.append(name)
        elif remarks is not None and name.lower().endswith(OTHER_PICTURES):
            remarks.add("other-picture", str(folder / name))
    for name in found:
        if not is_unicode(name):
            raise SourceError(f"{folder}: the file name {name!r} is not UTF-8; rename the file")
    return sorted(found, key=_in_order)


def list_files(folder: Place, extensions: tuple[str, ...]) -> list[str]:
    """Names of the files under ``folder`` with one of these extensions, in either case.

    Searched and sorted as :func:`list_images` does.

    Raises:
        SourceError: if a folder cannot be listed.
    """
    found = (name for name in _walk(folder, None) if name.lower().endswith(extensions))
    return sorted(found, key=_in_order)


def size_of_image(file_name: str, where: str, remarks: Remarks) -> tuple[int, int]:
    """(width, height) from the header of an image whose labels, ``where``, do not say it.

    Raises:
        SourceError: if the file is no image.
    """
    try:
        header = read_header(file_name)
    except ImageError as error:
        raise SourceError(f"{where}: gives no image size; nor does the image: {error}") from error
    remark_if_turned(header, file_name, remarks)
    return header.width, header.height


def remark_if_turned(header: ImageHeader, file_name: str, remarks: Remarks) -> None:
    """Note an image that EXIF turns: labels without a size are taken as of the turned image."""
    if header.orientation != 1:
        remarks.add("exif-rotation", f"{file_name}: orientation {header.orientation}")


def _in_order(name: str) -> str:
    """A key that sorts by the parts of a path: no name has a NUL, which comes before all else."""
    return name.replace("/", "\0")


def _walk(folder: Place, remarks: Remarks | None) -> Iterator[str]:
    """Names of all files under ``folder`` that are not hidden, relative to it."""
    if isinstance(folder, StorePath):
        yield from _names_in_store(folder, remarks)
        return
    seen: set[str] = set()
    for place, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if remarks is not None:
            pictures = [name for name in files if name.lower().endswith(IMAGE_EXTENSIONS)]
            for name in sorted(filter(is_hidden, subfolders + pictures)):
                remarks.add("hidden-file", os.path.join(place, name))
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        inside = Path(place).relative_to(folder).as_posix()
        start = "" if inside == "." else f"{inside}/"
        yield from (start + name for name in sorted(files) if not is_hidden(name))


def _names_in_store(folder: StorePath, remarks: Remarks | None) -> Iterator[str]:
    """The same of a folder in a store."""
    try:
        for name in folder.names():
            if not any(map(is_hidden, name.split("/"))):
                yield name
            elif remarks is not None and name.lower().endswith(IMAGE_EXTENSIONS):
                remarks.add("hidden-file", str(folder / name))
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be listed: {error.strerror}") from error


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename}: the folder cannot be listed: {error.strerror}")


@dataclass(frozen=True)
class FolderSource:
    """``folder://DIR``: unlabeled images, known by their path relative to the folder."""

    name: str
    folder: Place

    def metadata(self) -> dict[str, Any]:
        """Nothing: a folder has no classes and cannot be evaluated on."""
        return {}

    def images(self, remarks: Remarks) -> list[dict[str, Any]]:
        """One record per image: ``file_name`` and ``image_id``.

        Raises:
            SourceError: if there is no image.
        """
        names = list_images(self.folder, remarks)
        if not names:
            others = remarks.items.get("other-picture", ())
            suffixes = Counter(Path(name).suffix.lower() for name in others)
            counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.items())
            raise SourceError(
                f"{self.name}: no image in {self.folder} or below; extensions taken: "
                f"{', '.join(IMAGE_EXTENSIONS)}{f'; passed over: {counts}' if counts else ''}"
            )
        return [{"file_name": str(self.folder / name), "image_id": name} for name in names]

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Always an error: a folder has no labels."""
        raise SourceError(
            f"{self.name}: a folder of images has no labels; name it in DATASETS.UNLABELED, "
            "and give coco://, voc:// or yolo:// where labels are needed"
        )
