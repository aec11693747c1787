"""YOLO datasets in the layout of Ultralytics as a data source.

Each image ``.../images/NAME.jpg`` has its boxes in ``.../labels/NAME.txt``, one per line: the index
of the class, then center, width and height as fractions of the image's size.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.images import ImageError, read_header
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import remark_if_turned
from dre_ssod.data.sources.programs.yolo_labels import (
    check_class_files,
    label_file,
    label_folder,
    labels_alone,
    read_labels,
    to_pixels,
)
from dre_ssod.data.sources.yolo_layout import YoloLayout
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath, place_of

_SHOWN = 5


@dataclass(frozen=True)
class YoloSource:
    """``yolo://ROOT?split=train[&classes=A,B,C][&outside=allow]``.

    Attributes:
        name: the name in Detectron2's catalogs.
        place: the dataset folder, or the YAML file in it.
        split: "train", "val" or "test" of the YAML file; without one, a folder's name.
        chosen_classes: the classes in order, where neither the YAML file nor ``classes.txt`` gives
            them.
        outside: whether files of the dataset may name images outside its folder.
    """

    name: str
    place: Place
    split: str
    chosen_classes: tuple[str, ...] = ()
    outside: bool = False

    def metadata(self) -> dict[str, Any]:
        """The classes; without ``json_file``, since there is none.

        Raises:
            SourceError: if the dataset has no classes or not this split.
        """
        layout = self._layout()
        layout.places(self.split)
        return {
            "thing_classes": layout.class_list(self.chosen_classes)[1],
            "evaluator_type": "coco",
        }

    def images(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the split's images; neither labels nor images are opened.

        Their ids are the paths from the dataset folder.

        Raises:
            SourceError: if the split or one of its images is missing.
        """
        return _records(self._layout(), self.split, remarks)

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records in Detectron2's format, with sizes from the images' headers.

        An image without a label file has no objects. A polygon (seven numbers or more) gives
        the box around it. Where the split is a folder of images, label files without an image are
        named.

        Raises:
            SourceError: if a file is missing or malformed, an image cannot be opened, no image has
                a label file, or a list of classes beside them contradicts those in use.
        """
        layout = self._layout()
        origin, names = layout.class_list(self.chosen_classes)
        classes, points = len(names), layout.point_columns()
        records = _records(layout, self.split, remarks)
        labels = _label_files(records, layout.root)
        if layout.has_names:
            check_class_files(labels, layout.root, names, origin)
        _add_sizes(self.name, records, remarks)
        lost = _check_missing(self.name, labels, remarks)
        known = {*labels, *lost}
        for place in layout.places(self.split):
            folder = label_folder(place, layout.root)
            for path in labels_alone(folder, known) if place.is_dir() and folder.is_dir() else ():
                remarks.add("labels-alone", str(path))
        for path, record in labels.items():
            record["annotations"] = [
                {
                    "bbox": to_pixels(fractions, record["width"], record["height"]),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": index,
                    "iscrowd": 0,
                }
                for index, fractions in read_labels(path, classes, points, remarks)
            ]
        return records

    def _layout(self) -> YoloLayout:
        return YoloLayout.read(self.place, self.outside)


def _records(layout: YoloLayout, split: str, remarks: Remarks) -> list[dict[str, Any]]:
    return [
        {"file_name": str(path), "image_id": _relative(path, layout.root)}
        for path in layout.images(split, remarks)
    ]


def _relative(path: Place, root: Place) -> str:
    if isinstance(path, StorePath):
        assert isinstance(root, StorePath), "both are here, or in one store"
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    return Path(os.path.relpath(path, str(root))).as_posix()


def _label_files(records: list[dict[str, Any]], root: Place) -> dict[Place, dict[str, Any]]:
    """The record that each label file, which need not exist, belongs to.

    Raises:
        SourceError: if two images have the same label file.
    """
    found: dict[Place, dict[str, Any]] = {}
    for record in records:
        path = label_file(place_of(record["file_name"]), root)
        if path in found:
            raise SourceError(
                f"{path}: belongs to two images, {found[path]['file_name']} and "
                f"{record['file_name']}; rename one"
            )
        found[path] = record
    return found


def _add_sizes(name: str, records: list[dict[str, Any]], remarks: Remarks) -> None:
    """Set ``width`` and ``height``.

    Raises:
        SourceError: naming the first few of the images that cannot be opened.
    """
    failures: list[ImageError] = []
    for record in records:
        try:
            header = read_header(record["file_name"])
        except ImageError as error:
            failures.append(error)
            continue
        record["width"], record["height"] = header.width, header.height
        remark_if_turned(header, record["file_name"], remarks)
    if failures:
        reasons = "; ".join(map(str, failures[:_SHOWN]))
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise SourceError(
            f"{name}: the boxes of {len(failures)} of {len(records)} images cannot be placed, as "
            f"the size of the image is unknown: {reasons}{more}"
        )


def _check_missing(name: str, labels: dict[Place, dict[str, Any]], remarks: Remarks) -> list[Place]:
    """Remark on images without a label file; the files that may have been meant for them.

    Raises:
        SourceError: if no image has one.
    """
    missing = [path for path in labels if not path.exists()]
    near = _near_misses(labels, missing)
    if len(missing) == len(labels):
        found = next(iter(near.values()), None)
        hint = f"; is {found} meant? Rename such files" if found else ""
        raise SourceError(
            f"{name}: none of the {len(labels)} images has a label file; the first was looked "
            f"for at {missing[0]}{hint}. A set without labels belongs in DATASETS.UNLABELED"
        )
    for path in missing:
        if path in near:
            remarks.add("lost-label", f"{near[path]}: should be {path}")
        remarks.add("no-label-file", f"{labels[path]['file_name']}: no {path}")
    return [*near.values()]


def _near_misses(labels: dict[Place, dict[str, Any]], missing: list[Place]) -> dict[Place, Place]:
    """Label files that are there under another name or in a near folder, by the missing file."""
    found: dict[Place, Place] = {}
    listings: dict[Place, dict[str, Place]] = {}
    for path in missing:
        image = place_of(labels[path]["file_name"])
        for folder in (path.parent, image.parent, path.parent.parent):
            if folder not in listings:
                files = folder.iterdir() if folder.is_dir() else iter(())
                listings[folder] = {
                    _normal(file.name): file for file in files if file not in labels
                }
            for name in (path.name, f"{image.name}.txt"):
                if _normal(name) in listings[folder]:
                    found.setdefault(path, listings[folder][_normal(name)])
    return found


def _normal(name: str) -> str:
    """A file's name as file systems see it that ignore case and how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()
