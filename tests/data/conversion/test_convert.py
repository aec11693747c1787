"""Datasets written in another form, read back and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.structures import Boxes, Instances

from dre_ssod.data.conversion.convert import FORMS, convert
from dre_ssod.data.loader import BatchPlan, build_paired_loader
from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper
from dre_ssod.data.sources.catalog import class_names, ensure_registered, load_one_labeled
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.evaluation.evaluators import build_evaluator
from tests.data.conversion.conftest import OBJECTS, Writer
from tests.data.written_sets import boxes_of


def pixels_of(records: Sequence[dict[str, Any]]) -> list[bytes]:
    return [Path(record["file_name"]).read_bytes() for record in records]


def test_a_converted_set_reads_back_the_same(voc: str, tmp_path: Path, form: str) -> None:
    [result] = convert({"train": voc}, form, tmp_path / "new")
    before, after = load_one_labeled(voc), load_one_labeled(result.uri)
    assert class_names([result.uri]) == class_names([voc])
    assert boxes_of(after) == boxes_of(before)
    assert pixels_of(after) == pixels_of(before)
    assert (result.split, result.images, result.boxes) == ("train", 6, 7)
    sizes = [(record["width"], record["height"]) for record in after]
    assert sizes == [(32, 24)] * 6


def recipe(**changes: Any) -> ViewRecipe:
    base = {"short_sides": (16, 32), "sampling": "range", "max_size": 64, "flip": "horizontal"}
    return ViewRecipe(**{**base, "image_format": "RGB", "fill": (0, 0, 0), **changes})


def batches(uri: str) -> list[tuple[torch.Tensor, ...]]:
    """What training sees of four batches of half labeled, half unlabeled images."""
    pools = build_pools([uri], [uri], filter_empty=True, overlap=True)
    loader = build_paired_loader(
        pools.labeled,
        pools.unlabeled,
        LabeledMapper(recipe(photometric=True)),
        UnlabeledMapper(recipe(), recipe(photometric=True)),
        BatchPlan(labeled=2, unlabeled=2),
        seed=3,
    )
    found: list[tuple[torch.Tensor, ...]] = []
    for batch in islice(loader, 4):
        for sample in batch.labeled:
            instances = sample["instances"]
            found.append((sample["image"], instances.gt_boxes.tensor, instances.gt_classes))
        for pair in batch.unlabeled:
            found += [(view.image, view.matrix) for view in (pair.weak, pair.strong)]
    return found


def test_training_sees_the_same_through_all_forms(voc: str, tmp_path: Path, form: str) -> None:
    [result] = convert({"train": voc}, form, tmp_path / "new")
    expected, found = batches(voc), batches(result.uri)
    assert len(found) == len(expected) == 4 * (2 + 2 * 2)
    for ours, theirs in zip(found, expected, strict=True):
        for tensor, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(tensor, other, rtol=0, atol=0)


def average_precision(uri: str, folder: Path) -> dict[str, float]:
    """AP of detections that depend on the place of an image in its set alone."""
    evaluator = build_evaluator(ensure_registered(uri), str(folder))
    evaluator.reset()
    rng = np.random.default_rng(0)
    for record, boxes in zip(
        load_one_labeled(uri), [list(v) for v in OBJECTS.values()], strict=True
    ):
        corners = np.array([box for _, box, _ in boxes], np.float64).reshape(-1, 4)
        found = Instances((24, 32))
        found.pred_boxes = Boxes(torch.tensor(corners + rng.normal(0, 1, corners.shape)))
        found.scores = torch.tensor(rng.random(len(boxes)))
        found.pred_classes = torch.tensor([int(name == "dog") for name, _, _ in boxes])
        evaluator.process([record], [{"instances": found}])
    return dict(evaluator.evaluate()["bbox"])


def test_ap_is_the_same_through_all_forms(voc: str, tmp_path: Path, form: str) -> None:
    [result] = convert({"test": voc}, form, tmp_path / "new")
    expected = average_precision(voc, tmp_path / "eval_source")
    found = average_precision(result.uri, tmp_path / "eval_new")
    assert 0 < expected["AP"] < 100
    for name in ("AP", "AP50", "AP75", "AP-cat", "AP-dog"):
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


def test_parts_go_into_one_dataset(voc: str, tmp_path: Path, write_voc: Writer, form: str) -> None:
    # The image has the name of one in the first set.
    root = write_voc(tmp_path / "other", {"ant": [("cat", (1, 1, 4, 4), 0)]})
    other = f"voc://{root}?split=train&classes=cat,dog"
    results = convert({"train": voc, "val": other}, form, tmp_path / "new")
    assert [result.split for result in results] == ["train", "val"]
    for result, source in zip(results, (voc, other), strict=True):
        assert boxes_of(load_one_labeled(result.uri)) == boxes_of(load_one_labeled(source))
        assert pixels_of(load_one_labeled(result.uri)) == pixels_of(load_one_labeled(source))


def test_the_yolo_layout_is_that_of_ultralytics(voc: str, tmp_path: Path) -> None:
    [result] = convert({"train": voc}, "yolo", tmp_path / "new")
    content = yaml.safe_load((tmp_path / "new" / "data.yaml").read_text(encoding="utf-8"))
    assert content == {"train": "images/train", "names": {0: "cat", 1: "dog"}}
    # In the order of the source, which its names alone do not give.
    names = [path.stem for path in sorted((tmp_path / "new" / "images" / "train").iterdir())]
    assert names == ["1_zebra 1", "2_ant", "3_ant-2", "4_10", "5_9", "6_bee"]
    labels = tmp_path / "new" / "labels" / "train"
    assert sorted(path.stem for path in labels.iterdir()) == [*names, "classes"]
    # LabelImg opens the list of classes that lies beside a label file.
    for folder in (tmp_path / "new", labels):
        assert (folder / "classes.txt").read_text(encoding="utf-8") == "cat\ndog\n"
    assert (labels / "3_ant-2.txt").read_text(encoding="utf-8") == ""
    # (1, 1, 12, 9) covers x from 0 to 12 of 32 and y from 0 to 9 of 24.
    [line] = (labels / "2_ant.txt").read_text(encoding="utf-8").splitlines()
    assert line == "0 0.187500000000 0.187500000000 0.375000000000 0.375000000000"
    assert result.lost == {"'difficult' flags left out: YOLO has no place for them": 1}


def test_difficult_objects_stay_marked_in_coco_and_voc(voc: str, tmp_path: Path) -> None:
    convert({"train": voc}, "coco", tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [item["difficult"] for item in content["annotations"]] == [0, 1, 0, 0, 0, 0, 0]
    [result] = convert({"train": voc}, "voc", tmp_path / "voc")
    marks = [item["difficult"] for r in load_one_labeled(result.uri) for item in r["annotations"]]
    assert marks == [0, 1, 0, 0, 0, 0, 0]


def test_what_a_form_cannot_hold_is_counted(
    tmp_path: Path, write_image: Writer, write_coco: Writer
) -> None:
    boxes = {
        1: [
            (1, (0, 0, 4, 4)),  # a crowd
            (1, (1, 1, 0.5, 4)),  # VOC's corners would be the same
            (1, (-9, 1, 12, 3)),  # centre outside
            (1, (9, 0, 4, 4)),  # nothing inside: it does not count
            (1, (2, 2, 3, 3)),
        ]
    }
    path = write_coco(tmp_path / "a.json", boxes, {1: "cat"}, crowd=[1])
    write_image(tmp_path / "1.png")
    uri = f"coco://{path}?images={tmp_path}"
    [yolo] = convert({"train": uri}, "yolo", tmp_path / "yolo")
    assert sorted(yolo.lost.values()) == [1, 1, 1]
    assert [box for _, box in boxes_of(load_one_labeled(yolo.uri))[0]] == [
        (1.0, 1.0, 1.5, 5.0),
        (0.0, 1.0, 3.0, 4.0),
        (2.0, 2.0, 5.0, 5.0),
    ]
    [voc] = convert({"train": uri}, "voc", tmp_path / "voc")
    assert sorted(voc.lost.values()) == [1, 1, 1]
    assert [box for _, box in boxes_of(load_one_labeled(voc.uri))[0]] == [
        (-9.0, 1.0, 3.0, 4.0),
        (2.0, 2.0, 5.0, 5.0),
    ]
    [coco] = convert({"train": uri}, "coco", tmp_path / "coco")
    assert not coco.lost
    assert load_one_labeled(coco.uri)[0]["annotations"] == load_one_labeled(uri)[0]["annotations"]


def test_masks_key_points_and_scores_are_counted(
    tmp_path: Path, write_image: Writer, write_coco: Writer
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (n, 0, 4, 4)) for n in range(4)]}, {1: "cat"})
    content = json.loads(path.read_text(encoding="utf-8"))
    mask = {"segmentation": [[0, 0, 4, 0, 4, 4]], "area": 8.0}
    more = (
        {**mask, "score": 0.0},
        {**mask, "keypoints": [1, 1, 2], "num_keypoints": 1},
        {"segmentation": [], "keypoints": [0, 0, 0], "num_keypoints": 0},
        {**mask, "iscrowd": 1},
    )
    for item, entries in zip(content["annotations"], more, strict=True):
        item.update(entries)
    path.write_text(json.dumps(content), encoding="utf-8")
    write_image(tmp_path / "1.png")
    uri = f"coco://{path}?images={tmp_path}"
    lost = {}
    for form in FORMS:
        [result] = convert({"train": uri}, form, tmp_path / form)
        kinds = (text.partition(" left out")[0] for text in result.lost)
        lost[form] = dict(zip(kinds, result.lost.values(), strict=True))
    without = {"crowd regions": 1, "masks": 2, "sets of key points": 1}
    assert lost == {
        "coco": {},
        "labelstudio": without,
        **{form: {**without, "scores": 1} for form in ("yolo", "voc", "cvat")},
    }


def test_objects_that_do_not_count_are_counted_in_all_forms(
    tmp_path: Path, write_voc: Writer, form: str
) -> None:
    root = write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 4, 4), 0), ("cat", (5, 5, 4, 4), 0)]})
    [result] = convert({"train": f"voc://{root}?split=train"}, form, tmp_path / "new")
    assert result.boxes == 1
    assert result.lost == {"objects left out that do not count: see the warnings above": 1}


def test_paths_of_windows_are_converted(
    tmp_path: Path, write_image: Writer, write_coco: Writer, form: str
) -> None:
    image = write_image(tmp_path / "images" / "sub" / "1.png")
    entry = {"id": 1, "file_name": "sub\\1.png", "height": 6, "width": 8}
    boxes = {1: [(1, (1, 1, 4, 4))]}
    path = write_coco(tmp_path / "a.json", boxes, {1: "cat"}, replaced={"images": [entry]})
    [result] = convert(
        {"train": f"coco://{path}?images={tmp_path / 'images'}"}, form, tmp_path / "new"
    )
    [record] = load_one_labeled(result.uri)
    assert Path(record["file_name"]).read_bytes() == image.read_bytes()
    assert [box for _, box in boxes_of([record])[0]] == [(1.0, 1.0, 5.0, 5.0)]
