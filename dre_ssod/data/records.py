"""What a record in Detectron2's format says: its image's size, its boxes, and which of them count.

A record is the dict of one image with ``file_name`` and ``image_id``; of a labeled image also with
``annotations``, a dict for each object with ``bbox``, ``bbox_mode``, ``category_id`` and possibly
``iscrowd``. What these entries mean is asked here and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.structures import BoxMode

from dre_ssod.errors import SourceError

logger = logging.getLogger(__name__)

Corners = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels."""


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Whether an object is a region of many, which is evaluated on but not trained on."""
    return bool(annotation.get("iscrowd", 0))


def objects_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of a record that are trained on: all but crowd regions."""
    return [item for item in record["annotations"] if not is_crowd(item)]


def corners(annotation: dict[str, Any]) -> Corners:
    """The corners of an object's box, whatever its ``bbox_mode`` is."""
    mode = annotation["bbox_mode"]
    x1, y1, x2, y2 = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
    return float(x1), float(y1), float(x2), float(y2)


def image_size(record: dict[str, Any]) -> tuple[int, int]:
    """(width, height) that a record states, in pixels.

    Raises:
        SourceError: if it does not.
    """
    try:
        return int(record["width"]), int(record["height"])
    except KeyError as error:
        raise SourceError(
            f"{record['file_name']}: the dataset does not say the image's {error.args[0]}"
        ) from error


def drop_boxes_outside(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the boxes that share no point with their image; one warning counts them.

    No view can show them.

    Args:
        records: with ``annotations``; they are not changed. Those without ``height`` and ``width``
            stay as they are.
    """
    kept, dropped = [], []
    for record in records:
        if "height" in record and "width" in record:
            inside = [item for item in record["annotations"] if _meets(item, record)]
            if len(inside) < len(record["annotations"]):
                dropped += [record["file_name"]] * (len(record["annotations"]) - len(inside))
                record = {**record, "annotations": inside}
        kept.append(record)
    if dropped:
        logger.warning(
            "Dropped %d boxes that lie wholly outside their image; the first is that of %s",
            len(dropped),
            dropped[0],
        )
    return kept


def _meets(annotation: dict[str, Any], record: dict[str, Any]) -> bool:
    x1, y1, x2, y2 = corners(annotation)
    return bool(x1 < record["width"] and y1 < record["height"] and x2 > 0 and y2 > 0)
