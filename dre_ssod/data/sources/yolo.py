"""YOLO datasets in the layout of Ultralytics as a data source.

Each image ``.../images/NAME.jpg`` has its boxes in ``.../labels/NAME.txt``, one per line: the index
of the class, then center, width and height as fractions of the image's size.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.images import ImageError, read_header
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import remark_if_turned
from dre_ssod.data.sources.programs.shapes import number_in
from dre_ssod.data.sources.yolo_layout import YoloLayout
from dre_ssod.data.text_files import read_lines
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath, place_of

Fractions = tuple[float, float, float, float]
"""(x1, y1, x2, y2) as fractions of the image's size."""

# What writers round away may take a fraction of 1 just above it; what they draw, a little further.
_SLACK, _HAIR = 1e-6, 0.01
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
            "thing_classes": layout.classes(self.chosen_classes),
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
        the box around it.

        Raises:
            SourceError: if a file is missing or malformed, an image cannot be opened, or no image
                has a label file.
        """
        layout = self._layout()
        classes, points = len(layout.classes(self.chosen_classes)), layout.point_columns()
        records = _records(layout, self.split, remarks)
        labels = _label_files(records, layout.root)
        _add_sizes(self.name, records, remarks)
        _check_missing(self.name, labels, remarks)
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


def label_file(image: Place, root: Place) -> Place:
    """Where an image's labels are: its path's last ``images`` made ``labels``, else beside it."""
    if isinstance(image, StorePath) and isinstance(root, StorePath):
        return root / str(_labels_of(image.relative_to(root)))
    assert isinstance(image, Path), "both are here, or in one store"
    assert isinstance(root, Path), "both are here, or in one store"
    inside = image.is_relative_to(root)
    return root / _labels_of(image.relative_to(root)) if inside else Path(_labels_of(image))


def _labels_of(image: PurePath) -> PurePath:
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return type(image)(*parts).with_suffix(".txt")


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


def _check_missing(name: str, labels: dict[Place, dict[str, Any]], remarks: Remarks) -> None:
    """Remark on images without a label file, and on files that may have been meant for them.

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


def read_labels(
    path: Place, classes: int, points: int, remarks: Remarks
) -> list[tuple[int, Fractions]]:
    """Class index and corners, as fractions of the image's size, of each line; none if no file."""
    if not path.exists():
        return []
    return [
        _parse(line.split(), f"{path}, line {number}", classes, points, remarks)
        for number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]


def _parse(
    fields: list[str], where: str, classes: int, points: int, remarks: Remarks
) -> tuple[int, Fractions]:
    values = [number_in(text, f"{where}: a value") for text in fields]
    is_box = len(values) == 5 + points
    if not is_box and (points or len(values) < 7 or len(values) % 2 == 0):
        expected = (
            f"a box with key points has {5 + points} (see 'kpt_shape' in the YAML file)"
            if points
            else "a box has 5 (class, x, y, width, height), without a score; a polygon has a class "
            "and at least 3 points"
        )
        raise SourceError(f"{where}: has {len(values)} numbers; {expected}")
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        raise SourceError(
            f"{where}: the class must be an integer from 0 to {classes - 1}, is {fields[0]}"
        )
    fractions = values[1:5] if is_box else values[1:]
    for text, value in zip(fields[1:], fractions, strict=False):
        if not -_HAIR <= value <= 1 + _HAIR:
            raise SourceError(
                f"{where}: {text} is no fraction of the image's size in [0, 1]; divide x and width "
                "by the image's width, y and height by its height"
            )
    if is_box:
        x, y, width, height = fractions
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xs, ys = fractions[0::2], fractions[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
        if _is_box_with_points(fractions):
            remarks.add("pose-line", where)
    if not -_SLACK <= min(fractions) <= max(fractions) <= 1 + _SLACK:
        remarks.add("cut-box", where)
        x1, y1, x2, y2 = (min(max(corner, 0.0), 1.0) for corner in corners)
        corners = (x1, y1, x2, y2)
    return int(values[0]), corners


def _is_box_with_points(fractions: list[float]) -> bool:
    """Whether numbers read as x, y, width and height of a box, and key points that lie in it.

    The points, (x, y) or (x, y, visibility), zeros where one is not seen, fill half of the box both
    ways. In the box alone lie those of one in ten polygons drawn at random or more; of those that
    fill half of it, too, there are three in a thousand.
    """
    x, y, width, height = fractions[:4]
    for step in (2, 3):
        rest = fractions[4:] if len(fractions[4:]) % step == 0 else []
        points = [point for point in zip(rest[0::step], rest[1::step], strict=True) if any(point)]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        away = max(max(abs(px - x) - width / 2, abs(py - y) - height / 2) for px, py in points)
        is_full = max(xs) - min(xs) >= width / 2 and max(ys) - min(ys) >= height / 2
        if away <= _HAIR and is_full:
            return True
    return False


def to_pixels(corners: Fractions, width: int, height: int) -> list[float]:
    """Rounded to a millionth of a pixel, which gives back whole pixels as they were written."""
    sides = (width, height, width, height)
    return [round(corner * side, 6) for corner, side in zip(corners, sides, strict=True)]
