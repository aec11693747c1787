"""The figures must be those of pycocotools, the reference that papers report."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dre_ssod.benchmark.boxes import draw_detections, draw_truth
from dre_ssod.data.sources.catalog import ensure_registered
from dre_ssod.data.sources.truth import load_truth
from dre_ssod.evaluation.coco import BoxEvaluator, evaluate_boxes
from dre_ssod.evaluation.evaluators import VOC_PROTOCOLS, build_evaluator
from tests.evaluation.test_voc import random_scene
from tests.voc_folder import Detection, evaluate_with, write_voc_folder

Json = dict[str, Any]
TOLERANCE = 1e-6


def official(truth: Json, detections: list[Json], images: list[Any] | None = None) -> COCOeval:
    """pycocotools itself, on copies: it writes into what it is given."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(copy.deepcopy(detections)), "bbox")
        if images is not None:
            evaluation.params.imgIds = images
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(truth: Json, detections: list[Json], images: list[Any] | None = None) -> Any:
    """All 12 figures, the precisions and the recalls; returns our evaluation."""
    ours, theirs = evaluate_boxes(truth, detections, images), official(truth, detections, images)
    np.testing.assert_allclose(ours.stats, theirs.stats, rtol=0, atol=TOLERANCE)
    for name in ("precision", "recall"):
        assert ours.eval[name].shape == theirs.eval[name].shape
        np.testing.assert_allclose(ours.eval[name], theirs.eval[name], rtol=0, atol=TOLERANCE)
    return ours


@pytest.mark.parametrize("seed", range(5))
def test_generated_sets(seed: int) -> None:
    truth = draw_truth(images=60, classes=7, seed=seed)
    detections = draw_detections(truth, seed=seed)
    # So that the comparison can fail: crowds, equal scores, and all sizes of objects are there.
    assert any(item["iscrowd"] for item in truth["annotations"])
    scores = [item["score"] for item in detections]
    assert len(set(scores)) < len(scores)
    ours = assert_equal(truth, detections)
    assert (ours.stats > 0.0).all()
    assert (ours.stats < 0.99).all()


number = st.integers(0, 40)
box = st.tuples(number, number, st.integers(1, 40), st.integers(1, 40))
"""Whole numbers in a small range: overlaps of exactly 0.5, 0.75 and 1 turn up, and so do ties."""
image_id = st.sampled_from(["10", "9", "a b", "ä"])
category = st.sampled_from([3, 90, 7])


@settings(max_examples=150, deadline=None)
@given(
    objects=st.lists(st.tuples(image_id, category, box, st.booleans()), max_size=14),
    found=st.lists(st.tuples(image_id, category, box, st.integers(0, 4)), min_size=1, max_size=25),
)
def test_any_set(objects: list[Any], found: list[Any]) -> None:
    """Names as ids of images, in no order; gaps in ids of classes; areas other than the box's."""
    truth = {
        "images": [{"id": name, "height": 80, "width": 80} for name in ("9", "ä", "10", "a b")],
        "categories": [{"id": number, "name": str(number)} for number in (90, 3, 7)],
        "annotations": [
            {
                "id": position + 1,
                "image_id": image,
                "category_id": label,
                "bbox": list(map(float, corners)),
                "area": corners[2] * corners[3] * 0.8,
                "iscrowd": int(crowd),
            }
            for position, (image, label, corners, crowd) in enumerate(objects)
        ],
    }
    detections = [
        {"image_id": i, "category_id": c, "bbox": list(map(float, b)), "score": score / 4}
        for i, c, b, score in found
    ]
    assert_equal(truth, detections)


def scene() -> tuple[Json, list[Json]]:
    truth = draw_truth(images=12, classes=3, seed=3)
    return truth, draw_detections(truth, seed=3)


def test_images_without_detections_and_classes_without_objects() -> None:
    truth, detections = scene()
    absent = truth["categories"][1]["id"]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != absent]
    silent = {image["id"] for image in truth["images"][::2]}
    ours = assert_equal(truth, [d for d in detections if d["image_id"] not in silent])
    assert (ours.eval["precision"][:, :, 1] == -1).all()


def test_no_object_at_all() -> None:
    truth, detections = scene()
    assert (assert_equal({**truth, "annotations": []}, detections).stats == -1).all()


def test_more_detections_than_count() -> None:
    truth, detections = scene()
    image = truth["images"][0]["id"]
    first = next(d for d in detections if d["image_id"] == image)
    many = [{**first, "score": 0.001 * (i % 7)} for i in range(250)]
    assert_equal(truth, [*many, *detections])


def test_only_the_images_asked_for() -> None:
    truth, detections = scene()
    asked = [image["id"] for image in truth["images"][3:6]]
    part = assert_equal(truth, detections, asked)
    assert not np.allclose(part.stats, evaluate_boxes(truth, detections).stats)


@pytest.mark.parametrize("first", [0, -3, 2**40])
def test_ids_of_objects_play_no_part(first: int) -> None:
    """pycocotools finds no match for an object of id 0."""
    truth, detections = scene()
    expected = evaluate_boxes(truth, detections)
    for position, item in enumerate(truth["annotations"]):
        item["id"] = first + position
    np.testing.assert_array_equal(evaluate_boxes(truth, detections).stats, expected.stats)


@pytest.mark.parametrize("limit", [5, 200])
def test_another_number_of_detections(limit: int) -> None:
    truth, detections = scene()
    image = truth["images"][0]["id"]
    objects = [item for item in truth["annotations"] if item["image_id"] == image]
    first = next(item for item in detections if item["image_id"] == image)
    many = [{**first, "bbox": objects[i % len(objects)]["bbox"]} for i in range(250)]
    found = [*many, *detections]
    ours = evaluate_boxes(truth, found, limit=limit)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = official(truth, found)
        theirs.params.maxDets = [1, 10, limit]
        theirs.evaluate()
        theirs.accumulate()
    for name in ("precision", "recall"):
        np.testing.assert_allclose(ours.eval[name], theirs.eval[name], rtol=0, atol=TOLERANCE)
    precision = theirs.eval["precision"][:, :, :, 0, -1]
    assert ours.stats[0] == pytest.approx(precision[precision > -1].mean())


def test_annotations_of_images_that_are_not_listed_do_not_count() -> None:
    truth, detections = scene()
    gone = truth["images"].pop()["id"]
    assert any(item["image_id"] == gone for item in truth["annotations"])
    kept = [d for d in detections if d["image_id"] != gone]
    assert_equal(truth, kept)
    with pytest.raises(KeyError, match=str(gone)):
        evaluate_boxes(truth, detections)


def test_nothing_given_is_changed() -> None:
    truth, detections = scene()
    before = copy.deepcopy((truth, detections))
    evaluate_boxes(truth, detections)
    assert (truth, detections) == before


@pytest.mark.parametrize("seed", [4, 5])
def test_the_protocols_have_the_figures_of_detectron2s_evaluator(tmp_path: Path, seed: int) -> None:
    """On the ground truth of each protocol, per-class AP included."""
    objects, detections = random_scene(np.random.default_rng(seed), images=12)
    name = ensure_registered(f"voc://{write_voc_folder(tmp_path / 'set', objects)}?split=test")
    evaluator = build_evaluator(name, str(tmp_path / "out"), VOC_PROTOCOLS[:1])
    results = evaluate_with(evaluator, detections)
    assert len(results) == 2
    for part, (key, figures) in zip(evaluator._evaluators, results.items(), strict=True):
        assert isinstance(part, BoxEvaluator), key
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps(part._truth))
        metadata = MetadataCatalog.get(str(path))
        metadata.set(json_file=str(path), thing_classes=MetadataCatalog.get(name).thing_classes)
        reference = COCOEvaluator(metadata.name, ("bbox",), use_fast_impl=False)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = evaluate_with(reference, detections)["bbox"]
        MetadataCatalog.remove(metadata.name)
        assert figures.keys() == expected.keys()
        assert "AP-dog" in figures
        assert figures == pytest.approx(expected, rel=0, abs=TOLERANCE, nan_ok=True)


def coco_set(root: Path, truth: Json) -> str:
    """A registered set; its images are never opened."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "truth.json"
    images = [{**image, "file_name": f"{image['id']}.jpg"} for image in truth["images"]]
    path.write_text(json.dumps({**truth, "images": images}), encoding="utf-8")
    return ensure_registered(f"coco://{path}?images={root}")


def evaluator_of(name: str, output_dir: str | None = None) -> BoxEvaluator:
    return BoxEvaluator("bbox", name, load_truth(name), output_dir)


def seen_by(truth: Json) -> dict[Any, list[Detection]]:
    """One detection at each object."""
    classes = {c["id"]: i for i, c in enumerate(truth["categories"])}
    found: dict[Any, list[Detection]] = {image["id"]: [] for image in truth["images"]}
    for item in truth["annotations"]:
        x, y, width, height = item["bbox"]
        corners = (x, y, x + width, y + height)
        found[item["image_id"]].append((classes[item["category_id"]], 0.5, corners))
    return found


def test_detections_are_filed_with_the_ids_of_the_annotation_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    truth, _ = scene()
    name = coco_set(tmp_path, truth)
    evaluator = evaluator_of(name, str(tmp_path / "out"))
    capsys.readouterr()
    with caplog.at_level(logging.INFO):
        results = evaluate_with(evaluator, seen_by(truth))
    filed = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [f["category_id"] for f in filed] == [a["category_id"] for a in truth["annotations"]]
    assert results["bbox"]["AP"] == pytest.approx(100.0)
    assert capsys.readouterr().out == ""
    assert f"Evaluating {len(filed)} detections with faster-coco-eval" in caplog.text
    assert "Average Recall" in caplog.text
    # A second call does not find ids that the first one has translated already.
    assert evaluator.evaluate() == results


def test_no_detection_gives_0_where_there_are_objects(tmp_path: Path) -> None:
    truth, _ = scene()
    evaluator = evaluator_of(coco_set(tmp_path, truth))
    figures = evaluate_with(evaluator, {image["id"]: [] for image in truth["images"]})["bbox"]
    # The figures that any detections of it have, at 0.
    expected = evaluate_with(evaluator, seen_by(truth))["bbox"]
    assert figures.keys() == expected.keys()
    for name, value in figures.items():
        assert math.isnan(value) if math.isnan(expected[name]) else value == 0.0
    assert figures["AP"] == 0.0


def test_a_set_without_annotations_gives_detections_and_no_figures(tmp_path: Path) -> None:
    truth, _ = scene()
    found = seen_by(truth)
    del truth["annotations"]
    evaluator = evaluator_of(coco_set(tmp_path, truth), str(tmp_path / "out"))
    assert evaluate_with(evaluator, found) == {}
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
