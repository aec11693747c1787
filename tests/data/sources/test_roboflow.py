"""Exports in Roboflow's layouts, as its own library supervision writes and reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import supervision
import yaml
from PIL import Image

from dre_ssod.data.records import corners
from dre_ssod.data.sources.catalog import class_names, load_one_labeled

CLASSES = ["platelet", "red cell", "never seen"]
TRUTH = {
    "b.jpg": [(1, [3, 5, 40, 44]), (0, [50, 10, 90, 60])],
    "a.jpg": [(0, [0, 0, 64, 48])],
    "c.jpg": [],
}


@pytest.fixture
def dataset(tmp_path: Path) -> supervision.DetectionDataset:
    images = {name: str(tmp_path / name) for name in TRUTH}
    for path in images.values():
        Image.new("RGB", (97, 61)).save(path)
    found = {
        images[name]: supervision.Detections(
            xyxy=np.array([box for _, box in objects], np.float32).reshape(-1, 4),
            class_id=np.array([number for number, _ in objects], int),
        )
        for name, objects in TRUTH.items()
    }
    return supervision.DetectionDataset(CLASSES, [*images.values()], found)


def check(uri: str) -> None:
    assert class_names([uri]) == CLASSES
    records = load_one_labeled(uri)
    found = {Path(record["file_name"]).name: record["annotations"] for record in records}
    assert found.keys() == TRUTH.keys()
    for name, objects in TRUTH.items():
        assert [item["category_id"] for item in found[name]] == [number for number, _ in objects]
        for item, (_, box) in zip(found[name], objects, strict=True):
            assert corners(item) == pytest.approx(box, abs=0.01)


def test_its_yolo_export(dataset: supervision.DetectionDataset, tmp_path: Path) -> None:
    root = tmp_path / "export"
    for part in ("train", "valid"):
        folder = root / part
        dataset.as_yolo(str(folder / "images"), str(folder / "labels"), str(root / "data.yaml"))
    described = yaml.safe_load((root / "data.yaml").read_text())
    described |= {"train": "../train/images", "val": "../valid/images"}
    described["roboflow"] = {"project": "cells", "version": 1, "license": "CC BY 4.0"}
    (root / "data.yaml").write_text(yaml.safe_dump(described))
    check(f"yolo://{root}?split=train")
    check(f"yolo://{root}?split=val")


def test_its_coco_export(dataset: supervision.DetectionDataset, tmp_path: Path) -> None:
    folder = tmp_path / "export" / "train"
    dataset.as_coco(str(folder), str(folder / "_annotations.coco.json"))
    check(f"coco://{folder}/_annotations.coco.json?images={folder}")
