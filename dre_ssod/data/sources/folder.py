"""Images without labels in a folder, and which files count as images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dre_ssod.data.sources.uri import is_unicode
from dre_ssod.errors import SourceError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken as an image: by extension, hidden files never."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def list_images(folder: Path) -> list[str]:
    """Names of the images under ``folder``, relative to it, searched recursively through links too.

    Sorted by the parts of the path, so the order is the same on every file system. A million names
    take some 170 MiB.

    Raises:
        SourceError: if a folder cannot be listed, or a name is not valid Unicode.
    """
    found: list[str] = []
    seen: set[str] = set()
    for place, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        inside = Path(place).relative_to(folder).as_posix()
        start = "" if inside == "." else f"{inside}/"
        found += [start + name for name in files if is_image_name(name)]
    for name in found:
        if not is_unicode(name):
            raise SourceError(f"{folder}: the file name {name!r} is not UTF-8; rename the file")
    # No name has a NUL, which comes before all other characters.
    return sorted(found, key=lambda name: name.replace("/", "\0"))


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename}: the folder cannot be listed: {error.strerror}")


@dataclass(frozen=True)
class FolderSource:
    """``folder://DIR``: unlabeled images, known by their path relative to the folder."""

    name: str
    folder: Path

    def metadata(self) -> dict[str, Any]:
        """Nothing: a folder has no classes and cannot be evaluated on."""
        return {}

    def images(self) -> list[dict[str, Any]]:
        """One record per image: ``file_name`` and ``image_id``.

        Raises:
            SourceError: if there is no image.
        """
        names = list_images(self.folder)
        if not names:
            raise SourceError(
                f"{self.name}: no image in {self.folder} or below; "
                f"extensions taken: {', '.join(IMAGE_EXTENSIONS)}"
            )
        return [{"file_name": str(self.folder / name), "image_id": name} for name in names]

    def labeled(self) -> list[dict[str, Any]]:
        """Always an error: a folder has no labels."""
        raise SourceError(
            f"{self.name}: a folder of images has no labels; name it in DATASETS.UNLABELED, "
            "and give coco://, voc:// or yolo:// where labels are needed"
        )
