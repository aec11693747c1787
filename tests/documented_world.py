"""A folder in which the commands of README.md and docs run: small files under their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image

from tests import ROOT
from tests.factories import SIZE

CELLS = ("Platelets", "RBC", "WBC")
Box = tuple[int, int, int, int]


def write_world(root: Path) -> None:
    """Write data sets of one or two boxes an image; commands are given in ``root``."""
    (root / "configs").symlink_to(ROOT / "configs")
    names = [{"id": number, "name": name} for number, name in enumerate(CELLS, start=1)]
    _write_coco(root / "labels.json", root / "photos", "a", 12, names)
    _write_coco(root / "val.json", root / "photos", "v", 4, names)
    _write_coco(root / "hidden.json", root / "more_photos", "n", 6, names)
    # Corrected by hand, out of the pseudo-labeled photos.
    _write_coco(root / "corrected.json", root / "photos", "m", 2, names)
    _write_annotations(root / "annots", sorted((root / "photos").glob("a*")), CELLS)
    _write_label_studio(root / "export.json", ["m00001.jpg", "m00002.jpg"])
    data = root / "datasets"
    _write_coco(data / "VOC07small/train.json", data / "VOC07small/images", "s", 12, names)
    counts = {"train": 60, "val": 4, "test": 6}
    _write_voc(data / "BCCD", counts, CELLS)
    _write_voc(data / "VOC2007", {"trainval": 6, "test": 4}, CLASS_NAMES)
    _write_voc(data / "VOC2012", {"trainval": 6}, CLASS_NAMES)
    categories = _get_builtin_metadata("coco")["thing_dataset_id_to_contiguous_id"]
    named = _get_builtin_metadata("coco")["thing_classes"]
    coco = [{"id": key, "name": named[index]} for key, index in categories.items()]
    for part, count in (("train2017", 200), ("val2017", 4)):
        file = data / "coco" / "annotations" / f"instances_{part}.json"
        _write_coco(file, data / "coco" / part, "", count, coco)
    lists = {"1.0": {"1": [3, 5]}}
    (root / "COCO_supervision.txt").write_text(json.dumps(lists), encoding="utf-8")
    (root / "my_ids.json").write_text(json.dumps(["train_1", "train_2"]), encoding="utf-8")


def _write_coco(
    file: Path, folder: Path, prefix: str, count: int, categories: Sequence[dict[str, object]]
) -> None:
    images, annotations = [], []
    for number in range(1, count + 1):
        name = f"{prefix}{number:05d}.jpg"
        boxes = _draw(folder / name, number)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for x1, y1, x2, y2 in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[len(annotations) % len(categories)]["id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _write_label_studio(file: Path, images: Sequence[str]) -> None:
    """An export as JSON, with an object of each class in every image."""
    results = [
        {
            "type": "rectanglelabels",
            "original_width": SIZE[1],
            "original_height": SIZE[0],
            "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": [name]},
        }
        for name in CELLS
    ]
    tasks = [
        {"id": number, "data": {"image": f"photos/{name}"}, "annotations": [{"result": results}]}
        for number, name in enumerate(images, start=1)
    ]
    file.write_text(json.dumps(tasks), encoding="utf-8")


def _write_voc(root: Path, counts: dict[str, int], classes: Sequence[str]) -> None:
    (root / "ImageSets/Main").mkdir(parents=True)
    files = []
    for split, count in counts.items():
        ids = [f"{split}_{number}" for number in range(count)]
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids), encoding="utf-8")
        files += [root / "JPEGImages" / f"{image_id}.jpg" for image_id in ids]
    for number, file in enumerate(files):
        _draw(file, number)
    _write_annotations(root / "Annotations", files, classes)


def _write_annotations(folder: Path, files: Sequence[Path], classes: Sequence[str]) -> None:
    """One XML file for each image, with one object."""
    folder.mkdir(parents=True)
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    for number, file in enumerate(files):
        item = (
            f"<object><name>{classes[number % len(classes)]}</name><pose>Left</pose>"
            "<truncated>0</truncated><difficult>0</difficult><bndbox><xmin>10</xmin>"
            "<ymin>10</ymin><xmax>40</xmax><ymax>45</ymax></bndbox></object>"
        )
        (folder / f"{file.stem}.xml").write_text(
            f"<annotation><filename>{file.name}</filename>{size}{item}</annotation>",
            encoding="utf-8",
        )


def _draw(file: Path, seed: int) -> list[Box]:
    """Write a noisy image with two squares; no two files of a set are equal."""
    rng = np.random.default_rng([seed, len(str(file.parent))])
    left, top = (int(value) for value in rng.integers(2, 16, 2))
    boxes = [(left, top, left + 30, top + 32), (left + 45, top + 8, left + 70, top + 34)]
    image = rng.integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] += np.uint8(80 + 60 * number)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, quality=90)
    return boxes
