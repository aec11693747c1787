"""Writers of small datasets in the layouts that the sources read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

VocObject = tuple[str, tuple[float, float, float, float], int]
"""Class name, (xmin, ymin, xmax, ymax) as written in the file, difficult."""
YOLO_NAMES = "names: [cat, dog]\n"
YOLO_CONFIG = f"train: images/train\nval: images/val\n{YOLO_NAMES}"


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """Write a gray image of (width, height) pixels at a path, making its folders."""

    def write(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (128, 128, 128)).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def write_coco() -> Callable[..., Path]:
    """Write a COCO file from boxes by image id; categories by id. Images are named ID.png."""

    def write(
        path: Path,
        boxes: dict[int, Sequence[tuple[int, Sequence[float]]]],
        categories: dict[int, str],
        crowd: Sequence[int] = (),
        replaced: dict[str, Any] | None = None,
    ) -> Path:
        annotations = [
            {"image_id": image, "category_id": category, "bbox": list(box)}
            for image, entries in boxes.items()
            for category, box in entries
        ]
        for number, annotation in enumerate(annotations, start=1):
            annotation.update(id=number, area=1.0, iscrowd=int(number in crowd))
        content = {
            "images": [
                {"id": image, "file_name": f"{image}.png", "height": 6, "width": 8}
                for image in boxes
            ],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in categories.items()],
        }
        content.update(replaced or {})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def write_voc(write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write a VOC folder from objects by image id; every split lists the images named for it."""

    def write(
        root: Path,
        objects: dict[str, Sequence[VocObject]],
        splits: dict[str, Sequence[str]] | None = None,
        size: str = "<size><width>8</width><height>6</height><depth>3</depth></size>",
    ) -> Path:
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for split, ids in (splits or {"train": list(objects)}).items():
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text(
                "".join(f"{name}\n" for name in ids), encoding="utf-8"
            )
        for image_id, entries in objects.items():
            write_image(root / "JPEGImages" / f"{image_id}.png")
            body = "".join(map(_object_xml, entries))
            (root / "Annotations" / f"{image_id}.xml").write_text(
                f"<annotation>{size}{body}</annotation>", encoding="utf-8"
            )
        return root

    return write


@pytest.fixture(scope="session")
def write_yolo(write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write label texts by image name, in images/train and labels/train, and data.yaml."""

    def write(root: Path, labels: dict[str, str | None], config: str | None = YOLO_CONFIG) -> Path:
        for name, text in labels.items():
            write_image(root / "images" / "train" / name)
            if text is not None:
                path = (root / "labels" / "train" / name).with_suffix(".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        if config is not None:
            (root / "data.yaml").write_text(config, encoding="utf-8")
        return root

    return write


def _object_xml(entry: VocObject) -> str:
    name, box, difficult = entry
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    # The part has a name and a box of its own, which are not the object's.
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return (
        f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox>{part}</object>"
    )
