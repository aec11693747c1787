"""Boxes that lie wholly outside their image: no view can show them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)


def drop_boxes_outside(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the boxes that share no point with their image; one warning counts them.

    Args:
        records: in Detectron2's format with ``annotations``; they are not changed. Those without
            ``height`` and ``width`` stay as they are.
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
            f"Dropped {len(dropped)} boxes that lie wholly outside their image; the first is that "
            f"of {dropped[0]}"
        )
    return kept


def _meets(item: dict[str, Any], record: dict[str, Any]) -> bool:
    x1, y1, x2, y2 = BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS)
    return bool(x1 < record["width"] and y1 < record["height"] and x2 > 0 and y2 > 0)
