"""Labeled datasets written as COCO files, in Ultralytics' YOLO layout or as a VOC folder.

Read back, the new dataset has the same classes in the same order and the same images with the same
boxes in the same order. What a form has no place for is left out and counted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml
from tqdm import tqdm

from dre_ssod.data.conversion.coco_content import as_coco, coco_uri
from dre_ssod.data.images import check_size, read_header
from dre_ssod.data.records import Corners, corners, image_size, is_crowd
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.data.sources.folder import is_image_name
from dre_ssod.errors import SourceError
from dre_ssod.files import open_whole_folder

IMAGE_MODES = ("copy", "link", "reference")

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class Converted:
    """A dataset that was written.

    Attributes:
        split: its part of the new dataset: "train", "val" or "test".
        uri: what it is read by.
        images, boxes: how many were written.
        lost: what the form has no place for, and how many boxes that concerns.
    """

    split: str
    uri: str
    images: int = 0
    boxes: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def lose(self, what: str) -> None:
        """Count a box that lost something, or was lost."""
        self.lost[what] = self.lost.get(what, 0) + 1


@dataclass(frozen=True)
class _Part:
    """A dataset to be written."""

    split: str
    name: str
    records: list[dict[str, Any]]

    @property
    def files(self) -> list[str]:
        return [os.path.abspath(record["file_name"]) for record in self.records]

    def start(self, uri: str) -> Converted:
        """Its result before a box is written."""
        dropped = sum(len(record.get("dropped_boxes", ())) for record in self.records)
        lost = {"objects left out that do not count: see the warnings above": dropped}
        return Converted(self.split, uri, len(self.records), lost=lost if dropped else {})


@dataclass
class _Plan:
    """What a form makes of the parts; nothing is written yet. Names are relative to the output.

    Attributes:
        results: one per part.
        texts: the text files.
        pictures: the image that each image file is made from.
    """

    results: list[Converted] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)


def convert(
    sources: dict[str, str], form: str, output: Path, images: str = "copy"
) -> list[Converted]:
    """Write labeled datasets in another form.

    Args:
        sources: names or URIs by their part of the new dataset, such as "train".
        form: one of ``FORMS``.
        output: folder for the new dataset; it must be empty or not exist. It appears when all is
            written.
        images: "copy"; "link" for symbolic links to the originals; "reference", for "coco" only,
            leaves the images where they are.

    Raises:
        SourceError: if a source cannot be read, the form cannot hold it, or ``output`` is not
            empty. Nothing is written then.
        FileError: if something cannot be written. Nothing is left then.
    """
    if form not in FORMS:
        raise SourceError(f"unknown form {form!r}; valid: {', '.join(FORMS)}")
    if images not in IMAGE_MODES:
        raise SourceError(f"images must be one of {', '.join(IMAGE_MODES)}, is {images!r}")
    if images == "reference" and form != "coco":
        raise SourceError(f"{form} looks for images in its own folders: choose copy or link")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SourceError(f"{output} exists and is not empty; choose another folder")
    classes = class_names(list(sources.values()))
    parts = [_Part(split, name, load_one_labeled(name)) for split, name in sources.items()]
    for part in parts:
        for file in part.files:
            if not os.path.isfile(file):
                raise SourceError(f"{part.name}: the image {file} is missing")
    plan = FORMS[form](parts, classes, output, images == "reference")
    with open_whole_folder(output) as folder:
        pairs = plan.pictures.items()
        for name, file in tqdm(pairs, desc="images", unit="image", disable=None):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file) if images == "link" else shutil.copyfile(file, target)
        for name, text in plan.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return plan.results


def _plan_coco(
    parts: Sequence[_Part], classes: Sequence[str], output: Path, referenced: bool
) -> _Plan:
    """``annotations/SPLIT.json`` and, unless the images stay where they are, ``images/SPLIT``."""
    plan = _Plan()
    for part in parts:
        coco = as_coco(part.name, part.records)
        root = coco.image_root
        if not referenced:
            root = output / "images" / part.split
            for image, file in zip(coco.content["images"], part.files, strict=True):
                plan.pictures[f"images/{part.split}/{image['file_name']}"] = file
        json_file = f"annotations/{part.split}.json"
        plan.texts[json_file] = json.dumps(coco.content)
        uri, boxes = coco_uri(output / json_file, root), len(coco.content.get("annotations", []))
        plan.results.append(Converted(part.split, uri, len(part.records), boxes))
    return plan


def _plan_yolo(
    parts: Sequence[_Part], classes: Sequence[str], output: Path, referenced: bool
) -> _Plan:
    """``data.yaml``, ``images/SPLIT`` and ``labels/SPLIT``."""
    plan = _Plan()
    for part in parts:
        result = part.start(f"yolo://{quote(str(output))}?split={quote(part.split)}")
        names = _names_in_order(part.files)
        for record, file, name in zip(part.records, part.files, names, strict=True):
            lines = _yolo_lines(record, result)
            text = "".join(f"{line}\n" for line in lines)
            plan.texts[f"labels/{part.split}/{Path(name).stem}.txt"] = text
            plan.pictures[f"images/{part.split}/{name}"] = file
            result.boxes += len(lines)
        plan.results.append(result)
    # Without "path", Ultralytics starts at the folder of the file, wherever that is moved.
    content: dict[str, Any] = {part.split: f"images/{part.split}" for part in parts}
    content["names"] = dict(enumerate(classes))
    plan.texts["data.yaml"] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return plan


def _plan_voc(
    parts: Sequence[_Part], classes: Sequence[str], output: Path, referenced: bool
) -> _Plan:
    """``Annotations``, ``ImageSets/Main/SPLIT.txt`` and ``JPEGImages``."""
    for text in classes:
        if text != text.strip() or _NOT_XML.search(text):
            raise SourceError(f"the class {text!r} cannot be written as VOC: rename it")
    chosen = ",".join(quote(text, safe="") for text in classes)
    # All splits share one folder.
    names = iter(_different_names([file for part in parts for file in part.files]))
    plan = _Plan()
    for part in parts:
        result = part.start(
            f"voc://{quote(str(output))}?split={quote(part.split)}&classes={chosen}"
        )
        listing = ""
        for record, file in zip(part.records, part.files, strict=True):
            name = next(names)
            stem = Path(name).stem
            if stem.splitlines() != [stem] or stem.strip() != stem or _NOT_XML.search(stem):
                raise SourceError(f"{record['file_name']}: VOC cannot hold this name: rename it")
            plan.texts[f"Annotations/{stem}.xml"] = _voc_xml(record, name, classes, result)
            plan.pictures[f"JPEGImages/{name}"] = file
            listing += f"{stem}\n"
        plan.texts[f"ImageSets/Main/{part.split}.txt"] = listing
        plan.results.append(result)
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


def _different_names(files: Sequence[str]) -> list[str]:
    """File names that differ without their extensions; numbered where the files' own do not.

    Raises:
        SourceError: for a file that would not be taken as an image.
    """
    names = [os.path.basename(file) for file in files]
    for name, file in zip(names, files, strict=True):
        if not is_image_name(name.lstrip(".")):
            raise SourceError(
                f"{file}: YOLO and VOC folders do not take this extension: convert it"
            )
    # Some file systems take upper and lower case for the same.
    stems = {Path(name).stem.lower() for name in names}
    if len(stems) == len(names) and not any(name.startswith(".") for name in names):
        return names
    digits = len(str(len(names)))
    return [f"{index:0{digits}}_{name}" for index, name in enumerate(names, start=1)]


def _names_in_order(files: Sequence[str]) -> list[str]:
    """Different file names that stand in the order of the files when they are sorted."""
    names = _different_names(files)
    if names == sorted(names) == sorted(names, key=lambda text: Path(text).stem):
        return names
    digits = len(str(len(names)))
    own = [os.path.basename(file) for file in files]
    return [f"{index:0{digits}}_{text}" for index, text in enumerate(own, start=1)]


_Planner = Callable[[Sequence[_Part], Sequence[str], Path, bool], _Plan]

FORMS: dict[str, _Planner] = {"coco": _plan_coco, "yolo": _plan_yolo, "voc": _plan_voc}
"""Planners by the name of the form."""
