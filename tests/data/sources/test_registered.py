"""Sets that a user registers in Python: taken, or refused by the name of the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from dre_ssod.data.records import corners
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.errors import SourceError

Writer = Callable[..., Path]
NAME = "registered by a test"
SIZE = (8, 6)


@pytest.fixture
def register(
    tmp_path: Path, write_image: Writer
) -> Iterator[Callable[[dict[str, Any], dict[str, Any]], str]]:
    """Register two records; the second is changed, and so is its annotation."""
    images = [write_image(tmp_path / f"{name}.png", SIZE) for name in "ab"]

    def make(record: dict[str, Any], annotation: dict[str, Any]) -> str:
        records = []
        for number in range(2):
            item = {"bbox": [1, 2, 5, 6], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
            entry = {"file_name": str(images[number]), "image_id": number, "height": 6, "width": 8}
            records.append({**entry, "annotations": [item]})
        records[1]["annotations"][0].update(annotation)
        records[1].update(record)
        for entry in (records[1], *(records[1]["annotations"] or ())):
            for key in [key for key, value in entry.items() if value is ...]:
                del entry[key]
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=["cat", "dog"])
        return NAME

    yield make
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


TAKEN = {
    "plain": ({}, {}),
    "NumPy": (
        {"height": np.int64(6), "width": np.float32(8), "image_id": np.int64(1)},
        {"bbox": np.array([1, 2, 5, 6], np.float32), "category_id": np.int64(1)},
    ),
    "the mode as a number": ({}, {"bbox_mode": 0}),
    "width and height": ({}, {"bbox": [1, 2, 4, 4], "bbox_mode": BoxMode.XYWH_ABS}),
    "fractions": ({}, {"bbox": [1 / 8, 2 / 6, 5 / 8, 1], "bbox_mode": BoxMode.XYXY_REL}),
    "fractions of width and height": (
        {},
        {"bbox": [1 / 8, 2 / 6, 4 / 8, 4 / 6], "bbox_mode": BoxMode.XYWH_REL},
    ),
    "no size": ({"height": ..., "width": ...}, {}),
    "a path": ({"file_name": ...}, {}),
    "a crowd that is none": ({}, {"iscrowd": False}),
}


@pytest.mark.parametrize(("record", "annotation"), TAKEN.values(), ids=TAKEN)
def test_forms_of_the_same_record_give_the_same(
    tmp_path: Path,
    register: Callable[[dict[str, Any], dict[str, Any]], str],
    record: dict[str, Any],
    annotation: dict[str, Any],
) -> None:
    if record.get("file_name") is ...:
        record = {"file_name": tmp_path / "b.png"}
    first, second = load_one_labeled(register(record, annotation))
    other = {"file_name": str(tmp_path / "b.png"), "image_id": 1, "annotations": []}
    assert {**second, "annotations": []} == {**first, **other}
    assert corners(second["annotations"][0]) == pytest.approx((1, 2, 5, 6))
    assert second["annotations"][0]["category_id"] == 1
    assert type(second["annotations"][0]["category_id"]) is int
    assert json.dumps(second["annotations"][0]["bbox"])


REFUSED = {
    "class ids from 1": ({}, {"category_id": 2}, r"category_id 2; it must be an integer from 0 to"),
    "class as text": ({}, {"category_id": "1"}, "category_id '1'"),
    "class as truth": ({}, {"category_id": True}, "category_id True"),
    "no class": ({}, {"category_id": ...}, "category_id None"),
    "no image_id": ({"image_id": ...}, {}, "as 'image_id', has None"),
    "an image_id twice": ({"image_id": 0}, {}, "the image_id 0 is used twice"),
    "no annotations": ({"annotations": None}, {}, "has no annotations"),
    "no file": ({"file_name": ...}, {}, "needs a 'file_name', has None"),
    "no mode": ({}, {"bbox_mode": ...}, "'bbox_mode' of BoxMode.XYXY_ABS, .* has None"),
    "turned boxes": ({}, {"bbox_mode": BoxMode.XYWHA_ABS}, "needs a 'bbox_mode'"),
    "three numbers": ({}, {"bbox": [1, 2, 3]}, r"four numbers as 'bbox', has \[1, 2, 3\]"),
    "texts": ({}, {"bbox": ["1", "2", "3", "4"]}, "four numbers as 'bbox'"),
    "no box": ({}, {"bbox": ...}, "four numbers as 'bbox', has None"),
    "half a pixel": ({"height": 6.5}, {}, "positive integer as 'height', has 6.5"),
    "crowd of 2": ({}, {"iscrowd": 2}, "0 or 1 as 'iscrowd', has 2"),
    "no dict": ({"annotations": [3]}, {}, "annotation 0 must be a dict in Detectron2's format"),
}


@pytest.mark.parametrize(("record", "annotation", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_the_number_of_the_record(
    register: Callable[[dict[str, Any], dict[str, Any]], str],
    record: dict[str, Any],
    annotation: dict[str, Any],
    message: str,
) -> None:
    if record.get("annotations") == [3]:
        name = register({}, {})
        DatasetCatalog.get(name)[1]["annotations"] = [3]
    else:
        name = register(record, annotation)
    with pytest.raises(SourceError, match=f"^{NAME}: record 1.*{message}"):
        load_one_labeled(name)


def test_a_file_that_is_listed_twice_is_refused(
    register: Callable[[dict[str, Any], dict[str, Any]], str],
) -> None:
    name = register({}, {})
    first, second = DatasetCatalog.get(name)
    second["file_name"] = first["file_name"]
    with pytest.raises(SourceError, match=f"^{NAME}: images 0 and 1 are one file, .* lists an im"):
        load_one_labeled(name)


def test_a_function_that_returns_no_records_is_refused() -> None:
    for value, message in ((None, "returns None, not a list"), ([1], "record 0 must be a dict")):
        DatasetCatalog.register(NAME, lambda value=value: value)
        MetadataCatalog.get(NAME).set(thing_classes=["cat"])
        try:
            for load in (load_one_labeled, lambda name: load_unlabeled([name])):
                with pytest.raises(SourceError, match=message):
                    load(NAME)
        finally:
            DatasetCatalog.pop(NAME)
            MetadataCatalog.pop(NAME)


def test_fractions_of_an_image_that_cannot_be_opened_are_refused(
    tmp_path: Path, register: Callable[[dict[str, Any], dict[str, Any]], str]
) -> None:
    unknown = {"height": ..., "width": ..., "file_name": str(tmp_path / "gone.png")}
    name = register(unknown, {"bbox_mode": BoxMode.XYXY_REL})
    with pytest.raises(SourceError, match=r"gone\.png\), annotation 0: .* which is not known"):
        load_one_labeled(name)


def test_classes_that_detectron2_learns_from_the_file_are_found(
    tmp_path: Path, write_coco: Writer
) -> None:
    """``register_coco_instances`` fills the metadata when the records are loaded."""
    path = write_coco(tmp_path / "a.json", {1: [(7, (0, 0, 4, 4))]}, {7: "cat", 3: "dog"})
    register_coco_instances(NAME, {}, str(path), str(tmp_path))
    try:
        assert class_names([NAME]) == ["dog", "cat"]
        assert load_one_labeled(NAME)[0]["annotations"][0]["category_id"] == 1
    finally:
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)
