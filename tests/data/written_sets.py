"""Writers of the same dataset in every layout that has labels, and what a reader found there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import yaml
from detectron2.structures import BoxMode
from PIL import Image

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import Source
from dre_ssod.data.usable import usable_records

Box = tuple[int, float, float, float, float]
"""Class index, x1, y1, x2, y2 in pixels."""
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Example:
    """What is written: sizes (width, height) and boxes by the image's name, and the classes."""

    folder: str
    classes: list[str]
    images: dict[str, tuple[tuple[int, int], list[Box]]]


def write_coco(root: Path, example: Example) -> str:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (size, boxes)) in enumerate(sorted(example.images.items())):
        file = {"file_name": f"{name}.png", "width": size[0], "height": size[1]}
        images.insert(0, {"id": number, **file})
        for index, x1, y1, x2, y2 in boxes:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 10 * index + 5}
            annotations.append({"id": len(annotations), "image_id": number, **box})
    categories = [{"id": 10 * i + 5, "name": name} for i, name in enumerate(example.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (root / "a%20b.json").write_text(json.dumps(content), encoding="utf-8")
    write_images(root / "im ages", example, sized=False)
    return f"coco://{quote(str(root / 'a%20b.json'))}?images={quote(str(root / 'im ages'))}"


def write_voc(root: Path, example: Example) -> str:
    write_images(root / "JPEGImages", example, sized=False)
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, (size, boxes) in example.images.items():
        objects = "".join(
            f"<object><name>{escape(example.classes[index])}</name><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for index, x1, y1, x2, y2 in boxes
        )
        text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}"
        path = root / "Annotations" / f"{name}.xml"
        path.write_text(f"<annotation>{text}</annotation>", encoding="utf-8")
    listing = "\n".join(sorted(example.images))
    (root / "ImageSets" / "Main" / "train.txt").write_text(listing, encoding="utf-8")
    classes = ",".join(quote(name, safe="") for name in example.classes)
    return f"voc://{quote(str(root))}?split=train&classes={classes}"


def write_yolo(root: Path, example: Example) -> str:
    write_images(root / "images" / "train", example, sized=True)
    (root / "labels" / "train").mkdir(parents=True)
    for name, ((width, height), boxes) in example.images.items():
        lines = [
            f"{index} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
            for index, x1, y1, x2, y2 in boxes
        ]
        path = root / "labels" / "train" / f"{name}.txt"
        path.write_text("".join(lines), encoding="utf-8")
    content = {"train": "images/train", "names": dict(enumerate(example.classes))}
    (root / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return f"yolo://{quote(str(root))}?split=train"


def write_images(folder: Path, example: Example, sized: bool) -> None:
    """Images of their size where it is read from them, empty files elsewhere."""
    folder.mkdir(parents=True)
    for name, (size, _) in example.images.items():
        path = folder / f"{name}.png"
        if sized:
            Image.new("1", size).save(path)
        else:
            path.touch()


def read_usable(source: Source) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """What training gets of a source, and what is to be said of it by kind."""
    remarks = Remarks()
    records = usable_records("the set", source.labeled(remarks), remarks)
    return records, dict(remarks.items)


def boxes_of(records: Sequence[dict[str, Any]]) -> list[list[tuple[int, Corners]]]:
    """Class index and corners of every box, by image."""
    return [
        [
            (
                item["category_id"],
                tuple(BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS)),
            )
            for item in record["annotations"]
        ]
        for record in records
    ]
