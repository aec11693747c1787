"""COCO JSON files as a data source: every entry that is used is checked first."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.records import refuse_repeated_files
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import remark_if_hidden
from dre_ssod.data.sources.names import check_class_name
from dre_ssod.data.sources.programs.shapes import around_turned
from dre_ssod.data.sources.recognizing import advice, scheme_of_json, scheme_of_text
from dre_ssod.data.sources.uri import join_inside
from dre_ssod.data.text_files import is_integer, is_number, read_json
from dre_ssod.data.usable import remark_if_many_are_empty
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place

_show = reprlib.repr
_LARGEST_MASK = 1.01
"""Area of a mask as a share of its box's, up to what rounding makes of 1."""


@dataclass(frozen=True)
class CocoSource:
    """``coco://annotations.json?images=DIR[&empty=unlabeled][&outside=allow]``.

    Attributes:
        name: the name in Detectron2's catalogs.
        json_file: annotations in the format of COCO's instances.
        image_root: the folder that ``file_name`` of the images is relative to.
        outside: whether ``file_name`` may leave that folder, by ``..`` or as an absolute path.
        empty: what an image without annotations is: "unlabeled", "labeled", or "" where nobody has
            said it; then it is labeled, and many are remarked on.
    """

    name: str
    json_file: Place
    image_root: Place
    outside: bool = False
    empty: str = ""

    def metadata(self) -> dict[str, Any]:
        """The classes in the order of their category ids.

        There is no ``json_file``: whoever evaluates gets the truth from the records, as the images
        of training do.

        Raises:
            SourceError: if the file is not a readable COCO file.
        """
        _, names = self._checked(Remarks())
        ids = sorted(names)
        return {
            "thing_classes": [names[category] for category in ids],
            "thing_dataset_id_to_contiguous_id": {category: i for i, category in enumerate(ids)},
            "image_root": str(self.image_root),
            "evaluator_type": "coco",
        }

    def images(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the images, by rising id; the annotations of the file are not looked at."""
        content = _read(self.json_file)
        _check_images(content, self.json_file, sizes_needed=False)
        return self._records(content, remarks)

    def labeled(self, remarks: Remarks) -> list[dict[str, Any]]:
        """Records in Detectron2's format, with the ``area`` of each object that has a mask, and the
        ``score`` of a model's.

        Masks and key points themselves are not read.

        Raises:
            SourceError: if the file is not a readable COCO file, lists an image twice, or has no
                annotation where that makes all images unlabeled.
        """
        content, names = self._checked(remarks)
        indices = {category: index for index, category in enumerate(sorted(names))}
        records = self._records(content, remarks)
        refuse_repeated_files(records, self.json_file)
        for record in records:
            record["annotations"] = []
        by_id = {record["image_id"]: record for record in records}
        items = content.get("annotations", [])
        without_areas = _one_for_all(items, remarks)
        for item in items:
            if item["id"] == 0:
                remarks.add("zero-id", _describe(item))
            if item["image_id"] not in by_id:
                remarks.add("stray-annotation", _describe(item))
                continue
            has_mask = _has_mask(item, remarks)
            annotation = {
                "bbox": item["bbox"] if has_mask else turned_box(item),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": indices[item["category_id"]],
                "iscrowd": int(item.get("iscrowd") or 0),
            }
            area = None if without_areas else _possible_area(item, remarks)
            if has_mask and area is not None:
                annotation["area"] = float(area)
            if is_number(item.get("score")):
                annotation["score"] = float(item["score"])
            by_id[item["image_id"]]["annotations"].append(annotation)
        if self.empty == "unlabeled":
            return self._drawn(records, remarks)
        if not self.empty:
            remark_if_many_are_empty(records, remarks)
        return records

    def _drawn(self, records: list[dict[str, Any]], remarks: Remarks) -> list[dict[str, Any]]:
        for record in records:
            if not record["annotations"]:
                remarks.add("unlabeled-image", record["file_name"])
        drawn = [record for record in records if record["annotations"]]
        if not drawn:
            raise SourceError(
                f"{self.json_file}: none of its {len(records)} images has an annotation, so "
                "empty=unlabeled makes all of them unlabeled; name the set in DATASETS.UNLABELED"
            )
        return drawn

    def _checked(self, remarks: Remarks) -> tuple[dict[str, Any], dict[int, str]]:
        """The content of the file, and class names by category id."""
        content = _read(self.json_file)
        _check_images(content, self.json_file)
        listed = _check_categories(content, self.json_file)
        _check_annotations(content, listed, self.json_file)
        used = {item["category_id"] for item in content.get("annotations", [])}
        return content, _classes(listed, used, self.json_file, remarks)

    def _records(self, content: dict[str, Any], remarks: Remarks) -> list[dict[str, Any]]:
        """Records of the images, by rising id."""
        limit = None if self.outside else self.image_root
        records = []
        for image in sorted(content["images"], key=lambda entry: entry["id"]):
            where = f"{self.json_file}: image {image['id']}"
            path = join_inside(self.image_root, image["file_name"], limit, where, remarks)
            remark_if_hidden(image["file_name"], remarks, where)
            record = {"file_name": str(path), "image_id": image["id"]}
            record.update({key: image[key] for key in ("height", "width") if key in image})
            records.append(record)
        return records


def _describe(item: dict[str, Any]) -> str:
    return f"annotation {item['id']} in image {item['image_id']}"


def _one_for_all(items: Sequence[dict[str, Any]], remarks: Remarks) -> bool:
    """Whether objects of different boxes all state the same area."""
    stated = (item for item in items if item.get("area") is not None)
    first = next(stated, None)
    if first is None or any(item["area"] != first["area"] for item in stated):
        return False
    sizes = {item["bbox"][2] * item["bbox"][3] for item in items if item.get("area") is not None}
    if len(sizes) == 1:
        return False
    remarks.add("placeholder-area", f"all are {first['area']:g}")
    return True


def _possible_area(item: dict[str, Any], remarks: Remarks) -> float | None:
    """The area that an object states, if it can be that of a mask in its box."""
    area, box = item.get("area"), float(item["bbox"][2]) * float(item["bbox"][3])
    if area is None or 0 < area <= _LARGEST_MASK * box:
        return area
    if box > 0:
        remarks.add("placeholder-area", f"{_describe(item)}: {area:g}")
    return None


def _has_mask(item: dict[str, Any], remarks: Remarks) -> bool:
    """Whether an object has a run-length mask, or a polygon of three points."""
    mask = item.get("segmentation")
    if not isinstance(mask, list) or not mask:
        return bool(mask)
    lengths = [len(polygon) for polygon in mask if isinstance(polygon, list)]
    valid = any(length >= 6 and length % 2 == 0 for length in lengths)
    if not valid:
        remarks.add("bad-mask", _describe(item))
    return valid


def turned_box(item: dict[str, Any]) -> list[float]:
    """[x, y, width, height] around the box of an object, which CVAT turns about its center."""
    attributes = item.get("attributes")
    degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
    x, y, width, height = item["bbox"]
    if not (is_number(degrees) and degrees and math.isfinite(degrees) and min(width, height) > 0):
        return item["bbox"]
    x1, y1, x2, y2 = around_turned(x, y, width, height, degrees, about=(0.5, 0.5))
    return [x1, y1, x2 - x1, y2 - y1]


def _read(path: Place) -> dict[str, Any]:
    try:
        content = read_json(path)
    except SourceError as error:
        text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        if (scheme := scheme_of_text(text)) is None:
            raise
        raise SourceError(f"{error}{advice(scheme)}") from error
    scheme = scheme_of_json(content)
    if not isinstance(content, dict) or scheme is not None:
        raise SourceError(
            f"{path}: holds a {type(content).__name__}; a COCO file is an object with the lists "
            f"'images', 'annotations' and 'categories'{advice(scheme)}"
        )
    return content


def _entries(content: dict[str, Any], key: str, path: Place) -> Iterable[dict[str, Any]]:
    """The objects of one of the file's lists, each with an id that no other one has."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise SourceError(f"{path}: {key!r} must be a list; it is {type(entries).__name__}")
    seen = set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise SourceError(f"{path}: {key}[{index}] must be an object, is {_show(entry)}")
        identifier = entry.get("id")
        if not is_integer(identifier):
            raise SourceError(
                f"{path}: {key}[{index}] needs an integer 'id', has {_show(identifier)}"
            )
        if identifier in seen:
            raise SourceError(f"{path}: {key}: the id {identifier} is used twice")
        seen.add(identifier)
        yield entry


def _check_images(content: dict[str, Any], path: Place, sizes_needed: bool = True) -> None:
    empty = True
    for image in _entries(content, "images", path):
        empty = False
        where = f"{path}: image {image['id']}"
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise SourceError(f"{where} needs a 'file_name', has {_show(image.get('file_name'))}")
        for key in ("height", "width"):
            size: Any = image.get(key)
            if size is None and key not in image and not sizes_needed:
                continue
            if not is_integer(size) or size < 1:
                raise SourceError(f"{where} needs a positive integer {key!r}, has {_show(size)}")
    if empty:
        raise SourceError(f"{path}: 'images' is empty; there is nothing to train or test on")


def _check_categories(content: dict[str, Any], path: Place) -> dict[int, str]:
    """Names by category id; empty for a file that names no classes (unlabeled images)."""
    if "categories" not in content:
        return {}
    return {
        category["id"]: check_class_name(category.get("name"), f"{path}: category {category['id']}")
        for category in _entries(content, "categories", path)
    }


def _classes(
    listed: dict[int, str], used: set[int], path: Place, remarks: Remarks
) -> dict[int, str]:
    """Class names by category id.

    Of categories of one name, those without objects are left out: Roboflow writes the project's
    name as category 0, which may be that of its only class.
    """
    names: dict[int, str] = {}
    for name in dict.fromkeys(listed.values()):
        same = [number for number in listed if listed[number] == name]
        kept = [number for number in same if number in used] or same[-1:]
        if len(kept) > 1:
            raise SourceError(f"{path}: two categories are called {name!r}; rename or merge them")
        for number in same:
            if number != kept[0]:
                remarks.add("unused-category", f"category {number}, {name!r}")
        names[kept[0]] = name
    return names


def _check_annotations(content: dict[str, Any], categories: Iterable[int], path: Place) -> None:
    if "annotations" not in content:
        return
    known = set(categories)
    for annotation in _entries(content, "annotations", path):
        where = f"{path}: annotation {annotation['id']}"
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not is_integer(image):
            raise SourceError(f"{where} needs an integer 'image_id', has {_show(image)}")
        if not is_integer(category) or category not in known:
            raise SourceError(
                f"{where} has category_id {_show(category)}; 'categories' names {sorted(known)}"
            )
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise SourceError(f"{where} needs 'bbox' as [x, y, width, height], has {_show(box)}")
        area, crowd = annotation.get("area"), annotation.get("iscrowd")
        if area is not None and not is_number(area):
            raise SourceError(f"{where} needs a number as 'area', has {_show(area)}")
        if crowd is not None and (not isinstance(crowd, int) or crowd not in (0, 1)):
            raise SourceError(f"{where} needs 0 or 1 as 'iscrowd', has {_show(crowd)}")
        if annotation.get("ignore", 0) not in (0, False):
            raise SourceError(
                f"{where} has 'ignore', which is not supported; mark it 'iscrowd' or remove it"
            )
