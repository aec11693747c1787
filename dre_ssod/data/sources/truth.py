"""Records to evaluate on, and the COCO files behind sets that are registered with Detectron2."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.data import MetadataCatalog

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.data.sources.uri import is_uri
from dre_ssod.data.sources.voc import VocSource
from dre_ssod.data.usable import usable_records
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, place_of

logger = logging.getLogger(__name__)


def load_truth(name: str) -> list[dict[str, Any]]:
    """Records of one dataset to evaluate on: with the ``area`` of objects whose masks are known.

    The readers of URIs give it. Detectron2's own reader of COCO files does not; for a set that is
    registered with such a file, it is looked up there.

    Raises:
        SourceError: if its files are missing or cannot be read, or its records cannot be used.
    """
    records = load_one_labeled(name)
    file = registered_coco_file(name)
    if file is None:
        return records
    try:
        in_file = CocoSource(name, *file).labeled(Remarks())
    except SourceError as error:
        logger.warning("%s: APs, APm and APl go by the areas of boxes: %s", name, error)
        return records
    areas = {
        (record["image_id"], *item["bbox"]): item["area"]
        for record in in_file
        for item in record["annotations"]
        if "area" in item
    }
    for record in records:
        for item in record["annotations"]:
            area = areas.get((record["image_id"], *item["bbox"]))
            if area is not None:
                item["area"] = area
    return records


def load_difficult(name: str) -> list[dict[str, Any]]:
    """Records of a set in PASCAL VOC's layout, with ``difficult`` in every annotation.

    Also of names that Detectron2 registered, whose own records do not say what is difficult.

    Raises:
        SourceError: if its files are missing or cannot be read.
    """
    remarks = Remarks()
    if is_uri(name):
        return load_one_labeled(name, remarks)
    metadata = MetadataCatalog.get(name)
    classes = tuple(metadata.thing_classes)
    source = VocSource(name, place_of(metadata.dirname), metadata.split, classes)
    return usable_records(name, source.labeled(remarks), remarks)


def registered_coco_file(name: str) -> tuple[Place, Place] | None:
    """JSON file and image folder of a set that was registered as a COCO file, else None."""
    if is_uri(name):
        return None
    metadata = MetadataCatalog.get(name)
    # A set with a folder of its own has its evaluator's cache as json_file.
    is_file = metadata.get("evaluator_type") == "coco" and not metadata.get("dirname")
    if not is_file or not metadata.get("json_file") or not metadata.get("image_root"):
        return None
    return place_of(metadata.json_file), place_of(metadata.image_root)
