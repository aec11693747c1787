"""A folder of images of which a labeling program's files label all or a part.

An image that the files do not label is unlabeled, not empty: it is no image of the labeled set, and
one of the folder as an unlabeled set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import FolderSource, list_images, size_of_image
from dre_ssod.data.sources.names import check_class_name, class_index
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place


@dataclass(frozen=True)
class Entry:
    """What the files say of one labeled image.

    Attributes:
        where: the file and the entry in it, for messages.
        image: the image's name in its folder; None if there is no such image.
        size: (width, height) in pixels; None where the files do not say.
        objects: the class name and the annotation, without ``category_id``, of each object.
    """

    where: str
    image: str | None
    size: tuple[int, int] | None
    objects: list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Labels:
    """What the files hold: their entries, and the classes in order if they list them."""

    entries: list[Entry]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a URI says beside the places.

    Attributes:
        classes: in order; empty to take those that the files list, or else all names in them,
            sorted.
        empty_is_labeled: whether an image that a program lists without any object was looked at and
            has none; else it is unlabeled.
        attribute: the name under which the program keeps the class of an object; "" for its only
            one.
        first_pixel: the number of the first pixel in VOC's corners, 0 or 1.
    """

    classes: tuple[str, ...] = ()
    empty_is_labeled: bool = False
    attribute: str = ""
    first_pixel: int = 1


class ImageFiles:
    """The images of a folder, by the names that labeling programs have for them."""

    def __init__(self, folder: Place, remarks: Remarks) -> None:
        self.folder = folder
        self.names = list_images(folder, remarks)
        self._known = set(self.names)
        self._stems = _by(self.names, lambda name: str(PurePosixPath(name).with_suffix("")))
        self._bare = _by(self.names, lambda name: PurePosixPath(name).name)
        self._bare_stems = _by(self.names, lambda name: PurePosixPath(name).stem)

    def of_labels(self, folder: Place, names: Sequence[str]) -> dict[str, str | None]:
        """The image that each file of labels belongs to, which differs in its extension alone.

        It lies in the same place of its own folder or, if the labels have a folder to themselves
        and no subfolders there, anywhere.

        Args:
            folder: of the files of labels.
            names: of all of them, relative to it.

        Raises:
            SourceError: if a file can belong to several.
        """
        is_flat = folder != self.folder and not any("/" in name for name in names)
        found: dict[str, str | None] = {}
        for name in names:
            stem = str(PurePosixPath(name).with_suffix(""))
            found[name] = self._only(self._stems.get(stem), name)
            if is_flat and found[name] is None:
                found[name] = self._only(self._bare_stems.get(stem), name)
        return found

    def named(self, name: str) -> str | None:
        """The image that a program calls so: by its name in the folder, or in a folder above it.

        A bare name may be that of an image in any subfolder.

        Raises:
            SourceError: if there are several.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        parts = [part for part in path.parts if part not in ("/", ".")]
        for start, part in enumerate(["", *parts[:-1]]):
            # What precedes must end with the name of the folder.
            inside = "/".join(parts[start:])
            if part in ("", self.folder.name) and inside in self._known:
                return inside
        return self._only(self._bare.get(path.name), name) if len(parts) == 1 else None

    def ending(self, name: str) -> str | None:
        """The image whose name in the folder is the longest end of a program's path or address.

        A bare name may be that of an image in any subfolder.

        Raises:
            SourceError: if there are several.
        """
        parts = [part for part in PurePosixPath(name).parts if part != "/"]
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((end for end in ends if end in self._known), None)
        return found or (self._only(self._bare.get(name), name) if len(parts) == 1 else None)

    def by(self, key: Callable[[str], str]) -> Callable[[str], str | None]:
        """A search by the names that a program makes of bare names; it may find several, too."""
        found = _by(self.names, lambda name: key(PurePosixPath(name).name))
        return lambda name: self._only(found.get(name), name)

    def _only(self, found: list[str] | None, name: str) -> str | None:
        if not found:
            return None
        if len(found) > 1:
            raise SourceError(
                f"{self.folder}: {name!r} can be {found[0]} and {found[1]}; rename one, or keep "
                "one folder a set"
            )
        return found[0]


Reader = Callable[[Place, ImageFiles, Options, Remarks], Labels]
"""Reads a program's file, or folder of files."""


@dataclass(frozen=True)
class ProgramSource:
    """The labels that a labeling program wrote, and the folder of their images.

    Attributes:
        name: the name in Detectron2's catalogs.
        read: of the program's form.
        labels: its file, or the folder of its files.
        image_root: the folder of the images, searched recursively.
        options: the rest of the URI.
    """

    name: str
    read: Reader
    labels: Place
    image_root: Place
    options: Options = field(default_factory=Options)

    def metadata(self) -> dict[str, Any]:
        """The classes; without ``json_file``, since there is none.

        Raises:
            SourceError: if a file cannot be read.
        """
        labels = self._read(Remarks())
        return {"thing_classes": self._classes(labels), "evaluator_type": "coco"}

    def images(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of all images in the folder, labeled or not; no label is opened.

        Raises:
            SourceError: if there is no image.
        """
        return FolderSource(self.name, self.image_root).images(remarks)

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the images that have labels, in the order of their names.

        Raises:
            SourceError: if a file cannot be read, two entries are of one image, a class is unknown,
                or no image has labels.
        """
        files = ImageFiles(self.image_root, remarks)
        labels = self._read(remarks, files)
        indices = {name: index for index, name in enumerate(self._classes(labels))}
        found = self._by_image(labels.entries, remarks)
        records = []
        for image in files.names:
            if image not in found:
                remarks.add("unlabeled-image", image)
                continue
            entry = found[image]
            file_name = str(self.image_root / image)
            width, height = entry.size or size_of_image(file_name, entry.where, remarks)
            annotations = [
                {**item, "category_id": class_index(name, indices, entry.where)}
                for name, item in entry.objects
            ]
            record = {"file_name": file_name, "image_id": image, "annotations": annotations}
            records.append({**record, "width": width, "height": height})
        return records

    def _read(self, remarks: Remarks, files: ImageFiles | None = None) -> Labels:
        files = files or ImageFiles(self.image_root, remarks)
        labels = self.read(self.labels, files, self.options, remarks)
        for entry in labels.entries:
            for name, _ in entry.objects:
                check_class_name(name, f"{entry.where}: an object")
        return labels

    def _classes(self, labels: Labels) -> list[str]:
        classes = self.options.classes or labels.classes
        return list(classes or sorted({n for entry in labels.entries for n, _ in entry.objects}))

    def _by_image(self, entries: Sequence[Entry], remarks: Remarks) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for entry in entries:
            if entry.image is None:
                remarks.add("labels-alone", entry.where)
            elif entry.image in found:
                raise SourceError(
                    f"{entry.where}: {entry.image} has labels in {found[entry.image].where} as "
                    "well; remove one of them"
                )
            else:
                found[entry.image] = entry
        if not found:
            first = f"; the first is {entries[0].where}" if entries else ""
            raise SourceError(
                f"{self.name}: {self.labels} has labels of {len(entries)} images, none of which is "
                f"in {self.image_root}{first}"
            )
        return found


def box_of(corners: Sequence[float]) -> dict[str, Any]:
    """The annotation of an object, without its class, of (x1, y1, x2, y2) in pixels."""
    return {
        "bbox": [float(value) for value in corners],
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
    }


def remark_on_subsets(path: Place, subsets: Mapping[str, int | None], remarks: Remarks) -> None:
    """Note a file that puts its images into several subsets: the number of images by name."""
    if len(subsets) > 1:
        counts = ", ".join(
            f"{name} ({'its list cannot be read' if count is None else count})"
            for name, count in subsets.items()
        )
        remarks.add("joined-subsets", f"{path}: {len(subsets)} subsets: {counts}")


def _by(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found
