"""COCO JSON files as a data source: checked first, then read by Detectron2's own loader."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data.datasets.coco import load_coco_json

from dre_ssod.data.uri import SourceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoSource:
    """``coco://annotations.json?images=DIR``.

    Attributes:
        name: the name in Detectron2's catalogs.
        json_file: annotations in the format of COCO's instances.
        image_root: the folder that ``file_name`` of the images is relative to.
    """

    name: str
    json_file: Path
    image_root: Path

    def metadata(self) -> dict[str, Any]:
        """What ``COCOEvaluator`` needs, with the classes in the order of their category ids.

        ``json_file`` is left out where annotations lack ``area`` or ``iscrowd``, without which
        pycocotools cannot evaluate: the evaluator then converts the records, as it does for VOC.

        Raises:
            SourceError: if the file is not a readable COCO file.
        """
        content = _read_json(self.json_file)
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
        content = _read_json(self.json_file)
        _check_images(content, self.json_file, sizes_needed=False)
        records = []
        for image in sorted(content["images"], key=lambda entry: entry["id"]):
            record = {
                "file_name": str(self.image_root / image["file_name"]),
                "image_id": image["id"],
            }
            record.update({key: image[key] for key in ("height", "width") if key in image})
            records.append(record)
        return records

    def labeled(self) -> list[dict[str, Any]]:
        """Records in Detectron2's format; boxes of no positive finite area are dropped and counted.

        Raises:
            SourceError: if Detectron2 cannot read the file.
        """
        try:
            records = load_coco_json(str(self.json_file), str(self.image_root), self.name)
        except (KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
            raise SourceError(f"{self.json_file}: Detectron2 cannot read it: {error!r}") from error
        dropped = []
        for record in records:
            kept = [item for item in record["annotations"] if _has_area(item["bbox"])]
            dropped += [record["image_id"]] * (len(record["annotations"]) - len(kept))
            record["annotations"] = kept
        if dropped:
            logger.warning(
                f"{self.name}: dropped {len(dropped)} boxes without positive finite width and "
                f"height; the first is in image {dropped[0]!r}"
            )
        return records


def _has_area(box: list[float]) -> bool:
    """Whether an (x, y, w, h) box is finite and has positive sides."""
    return all(map(math.isfinite, box)) and box[2] > 0 and box[3] > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}: not valid JSON: {error}") from error
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
            raise SourceError(f"{path}: {key}[{index}] must be an object, is {entry!r:.80}")
        identifier = entry.get("id")
        if not isinstance(identifier, int) or isinstance(identifier, bool):
            raise SourceError(f"{path}: {key}[{index}] needs an integer 'id', has {identifier!r}")
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
            raise SourceError(f"{where} needs a 'file_name', has {image.get('file_name')!r}")
        for key in ("height", "width"):
            size = image.get(key)
            if size is None and key not in image and not sizes_needed:
                continue
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise SourceError(f"{where} needs a positive integer {key!r}, has {size!r}")
    if empty:
        raise SourceError(f"{path}: 'images' is empty; there is nothing to train or test on")


def _check_categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Class names by category id; empty for a file that names no classes (unlabeled images)."""
    if "categories" not in content:
        return {}
    names: dict[int, str] = {}
    for category in _entries(content, "categories", path):
        name = category.get("name")
        if not isinstance(name, str) or not name:
            raise SourceError(f"{path}: category {category['id']} needs a 'name', has {name!r}")
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
        if not isinstance(image, int):
            raise SourceError(f"{where} needs an integer 'image_id', has {image!r}")
        if not isinstance(category, int) or category not in known:
            raise SourceError(
                f"{where} has category_id {category!r}; 'categories' names {sorted(known)}"
            )
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise SourceError(f"{where} needs 'bbox' as [x, y, width, height], has {box!r:.80}")
