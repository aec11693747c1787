from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from PIL import Image

from dre_ssod.data.images import ImageError
from dre_ssod.data.sources.catalog import ensure_registered
from dre_ssod.data.sources.voc import is_voc
from dre_ssod.evaluation import coco
from dre_ssod.evaluation.evaluators import (
    HEADLINE,
    PROTOCOLS,
    VOC_PROTOCOLS,
    build_evaluator,
    build_test_loader,
    evaluate_models,
)
from tests.evaluation.test_voc import (
    LEFT,
    NOWHERE,
    ON_LEFT,
    ON_RIGHT,
    RIGHT,
    random_scene,
)
from tests.factories import NUM_CLASSES, tiny_model
from tests.tiny_dataset import tiny_run, write_tiny_dataset
from tests.voc_folder import Detection, VocObject, evaluate_with, write_voc_folder

# All 101 recalls up to 1/2 have precision 1, the others 0.
HALF = 100 * 51 / 101


def evaluate(
    root: Path,
    objects: dict[str, list[VocObject]],
    detections: dict[str, list[Detection]],
    **options: Any,
) -> dict[str, Any]:
    """All protocols on a set in VOC's layout."""
    name = ensure_registered(
        f"voc://{write_voc_folder(root / 'set', objects, **options)}?split=test"
    )
    return evaluate_with(build_evaluator(name, str(root / "out"), VOC_PROTOCOLS), detections)


def assert_same(first: dict[str, float], second: dict[str, float]) -> None:
    assert first == pytest.approx(second, rel=1e-12, nan_ok=True)


def test_every_protocol_has_a_name_and_an_explanation() -> None:
    assert PROTOCOLS.keys() == {HEADLINE, *VOC_PROTOCOLS}


def test_all_protocols_read_corners_as_the_set_says(tmp_path: Path) -> None:
    """Counted from 0, a box of 10 pixels is what it says; a pixel more would cost an IoU of 0.1."""
    corners = (20, 20, 30, 30)
    root = write_voc_folder(tmp_path / "set", {"a": [("cat", corners, False)]})
    for first in (0, 1):
        name = ensure_registered(f"voc://{root}?split=test&first_pixel={first}")
        box = (corners[0] - first, corners[1] - first, *corners[2:])
        evaluator = build_evaluator(name, str(tmp_path / f"out{first}"), VOC_PROTOCOLS)
        results = evaluate_with(evaluator, {"a": [(0, 0.9, box)]})
        for key in (HEADLINE, *VOC_PROTOCOLS):
            assert results[key]["AP"] == pytest.approx(100.0), (first, key)


def test_detections_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(coco, "write_text", lambda path, text: written.append(path))
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, True)]}
    results = evaluate(tmp_path, objects, {"a": [(0, 0.9, ON_LEFT)]})
    assert results["bbox_ignore_difficult"]["AP50"] == pytest.approx(100.0)
    assert written == [tmp_path / "out" / "coco_instances_results.json"]


def test_a_missed_difficult_object_counts_in_the_headline_alone(tmp_path: Path) -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, True)]}
    results = evaluate(tmp_path, objects, {"a": [(0, 0.9, ON_LEFT)]})
    assert list(results) == [HEADLINE, *VOC_PROTOCOLS]
    assert results[HEADLINE]["AP50"] == pytest.approx(HALF)
    for key in VOC_PROTOCOLS:
        assert results[key]["AP50"] == pytest.approx(100.0)


def test_ignoring_is_what_coco_does_with_crowds(tmp_path: Path) -> None:
    """Any number of detections that mostly lie in a difficult box are neither right nor wrong."""
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("cat", RIGHT, True)]}
    inside = (95.0, 15.0, 110.0, 30.0)
    found: list[Detection] = [(0, 0.9, ON_RIGHT), (0, 0.8, ON_RIGHT), (0, 0.7, inside)]
    results = evaluate(tmp_path, objects, {"a": [*found, (0, 0.6, ON_LEFT)]})
    assert results["bbox_ignore_difficult"]["AP50"] == pytest.approx(100.0)
    # PASCAL VOC asks for the overlap: the small one inside is wrong. So precision is 1/2.
    assert results["voc10_bbox"]["AP50"] == pytest.approx(50.0)
    # The headline has two wrong ones between its two right ones: 1 up to recall 1/2, then 2/4.
    assert results[HEADLINE]["AP50"] == pytest.approx((51 + 50 * 0.5) / 101 * 100)


def test_without_difficult_objects_ignoring_changes_nothing(tmp_path: Path) -> None:
    objects, detections = random_scene(np.random.default_rng(1), images=6)
    easy = {name: [(n, b, False) for n, b, _ in entries] for name, entries in objects.items()}
    results = evaluate(tmp_path / "easy", easy, detections)
    assert_same(results["bbox_ignore_difficult"], results[HEADLINE])
    # With them it does, so the comparison can fail.
    mixed = evaluate(tmp_path / "mixed", objects, detections)
    assert_same(mixed[HEADLINE], results[HEADLINE])
    assert abs(mixed["bbox_ignore_difficult"]["AP"] - mixed[HEADLINE]["AP"]) > 1.0


def test_a_registered_set_gives_what_its_uri_gives(tmp_path: Path) -> None:
    objects, detections = random_scene(np.random.default_rng(2), images=6)
    by_uri = evaluate(tmp_path, objects, detections)
    name = f"registered {tmp_path}"
    register_pascal_voc(name, str(tmp_path / "set"), "test", 2007, ["cat", "dog"])
    try:
        assert is_voc(name)
        evaluator = build_evaluator(name, str(tmp_path / "out"), VOC_PROTOCOLS)
        for key, found in evaluate_with(evaluator, detections).items():
            assert_same(found, by_uri[key])
        assert MetadataCatalog.get(name).get("json_file") is None
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_names_numbers_and_sizes_that_detectron2_cannot_read(tmp_path: Path) -> None:
    objects: dict[str, list[VocObject]] = {
        "image 1 of 2": [("red/blue cell", (11.0, 11.0, 50.0, 50.0), False)],
        "empty": [],
    }
    detections: dict[str, list[Detection]] = {"image 1 of 2": [(0, 0.9, ON_LEFT)], "empty": []}
    for key, found in evaluate(tmp_path, objects, detections, with_size=False).items():
        assert found["AP"] == pytest.approx(100.0), key


def test_the_users_order_of_classes_is_kept(tmp_path: Path) -> None:
    objects: dict[str, list[VocObject]] = {"a": [("cat", LEFT, False), ("dog", RIGHT, False)]}
    root = write_voc_folder(tmp_path / "set", objects)
    name = ensure_registered(f"voc://{root}?split=test&classes=dog,cat")
    evaluator = build_evaluator(name, str(tmp_path / "out"), VOC_PROTOCOLS)
    results = evaluate_with(evaluator, {"a": [(0, 0.9, ON_RIGHT), (1, 0.9, NOWHERE)]})
    for key, found in results.items():
        metric = "AP50" if key.startswith("voc") else "AP"
        assert (found[f"{metric}-dog"], found[f"{metric}-cat"]) == (pytest.approx(100.0), 0.0)


def test_no_detection_at_all_is_no_error(tmp_path: Path) -> None:
    results = evaluate(tmp_path, {"a": [("cat", LEFT, False)]}, {"a": []})
    assert (
        results[HEADLINE]["AP"] == results["voc07_bbox"]["AP"] == results["voc10_bbox"]["AP"] == 0.0
    )


def test_the_log_names_set_and_protocol(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dre_ssod"):
        evaluate(tmp_path, {"a": [("cat", LEFT, False)]}, {"a": [(0, 0.9, ON_LEFT)]})
    lines = [record.getMessage() for record in caplog.records]
    for key, meaning in PROTOCOLS.items():
        [line] = [text for text in lines if f"?split=test, {key} ({meaning}): AP 100.00" in text]
        assert "AP50 100.00" in line


def test_a_coco_set_has_the_headline_alone_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = ensure_registered(write_tiny_dataset(tmp_path).labeled)
    with caplog.at_level(logging.WARNING, "dre_ssod"):
        evaluator = build_evaluator(name, str(tmp_path / "out"), ("voc07_bbox",))
    assert "TEST.VOC_PROTOCOLS voc07_bbox are left out for it" in caplog.text
    results = evaluate_with(evaluator, {1: [(0, 0.9, ON_LEFT)]})  # type: ignore[dict-item]
    assert results.keys() == {HEADLINE}


def test_the_batch_size_changes_no_result(tmp_path: Path) -> None:
    """On images of two shapes, in batches that mix them; detections are equal to the last bit."""
    data = write_tiny_dataset(tmp_path)
    annotations = tmp_path / "train.json"
    content = json.loads(annotations.read_text())
    for entry in content["images"][::3]:
        path = tmp_path / "train" / entry["file_name"]
        with Image.open(path) as image:
            image.resize((64, 64)).save(path)
        entry["height"] = entry["width"] = 64
    annotations.write_text(json.dumps(content))
    results, files = [], []
    for size in (1, 3):
        cfg = tiny_run(data, tmp_path / f"by {size}", **{"TEST.IMS_PER_BATCH": size})
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
        ensure_registered(data.labeled)
        sizes = [len(batch) for batch in build_test_loader(cfg, data.labeled)]
        assert sizes == ([1] * 8 if size == 1 else [3, 3, 2])
        models = {"teacher": tiny_model(cfg, spread=0.5)}
        results.append(evaluate_models(cfg, models, "inference")["teacher"])
        [path] = (tmp_path / f"by {size}").rglob("coco_instances_results.json")
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert len(json.loads(files[0])) > 50
    assert results[0][HEADLINE] == pytest.approx(results[1][HEADLINE], rel=0, abs=0, nan_ok=True)


def test_files_are_read_as_in_training(tmp_path: Path) -> None:
    """A file that is not of the size its set states is refused by name, in evaluation too."""
    data = write_tiny_dataset(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "train" / "3.png")
    cfg = tiny_run(data, tmp_path / "run")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    ensure_registered(data.labeled)
    with pytest.raises(ImageError, match=r"3\.png"):
        evaluate_models(cfg, {"teacher": tiny_model(cfg)}, "inference")
