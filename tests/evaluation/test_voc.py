from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation import PascalVOCDetectionEvaluator

from dre_ssod.data.sources.catalog import ensure_registered, load_one_labeled
from dre_ssod.evaluation.voc import VOCEvaluator
from tests.voc_folder import Detection, VocObject, evaluate_with, write_voc_folder

CLASSES = ["cat", "dog"]
# Written 1-based and inclusive; the continuous box is (10, 10, 50, 50) and so on.
LEFT, RIGHT = (11, 11, 50, 50), (91, 11, 130, 50)
ON_LEFT, ON_RIGHT = (10.0, 10.0, 50.0, 50.0), (90.0, 10.0, 130.0, 50.0)
NOWHERE = (60.0, 70.0, 80.0, 110.0)


def figures(
    objects: dict[str, list[VocObject]],
    detections: dict[str, list[Detection]],
    eleven_points: bool = False,
) -> dict[str, float]:
    labels = {"cat": 0, "dog": 1}
    records = [
        {
            "image_id": image_id,
            "annotations": [
                {
                    "bbox": [box[0] - 1.0, box[1] - 1.0, box[2], box[3]],
                    "category_id": labels[name],
                    "difficult": int(difficult),
                }
                for name, box, difficult in entries
            ],
        }
        for image_id, entries in objects.items()
    ]
    evaluator = VOCEvaluator("voc", records, CLASSES, eleven_points)
    found: dict[str, float] = evaluate_with(evaluator, detections)["voc"]
    return found


def test_both_rules_by_hand() -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, False)]}
    detections: dict[str, list[Detection]] = {"a": [(0, 0.9, ON_LEFT), (0, 0.8, NOWHERE)]}
    # Recall 1/2 at precision 1: half of the area, and six of the eleven recalls 0, 0.1 ... 1.
    assert figures(objects, detections)["AP50"] == pytest.approx(50.0)
    assert figures(objects, detections, eleven_points=True)["AP50"] == pytest.approx(600 / 11)
    # A wrong one before the right one: precision 1/2.
    detections["a"][1] = (0, 0.95, NOWHERE)
    assert figures(objects, detections)["AP50"] == pytest.approx(25.0)


def test_a_difficult_object_neither_helps_nor_hurts() -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, True)]}
    easy: Detection = (0, 0.5, ON_LEFT)
    missed = figures(objects, {"a": [easy]})
    found_twice = figures(objects, {"a": [(0, 0.9, ON_RIGHT), (0, 0.8, ON_RIGHT), easy]})
    assert missed == pytest.approx(found_twice, nan_ok=True)
    assert missed["AP"] == missed["AP50-cat"] == pytest.approx(100.0)
    objects["a"][1] = ("cat", RIGHT, False)
    assert figures(objects, {"a": [easy]})["AP50"] == pytest.approx(50.0)


def test_a_second_detection_of_an_object_is_wrong() -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, False)]}
    twice: list[Detection] = [(0, 0.9, ON_LEFT), (0, 0.8, ON_LEFT), (0, 0.7, ON_RIGHT)]
    # Precision 1 up to recall 1/2, then 2/3.
    assert figures(objects, {"a": twice})["AP50"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_a_class_with_nothing_to_find_is_left_out_of_the_mean() -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("dog", RIGHT, True)]}
    detections: dict[str, list[Detection]] = {"a": [(0, 0.9, ON_LEFT), (1, 0.9, NOWHERE)]}
    for eleven_points in (False, True):
        found = figures(objects, detections, eleven_points)
        assert found["AP"] == pytest.approx(100.0)
        assert math.isnan(found["AP50-dog"])
    assert math.isnan(figures({"a": []}, {"a": []})["AP"])


def random_scene(
    rng: np.random.Generator, images: int
) -> tuple[dict[str, list[VocObject]], dict[str, list[Detection]]]:
    """Objects, and detections that are near them, far from them, repeated, and tied in score."""
    objects: dict[str, list[VocObject]] = {}
    detections: dict[str, list[Detection]] = {}
    for number in range(images):
        name = f"image{number}"
        objects[name], detections[name] = [], []
        for _ in range(int(rng.integers(0 if number else 4, 6))):
            label = len(objects[name]) % 2
            corner, side = rng.integers(1, 60, 2), rng.integers(5, 50, 2)
            box = [int(v) for v in (*corner, *(corner + side))]
            objects[name].append(
                (CLASSES[label], box, len(objects[name]) > 1 and rng.random() < 0.3)
            )
            for _ in range(int(rng.integers(0, 3))):
                near = np.array(box) + rng.normal(0, 3, 4)
                detections[name].append((label, round(rng.random(), 2), near.tolist()))
        far = rng.uniform(0, 60, 2)
        detections[name].append((int(rng.integers(2)), rng.random(), [*far, *(far + 30)]))
    return objects, detections


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_detectron2(tmp_path: Path, year: int, seed: int) -> None:
    objects, detections = random_scene(np.random.default_rng(seed), images=12)
    root = write_voc_folder(tmp_path / f"VOC{year}", objects)
    name = ensure_registered(f"voc://{root}?split=test")
    theirs = evaluate_with(PascalVOCDetectionEvaluator(name), detections)["bbox"]
    mine = VOCEvaluator("voc", load_one_labeled(name), CLASSES, eleven_points=year == 2007)
    found = evaluate_with(mine, detections)["voc"]
    assert 0 < theirs["AP"] < theirs["AP50"] < 100
    for metric in ("AP", "AP50", "AP75"):
        assert found[metric] == pytest.approx(theirs[metric], rel=1e-12)


def test_the_processes_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gathered from two processes counts as what one process saw."""
    objects, detections = random_scene(np.random.default_rng(9), images=8)
    whole = figures(objects, detections)
    names = list(detections)
    halves = []

    def keep(found: object, dst: int) -> list[object]:
        halves.append(found)
        return list(halves)

    monkeypatch.setattr("dre_ssod.evaluation.voc.comm.gather", keep)
    figures(objects, {name: detections[name] for name in names[:4]})
    assert figures(objects, {name: detections[name] for name in names[4:]}) == whole
