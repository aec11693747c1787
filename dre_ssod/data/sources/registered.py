"""Sets that others registered with Detectron2, checked as the files of a URI are."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from dre_ssod.data.images import ImageError, read_header
from dre_ssod.data.records import refuse_repeated_files
from dre_ssod.errors import SourceError

_show = reprlib.repr
_ABSOLUTE = {
    BoxMode.XYXY_ABS: BoxMode.XYXY_ABS,
    BoxMode.XYWH_ABS: BoxMode.XYWH_ABS,
    BoxMode.XYXY_REL: BoxMode.XYXY_ABS,
    BoxMode.XYWH_REL: BoxMode.XYWH_ABS,
}
"""The mode that boxes of each mode get."""


def check_images(name: str, records: Any) -> list[dict[str, Any]]:
    """Records of images, whatever else they hold.

    Raises:
        SourceError: if they are no dicts with a ``file_name``, or a size is not in whole pixels.
    """
    if not isinstance(records, Iterable):
        raise SourceError(f"{name}: the registered function returns {_show(records)}, not a list")
    return [_check_image(f"{name}: record {index}", r) for index, r in enumerate(records)]


def check_labeled(name: str, records: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Labeled records in the form that URIs give: plain numbers, absolute boxes, known sizes.

    Args:
        name: under which the set is registered.
        records: what the registered function returned; they are not changed.
        classes: names in the order of their indices.

    Raises:
        SourceError: naming the first record that is not in Detectron2's format.
    """
    checked = check_images(name, records)
    seen: set[Any] = set()
    for index, record in enumerate(checked):
        where = f"{name}: record {index} ({record['file_name']})"
        image_id = record.get("image_id")
        if not isinstance(image_id, int | str):
            raise SourceError(
                f"{where} needs an integer or a text as 'image_id', has {_show(image_id)}"
            )
        if image_id in seen:
            raise SourceError(f"{where}: the image_id {image_id!r} is used twice")
        seen.add(image_id)
        if not isinstance(record.get("annotations"), list):
            raise SourceError(
                f"{where} has no annotations (a list, empty for an image without objects); a set "
                "without labels belongs in DATASETS.UNLABELED"
            )
        _add_size(record)
        record["annotations"] = [
            _check_annotation(f"{where}, annotation {number}", item, record, classes)
            for number, item in enumerate(record["annotations"])
        ]
    refuse_repeated_files(checked, name)
    return checked


def _check_image(where: str, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise SourceError(f"{where} must be a dict in Detectron2's format, is {_show(record)}")
    file_name = record.get("file_name")
    if not isinstance(file_name, str | os.PathLike) or not str(file_name):
        raise SourceError(f"{where} needs a 'file_name', has {_show(file_name)}")
    found = {**record, "file_name": str(file_name)}
    if isinstance(record.get("image_id"), np.integer):
        found["image_id"] = int(record["image_id"])
    for key in ("height", "width"):
        if key in record:
            size = _whole(record[key])
            if size is None or size < 1:
                raise SourceError(
                    f"{where} ({file_name}) needs a positive integer as {key!r}, has "
                    f"{_show(record[key])}; leave it out to have it read from the file"
                )
            found[key] = size
    return found


def _add_size(record: dict[str, Any]) -> None:
    """Take the size of the image from its header where the record does not say it."""
    if "height" in record and "width" in record:
        return
    try:
        header = read_header(record["file_name"])
    except ImageError:
        # Training replaces such an image, and names it.
        return
    record.setdefault("height", header.height)
    record.setdefault("width", header.width)


def _check_annotation(
    where: str, item: Any, record: dict[str, Any], classes: Sequence[str]
) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise SourceError(f"{where} must be a dict in Detectron2's format, is {_show(item)}")
    category = _whole(item.get("category_id"))
    if category is None or not 0 <= category < len(classes):
        raise SourceError(
            f"{where} has the category_id {_show(item.get('category_id'))}; it must be an integer "
            f"from 0 to {len(classes) - 1}, an index into the classes {', '.join(classes)}"
        )
    crowd = item.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise SourceError(f"{where} needs 0 or 1 as 'iscrowd', has {_show(item['iscrowd'])}")
    box, mode = _absolute_box(where, item, record)
    return {
        **item,
        "bbox": box,
        "bbox_mode": mode,
        "category_id": category,
        "iscrowd": int(crowd),
    }


def _absolute_box(
    where: str, item: dict[str, Any], record: dict[str, Any]
) -> tuple[list[float], BoxMode]:
    """The numbers of a box in pixels, and their mode."""
    try:
        box = [float(value) for value in item["bbox"]]
    except (KeyError, TypeError, ValueError):
        box = []
    if len(box) != 4 or any(isinstance(value, str) for value in item["bbox"]):
        raise SourceError(f"{where} needs four numbers as 'bbox', has {_show(item.get('bbox'))}")
    try:
        mode = BoxMode(item["bbox_mode"])
        absolute = _ABSOLUTE[mode]
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"{where} needs a 'bbox_mode' of {', '.join(f'BoxMode.{m.name}' for m in _ABSOLUTE)}, "
            f"has {_show(item.get('bbox_mode'))}"
        ) from error
    if mode != absolute:
        if "width" not in record or "height" not in record:
            raise SourceError(
                f"{where}: its box is in fractions of the image's size, which is not known"
            )
        sides = (record["width"], record["height"])
        box = [value * sides[index % 2] for index, value in enumerate(box)]
    return box, absolute


def _whole(value: Any) -> int | None:
    """A whole number of any type as an integer; None for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return None
    return int(value) if float(value).is_integer() else None
