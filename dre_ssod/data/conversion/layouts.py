"""The layouts of datasets: COCO's files, Ultralytics' YOLO, PASCAL VOC's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml

from dre_ssod.data.conversion.coco_content import as_coco, coco_uri
from dre_ssod.data.conversion.plan import (
    Converted,
    Part,
    Plan,
    check_xml_names,
    coco_file,
    different_names,
    is_xml,
    names_in_order,
)
from dre_ssod.data.images import check_size, read_header
from dre_ssod.data.records import Corners, corners, image_size, is_crowd
from dre_ssod.data.sources.uri import encode
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place


def plan_coco(
    parts: Sequence[Part], classes: Sequence[str], output: Place, referenced: bool
) -> Plan:
    """``annotations/instances_SPLIT.json`` and, unless the images stay, ``images/SPLIT``."""
    plan = Plan()
    for part in parts:
        coco = as_coco(part.name, part.records)
        root: Place = coco.image_root
        if not referenced:
            root = output / "images" / part.split
            for image, file in zip(coco.content["images"], part.files, strict=True):
                plan.pictures[f"images/{part.split}/{image['file_name']}"] = file
        json_file = f"annotations/instances_{part.split}.json"
        plan.texts[json_file] = json.dumps(coco.content)
        uri = coco_uri(output / json_file, root, part.name)
        result = Converted(part.split, uri, len(part.records))
        if coco_file(part.name) is None:
            # Not a file that is taken as it is.
            result = part.start(uri)
        result.boxes = len(coco.content.get("annotations", []))
        plan.results.append(result)
    return plan


def plan_yolo(
    parts: Sequence[Part], classes: Sequence[str], output: Place, referenced: bool
) -> Plan:
    """``data.yaml``, ``images/SPLIT`` and ``labels/SPLIT``; ``classes.txt`` for other programs.

    It is in the folder, and among the labels, where LabelImg looks for it.
    """
    plan = Plan()
    names_of_classes = "".join(f"{name}\n" for name in classes)
    for part in parts:
        result = part.start(f"yolo://{encode(output)}?split={quote(part.split)}")
        names = names_in_order(part.files)
        for record, file, name in zip(part.records, part.files, names, strict=True):
            lines = _yolo_lines(record, result)
            text = "".join(f"{line}\n" for line in lines)
            plan.texts[f"labels/{part.split}/{Path(name).stem}.txt"] = text
            plan.pictures[f"images/{part.split}/{name}"] = file
            result.boxes += len(lines)
        plan.texts[f"labels/{part.split}/classes.txt"] = names_of_classes
        plan.results.append(result)
    # Without "path", Ultralytics starts at the folder of the file, wherever that is moved.
    content: dict[str, Any] = {part.split: f"images/{part.split}" for part in parts}
    content["names"] = dict(enumerate(classes))
    plan.texts["classes.txt"] = names_of_classes
    plan.texts["data.yaml"] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return plan


def plan_voc(
    parts: Sequence[Part], classes: Sequence[str], output: Place, referenced: bool
) -> Plan:
    """``Annotations``, ``ImageSets/Main/SPLIT.txt``, ``JPEGImages`` and ``labelmap.txt``."""
    check_xml_names(classes, "VOC")
    chosen = ",".join(quote(text, safe="") for text in classes)
    # All splits share one folder.
    names = iter(different_names([file for part in parts for file in part.files]))
    plan = Plan()
    for part in parts:
        result = part.start(f"voc://{encode(output)}?split={quote(part.split)}&classes={chosen}")
        listing = ""
        for record, file in zip(part.records, part.files, strict=True):
            name = next(names)
            stem = Path(name).stem
            if stem.splitlines() != [stem] or stem.strip() != stem or not is_xml(stem):
                raise SourceError(f"{record['file_name']}: VOC cannot hold this name: rename it")
            plan.texts[f"Annotations/{stem}.xml"] = _voc_xml(record, name, classes, result)
            plan.pictures[f"JPEGImages/{name}"] = file
            listing += f"{stem}\n"
        plan.texts[f"ImageSets/Main/{part.split}.txt"] = listing
        plan.results.append(result)
    if not any(":" in text or text.startswith("#") or text == "background" for text in classes):
        lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in classes)]
        plan.texts["labelmap.txt"] = "\n".join(lines) + "\n"
    return plan


def _yolo_lines(record: dict[str, Any], result: Converted) -> list[str]:
    """One "class x y w h" per box: center and size as fractions of the image."""
    width, height = image_size(record)
    header = read_header(record["file_name"])
    check_size(record["file_name"], (header.height, header.width), (height, width))
    lines = []
    for item in record["annotations"]:
        if is_crowd(item):
            result.lose("crowd regions left out: YOLO would take them for objects")
            continue
        box = corners(item)
        numbers = _fractions(box, width, height)
        if not all(0 <= number <= 1 for number in numbers):
            x1, y1, x2, y2 = box
            inside = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
            numbers = _fractions(inside, width, height)
            result.lose("boxes cut to the image: YOLO's numbers end at its edges")
        if item.get("difficult", 0):
            result.lose("'difficult' flags left out: YOLO has no place for them")
        lines.append(f"{item['category_id']} " + " ".join(f"{n:.12f}" for n in numbers))
    return lines


def _fractions(box: Corners, width: int, height: int) -> list[float]:
    """Center and size of (x1, y1, x2, y2) as fractions of the image."""
    x1, y1, x2, y2 = box
    middle = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
    return [*middle, (x2 - x1) / width, (y2 - y1) / height]


def _voc_xml(
    record: dict[str, Any], file_name: str, classes: Sequence[str], result: Converted
) -> str:
    width, height = image_size(record)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file_name
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    for item in record["annotations"]:
        x1, y1, x2, y2 = corners(item)
        if is_crowd(item):
            result.lose("crowd regions left out: VOC would take them for objects")
            continue
        # Corners are pixels, counted from 1, that belong to the box.
        limits = [round(value, 9) for value in (x1 + 1, y1 + 1, x2, y2)]
        if limits[2] <= limits[0] or limits[3] <= limits[1]:
            result.lose("boxes of at most one pixel left out: in VOC they have no area")
            continue
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = classes[item["category_id"]]
        ElementTree.SubElement(entry, "difficult").text = str(int(item.get("difficult", 0)))
        box = ElementTree.SubElement(entry, "bndbox")
        for tag, number in zip(("xmin", "ymin", "xmax", "ymax"), limits, strict=True):
            ElementTree.SubElement(box, tag).text = f"{number:.9f}".rstrip("0").rstrip(".")
        result.boxes += 1
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
