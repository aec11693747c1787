"""Images and boxes as tasks of labeling programs: Label Studio's JSON, CVAT's XML.

Boxes that have a score are a model's: Label Studio gets them as predictions, which a person accepts
or corrects, CVAT as shapes that were made automatically.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from dre_ssod.data.conversion.plan import Part, Plan, check_xml_names, is_xml, names_in_order
from dre_ssod.data.records import corners, image_size, is_crowd
from dre_ssod.data.sources.uri import encode
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place, StorePath

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves the files below its LOCAL_FILES_DOCUMENT_ROOT."""
_CVAT_IDS = 1_000_000
"""The first id of an image in CVAT's XML, a number that no frame of a task has.

Where CVAT does not find the name of an image it takes the id for the number of a frame. Then it
says that it could not match the item, in place of laying the boxes on another image.
"""

_CONTROL, _OBJECT = "label", "image"


def plan_label_studio(
    parts: Sequence[Part], classes: Sequence[str], output: Place, referenced: bool
) -> Plan:
    """``SPLIT.json`` with the tasks, ``images/SPLIT``, and ``label_config.xml``."""
    check_xml_names(classes, "Label Studio's interface")
    plan = Plan(texts={"label_config.xml": label_studio_config(classes)})
    for part in parts:
        named = _start(plan, part, classes, output, "labelstudio", "json")
        if any("score" in item for _, record in named for item in record["annotations"]):
            for _, record in named:
                scores = [item["score"] for item in record["annotations"] if "score" in item]
                record["prediction_score"] = sum(scores) / max(len(scores), 1)
        tasks = [
            label_studio_task(record, local_address(f"images/{part.split}/{name}"), classes, {})
            for name, record in named
        ]
        plan.texts[f"{part.split}.json"] = json.dumps(tasks)
    return plan


def plan_cvat(
    parts: Sequence[Part], classes: Sequence[str], output: Place, referenced: bool
) -> Plan:
    """``SPLIT.xml`` and ``images/SPLIT``."""
    check_xml_names(classes, "CVAT")
    plan = Plan()
    for part in parts:
        named = _start(plan, part, classes, output, "cvat", "xml")
        plan.texts[f"{part.split}.xml"] = cvat_xml(named, classes)
    return plan


def _start(
    plan: Plan, part: Part, classes: Sequence[str], output: Place, scheme: str, suffix: str
) -> list[tuple[str, dict[str, Any]]]:
    """Enter a part's result and images; gives its new names and records without crowd regions."""
    file, images = (
        encode(output / name) for name in (f"{part.split}.{suffix}", f"images/{part.split}")
    )
    chosen = ",".join(quote(text, safe="") for text in classes)
    looked_at = "&empty=labeled" if scheme == "cvat" else ""
    uri = f"{scheme}://{file}?images={images}&classes={chosen}{looked_at}"
    result = part.start(uri, scores=scheme == "labelstudio")
    named = []
    files = part.files
    for record, file, name in zip(part.records, files, names_in_order(files), strict=True):
        plan.pictures[f"images/{part.split}/{name}"] = file
        kept = [item for item in record["annotations"] if not is_crowd(item)]
        for item in record["annotations"]:
            if is_crowd(item):
                result.lose("crowd regions left out: the program would take them for objects")
            elif item.get("difficult", 0):
                result.lose("'difficult' flags left out: the program has no place for them")
        result.boxes += len(kept)
        named.append((name, {**record, "annotations": kept}))
    plan.results.append(result)
    return named


def label_studio_config(classes: Sequence[str]) -> str:
    """The labeling interface that the tasks need, to be pasted into a project's settings."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_OBJECT, value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name=_CONTROL, toName=_OBJECT)
    for name in classes:
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def label_studio_task(
    record: dict[str, Any], address: str, classes: Sequence[str], data: dict[str, float]
) -> dict[str, Any]:
    """A task with the boxes of an image: predictions if they have scores, else annotations.

    Args:
        address: of the image, as Label Studio shall load it.
        data: further columns of the task, by which it can be sorted.
    """
    width, height = image_size(record)
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    control = {"type": "rectanglelabels", "from_name": _CONTROL, "to_name": _OBJECT, **size}
    results = []
    for number, item in enumerate(record["annotations"]):
        x1, y1, x2, y2 = corners(item)
        value = {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "rectanglelabels": [classes[item["category_id"]]],
        }
        score = {"score": item["score"]} if "score" in item else {}
        results.append({"id": f"box{number}", **control, "value": value, **score})
    task: dict[str, Any] = {"data": {"image": address, **data}}
    if "prediction_score" in record:
        prediction = {"model_version": "dre_ssod", "score": record["prediction_score"]}
        return {**task, "predictions": [{**prediction, "result": results}]}
    return {**task, "annotations": [{"result": results}]}


def local_address(name: str) -> str:
    """The address of an image that Label Studio finds under LOCAL_FILES_DOCUMENT_ROOT."""
    return LOCAL_FILES + quote(name)


def how_to_show(folder: Place) -> str:
    """What Label Studio needs to show images whose addresses begin with the name of this folder.

    It serves what lies in a source storage, and takes none whose path is the document root itself.
    """
    if isinstance(folder, StorePath):
        copy = PurePosixPath("COPY", folder.name)
        return f"{_how_to_show(copy)} {copy} is a copy of {folder} on its machine."
    return _how_to_show(PurePosixPath(Path(os.path.abspath(folder))))


def _how_to_show(folder: PurePosixPath) -> str:
    return (
        "Label Studio shows the images if it runs with LOCAL_FILES_SERVING_ENABLED=true and "
        f"LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(folder.parent))}, and the project has a "
        f"source storage of the type Local Files with the path {folder}. Do not sync it: that "
        "would make further tasks."
    )


def cvat_xml(records: Iterable[tuple[str, dict[str, Any]]], classes: Sequence[str]) -> str:
    """Images, by their names in CVAT, and their boxes as "CVAT for images 1.1"."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (name, record) in enumerate(records, start=_CVAT_IDS):
        if not is_xml(name):
            raise SourceError(f"{record['file_name']}: CVAT cannot hold this name: rename it")
        width, height = map(str, image_size(record))
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=name, width=width, height=height
        )
        for item in record["annotations"]:
            box = {"label": classes[item["category_id"]], "occluded": "0", "z_order": "0"}
            box["source"] = "auto" if "score" in item else "manual"
            for key, value in zip(("xtl", "ytl", "xbr", "ybr"), corners(item), strict=True):
                box[key] = f"{value:.6f}".rstrip("0").rstrip(".")
            ElementTree.SubElement(image, "box", box)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
