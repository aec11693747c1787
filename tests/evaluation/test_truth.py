"""What is evaluated on: the objects that training sees, and nothing that a file says of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from dre_ssod.data.records import objects_of
from dre_ssod.data.sources.catalog import ensure_registered, load_one_labeled
from dre_ssod.evaluation.coco import coco_truth
from dre_ssod.evaluation.evaluators import build_evaluator
from tests.voc_folder import Detection, evaluate_with

Json = dict[str, Any]
SIZE = (160, 120)
NAMES = ["cat", "dog", "fox"]
# One object of each class: (class, x, y, width, height). Small, medium and large in COCO's terms.
OBJECTS = [(0, 20, 20, 24, 24), (1, 60, 20, 50, 60), (2, 5, 10, 120, 100)]


def content(first: int = 1) -> Json:
    """Three images with an object each; all ids start at ``first``."""
    images, annotations = [], []
    for number, (label, *box) in enumerate(OBJECTS):
        name = f"{number}.jpg"
        images.append({"id": first + number, "file_name": name, "width": 160, "height": 120})
        annotations.append(
            {
                "id": first + number,
                "image_id": first + number,
                "category_id": first + label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    categories = [{"id": first + index, "name": name} for index, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def perfect(root: Path, given: Json, objects: list[Any] = OBJECTS) -> dict[str, float]:
    """Figures of a detector that finds exactly the objects."""
    path = root / "a.json"
    path.write_text(json.dumps(given))
    name = ensure_registered(f"coco://{path}?images={root}")
    return perfect_on(name, root, [image["id"] for image in given["images"]], objects)


def perfect_on(
    name: str, root: Path, image_ids: list[int], objects: list[Any] = OBJECTS
) -> dict[str, float]:
    found: dict[Any, list[Detection]] = {image_id: [] for image_id in image_ids}
    for image_id, (label, x, y, width, height) in zip(image_ids, objects, strict=False):
        found[image_id].append((label, 0.9, (x, y, x + width, y + height)))
    results = evaluate_with(build_evaluator(name, str(root / "out")), found)
    return dict(results["bbox"])


PLAIN = {"AP": 100.0, "APs": 100.0, "APm": 100.0, "APl": 100.0}


def assert_plain(figures: dict[str, float]) -> None:
    assert {key: figures[key] for key in PLAIN} == pytest.approx(PLAIN)


@pytest.mark.parametrize("first", [0, 1])
def test_objects_of_id_0_can_be_found(tmp_path: Path, first: int) -> None:
    assert_plain(perfect(tmp_path, content(first)))


RUBBISH = {
    "no width": [30, 30, 0, 20],
    "negative height": [60, 57, 0, -24],
    "negative width": [60, 57, -20, 24],
    "no number": [float("nan"), 5, 10, 10],
    "far away": [5, 5, 1e39, 10],
    "outside": [160, 0, 20, 20],
    "fractions": [0.1, 0.2, 0.5, 0.5],
}


@pytest.mark.parametrize("crowd", [0, 1])
@pytest.mark.parametrize("box", RUBBISH.values(), ids=RUBBISH)
def test_what_training_leaves_out_is_nothing_to_be_found(
    tmp_path: Path, box: list[float], crowd: int
) -> None:
    given = content()
    for number in (1, 2, 3):
        entry = {"id": 90 + number, "image_id": number, "category_id": 1, "area": 400}
        given["annotations"].append({**entry, "bbox": box, "iscrowd": crowd})
    assert_plain(perfect(tmp_path, given))


def test_the_same_box_twice_is_one_object(tmp_path: Path) -> None:
    given = content()
    given["annotations"] += [{**item, "id": 90 + item["id"]} for item in given["annotations"]]
    assert_plain(perfect(tmp_path, given))


def change_areas(area: Any) -> Callable[[Json], None]:
    def change(given: Json) -> None:
        for item in given["annotations"]:
            item["area"] = area(item["area"]) if callable(area) else area

    return change


AREAS = {
    "0": 0,
    "-1": -1,
    "1": 1,
    "null": None,
    "of the image": 160 * 120,
    "negative": lambda area: -area,
    "of a mask, without one": lambda area: area / 50,
}


@pytest.mark.parametrize("area", AREAS.values(), ids=AREAS)
def test_an_area_without_a_mask_does_not_change_the_sizes(tmp_path: Path, area: Any) -> None:
    given = content()
    change_areas(area)(given)
    assert_plain(perfect(tmp_path, given))


def test_the_area_of_a_mask_counts_as_in_coco(tmp_path: Path) -> None:
    """Also of a set that Detectron2 reads, whose records do not say it."""
    given = content()
    for item in given["annotations"]:
        x, y, width, height = item["bbox"]
        item["segmentation"] = [[x, y, x + width, y, x, y + height]]
        item["area"] /= 2
    # The triangles have 288, 1500 and 6000 square pixels: none is large.
    figures = perfect(tmp_path, given)
    assert (figures["APs"], figures["APm"]) == pytest.approx((100.0, 100.0))
    assert np.isnan(figures["APl"])
    name = f"masks {tmp_path}"
    register_coco_instances(name, {}, str(tmp_path / "a.json"), str(tmp_path))
    try:
        load_one_labeled(name)
        assert perfect_on(name, tmp_path, [1, 2, 3]) == pytest.approx(figures, nan_ok=True)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_a_registered_file_that_cannot_be_read_again_gives_areas_of_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()))
    name = f"changed {tmp_path}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    try:
        load_one_labeled(name)
        records = DatasetCatalog.get(name)
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, lambda: records)
        path.write_text("{}")
        with caplog.at_level(logging.WARNING):
            assert_plain(perfect_on(name, tmp_path, [1, 2, 3]))
        assert "APs, APm and APl go by the areas of boxes" in caplog.text
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_more_objects_than_coco_takes_detections(tmp_path: Path) -> None:
    boxes = [(0, 4 + 10 * i, 4 + 10 * j, 7, 7) for i in range(15) for j in range(10)]
    given = content()
    given["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 49, "iscrowd": 0}
        for n, (_, *box) in enumerate(boxes)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(given))
    name = ensure_registered(f"coco://{path}?images={tmp_path}")
    found: list[Detection] = [(0, 0.9, (x, y, x + w, y + h)) for _, x, y, w, h in boxes]
    evaluator = build_evaluator(name, str(tmp_path / "out"))
    assert evaluate_with(evaluator, {1: found, 2: [], 3: []})["bbox"]["AP"] == pytest.approx(100)
    # COCO's protocol: the first 100 of 150 objects, and 67 of 101 recalls up to 2/3.
    assert evaluate_with(evaluator, {1: found[:100], 2: [], 3: []})["bbox"]["AP"] == pytest.approx(
        100 * 67 / 101
    )


def test_the_truth_is_what_training_has(tmp_path: Path) -> None:
    given = content(first=0)
    given["annotations"] += [
        {"id": 90, "image_id": 0, "category_id": 1, "bbox": [1, 1, 0, 5], "area": 9, "iscrowd": 0},
        {"id": 91, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 5], "area": 9, "iscrowd": 1},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(given))
    records = load_one_labeled(f"coco://{path}?images={tmp_path}")
    truth = coco_truth(records, NAMES)
    objects = [item for item in truth["annotations"] if not item["iscrowd"]]
    assert len(objects) == sum(len(objects_of(record)) for record in records) == 3
    assert [item["id"] for item in truth["annotations"]] == [1, 2, 3, 4]
    assert len(truth["images"]) == len(records)
