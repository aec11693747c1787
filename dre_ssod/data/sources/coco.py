"""COCO JSON files as a data source: every entry that is used is checked first."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.data.sources.uri import is_unicode, join_inside
from dre_ssod.data.text_files import is_integer, is_number, read_json
from dre_ssod.errors import SourceError

logger = logging.getLogger(__name__)

_FAR = 2**24
"""Single precision, in which boxes are converted, holds whole pixels up to here."""
_show = reprlib.repr


@dataclass(frozen=True)
class CocoSource:
    """``coco://annotations.json?images=DIR[&outside=allow]``.

    Attributes:
        name: the name in Detectron2's catalogs.
        json_file: annotations in the format of COCO's instances.
        image_root: the folder that ``file_name`` of the images is relative to.
        outside: whether ``file_name`` may leave that folder, by ``..`` or as an absolute path.
    """

    name: str
    json_file: Path
    image_root: Path
    outside: bool = False

    def metadata(self) -> dict[str, Any]:
        """What ``COCOEvaluator`` needs, with the classes in the order of their category ids.

        ``json_file`` is left out where annotations lack ``area`` or ``iscrowd``, without which
        pycocotools cannot evaluate: the evaluator then converts the records, as it does for VOC.

        Raises:
            SourceError: if the file is not a readable COCO file.
        """
        content = _read(self.json_file)
        _check_images(content, self.json_file)
        names = _check_categories(content, self.json_file)
        _check_annotations(content, names.keys(), self.json_file)
        ids = sorted(names)
        metadata = {
            "thing_classes": [names[category] for category in ids],
            "thing_dataset_id_to_contiguous_id": {category: i for i, category in enumerate(ids)},
            "image_root": str(self.image_root),
            "evaluator_type": "coco",
        }
        if all("area" in item and "iscrowd" in item for item in content.get("annotations", [])):
            metadata["json_file"] = str(self.json_file)
        return metadata

    def images(self) -> list[dict[str, Any]]:
        """Records of the images, by rising id; the annotations of the file are not looked at."""
        content = _read(self.json_file)
        _check_images(content, self.json_file, sizes_needed=False)
        return self._records(content)

    def labeled(self) -> list[dict[str, Any]]:
        """Records in Detectron2's format; boxes of no positive finite area are dropped and counted.

        A record that lost boxes holds them as ``dropped_boxes``, lists of (x1, y1, x2, y2). The
        objects are those that Detectron2 takes: it leaves out what has polygons, but no valid one.
        Masks and key points are not read.

        Raises:
            SourceError: if the file is not a readable COCO file.
        """
        content = _read(self.json_file)
        _check_images(content, self.json_file)
        names = _check_categories(content, self.json_file)
        _check_annotations(content, names.keys(), self.json_file)
        indices = {category: index for index, category in enumerate(sorted(names))}
        records = self._records(content)
        for record in records:
            record["annotations"] = []
        by_id = {record["image_id"]: record for record in records}
        dropped: list[dict[str, Any]] = []
        strays: list[dict[str, Any]] = []
        maskless: list[dict[str, Any]] = []
        for item in content.get("annotations", []):
            image_id, box = item["image_id"], item["bbox"]
            if image_id not in by_id:
                strays.append(item)
            elif not _has_valid_mask(item):
                maskless.append(item)
            elif not _has_area(box):
                corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
                by_id[image_id].setdefault("dropped_boxes", []).append(corners)
                dropped.append(item)
            else:
                by_id[image_id]["annotations"].append(_to_annotation(item, indices))
        self._warn(dropped, "boxes without positive finite width and height")
        self._warn(maskless, "objects whose polygons all have fewer than three points")
        self._warn(strays, "annotations of images that the file does not list")
        return records

    def _records(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        """Records of the images, by rising id."""
        limit = None if self.outside else self.image_root
        records = []
        for image in sorted(content["images"], key=lambda entry: entry["id"]):
            where = f"{self.json_file}: image {image['id']}"
            path = join_inside(self.image_root, image["file_name"], limit, where)
            record = {"file_name": str(path), "image_id": image["id"]}
            record.update({key: image[key] for key in ("height", "width") if key in image})
            records.append(record)
        return records

    def _warn(self, items: list[dict[str, Any]], what: str) -> None:
        if items:
            first = f"annotation {items[0]['id']} in image {items[0]['image_id']}"
            logger.warning("%s: dropped %d %s; the first is %s", self.name, len(items), what, first)


def _to_annotation(item: dict[str, Any], indices: dict[int, int]) -> dict[str, Any]:
    annotation = {
        "bbox": item["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": indices[item["category_id"]],
    }
    if "iscrowd" in item:
        annotation["iscrowd"] = int(item["iscrowd"])
    return annotation


def _has_valid_mask(item: dict[str, Any]) -> bool:
    """False for polygons of which none has three points; True also for what has no polygons."""
    polygons = item.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        return True
    lengths = [len(polygon) for polygon in polygons if isinstance(polygon, list)]
    return any(length >= 6 and length % 2 == 0 for length in lengths)


def _has_area(box: list[float]) -> bool:
    """Whether the corners of an (x, y, w, h) box are pixels and the far one is beyond the near."""
    x, y, width, height = map(float, box)
    far_x, far_y = x + width, y + height
    return all(abs(value) < _FAR for value in (x, y, far_x, far_y)) and far_x > x and far_y > y


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise SourceError(
            f"{path}: holds a {type(content).__name__}; a COCO file is an object with the lists "
            "'images', 'annotations' and 'categories'"
        )
    return content


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterable[dict[str, Any]]:
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


def _check_images(content: dict[str, Any], path: Path, sizes_needed: bool = True) -> None:
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


def _check_categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Class names by category id; empty for a file that names no classes (unlabeled images)."""
    if "categories" not in content:
        return {}
    names: dict[int, str] = {}
    for category in _entries(content, "categories", path):
        name = category.get("name")
        if not isinstance(name, str) or not name.strip() or not is_unicode(name):
            number = category["id"]
            raise SourceError(f"{path}: category {number} needs a 'name', has {_show(name)}")
        if name in names.values():
            raise SourceError(f"{path}: two categories are called {name!r}; rename or merge them")
        names[category["id"]] = name
    return names


def _check_annotations(content: dict[str, Any], categories: Iterable[int], path: Path) -> None:
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
        if not is_number(annotation.get("area", 0)):
            raise SourceError(f"{where} needs a number as 'area', has {_show(annotation['area'])}")
        crowd = annotation.get("iscrowd", 0)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            raise SourceError(f"{where} needs 0 or 1 as 'iscrowd', has {_show(crowd)}")
        if annotation.get("ignore", 0) not in (0, False):
            raise SourceError(
                f"{where} has 'ignore', which is not supported; mark it 'iscrowd' or remove it"
            )
