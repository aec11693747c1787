"""Every detection and every object has one fate, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, BoxMode, Instances

from dre_ssod.inspection.found import find
from dre_ssod.report.mistakes import Judged, confusion, judge

Box = tuple[float, float, float, float]


def truth(*objects: tuple[int, Box], crowd: bool = False) -> list[dict[str, Any]]:
    return [
        {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": k, "iscrowd": int(crowd)}
        for k, box in objects
    ]


def judged(annotations: list[dict[str, Any]], *found: tuple[int, float, Box]) -> Judged:
    instances = Instances((100, 100))
    instances.pred_classes = torch.tensor([k for k, _, _ in found], dtype=torch.int64)
    instances.scores = torch.tensor([score for _, score, _ in found])
    instances.pred_boxes = Boxes(torch.tensor([box for _, _, box in found]).reshape(-1, 4))
    return judge(find(instances, annotations))


def told(result: Judged) -> Sequence[tuple[str, int, int | None, int | None]]:
    return [(m.kind, m.class_index, m.detection, m.object) for m in result.mistakes]


ONE, TWO = (0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 70.0, 70.0)


def test_what_is_found_is_no_mistake() -> None:
    result = judged(truth((0, ONE), (1, TWO)), (1, 0.9, TWO), (0, 0.8, ONE))
    assert (list(result.partner), told(result)) == ([1, 0], [])


def test_a_missed_object() -> None:
    assert told(judged(truth((0, ONE), (1, TWO)), (0, 0.9, ONE))) == [("missed", 1, None, 1)]
    assert told(judged(truth((2, ONE)))) == [("missed", 2, None, 0)]


def test_the_wrong_class_takes_the_object_with_it() -> None:
    result = judged(truth((0, ONE)), (1, 0.9, ONE))
    assert told(result) == [("confused", 0, 0, 0)]


def test_a_second_detection_of_an_object_is_double() -> None:
    result = judged(truth((0, ONE)), (0, 0.5, ONE), (0, 0.9, ONE))
    assert list(result.partner) == [1]
    assert told(result) == [("double", 0, 0, None)]
    # Also where it meets an object of another class.
    result = judged(truth((0, ONE), (1, ONE)), (0, 0.9, ONE), (1, 0.8, ONE), (0, 0.5, ONE))
    assert told(result) == [("double", 0, 2, None)]


def test_another_class_on_an_object_is_wrong_whatever_has_found_it() -> None:
    for score in (0.4, 0.9):
        result = judged(truth((0, ONE)), (0, 0.6, ONE), (1, score, ONE))
        assert (list(result.partner), told(result)) == ([0], [("confused", 0, 1, 0)])
        assert confusion([result], 2).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    # So is the second one on an object that none has found, which is missed by neither.
    result = judged(truth((0, ONE)), (1, 0.9, ONE), (1, 0.5, ONE))
    assert told(result) == [("confused", 0, 0, 0), ("confused", 0, 1, 0)]


def test_too_small_an_overlap_is_badly_placed_and_the_object_missed() -> None:
    # 10 of 30 columns are shared: IoU 1 / 3.
    result = judged(truth((0, ONE)), (0, 0.9, (10.0, 0.0, 30.0, 20.0)))
    assert told(result) == [("missed", 0, None, 0), ("misplaced", 0, 0, None)]
    # Of another class, it is nothing.
    result = judged(truth((0, ONE)), (1, 0.9, (10.0, 0.0, 30.0, 20.0)))
    assert told(result) == [("missed", 0, None, 0), ("invented", 1, 0, None)]
    # 1 of 39 columns.
    result = judged(truth((0, ONE)), (0, 0.9, (19.0, 0.0, 39.0, 20.0)))
    assert told(result)[1] == ("invented", 0, 0, None)


def test_without_objects_all_is_invented() -> None:
    assert told(judged([], (0, 0.3, ONE), (1, 0.6, TWO))) == [
        *(("invented", 1, 1, None), ("invented", 0, 0, None))
    ]


def test_what_lies_in_a_crowd_of_its_class_is_left_out() -> None:
    region = truth((0, (0.0, 0.0, 40.0, 40.0)), crowd=True)
    result = judged(region, (0, 0.9, ONE), (1, 0.8, ONE))
    assert (len(result.objects), told(result)) == (0, [("invented", 1, 0, None)])


def test_confusion_counts_each_detection_and_each_missed_object_once() -> None:
    first = judged(truth((0, ONE), (1, TWO)), (0, 0.9, ONE), (0, 0.8, TWO), (0, 0.7, ONE))
    second = judged(truth((1, ONE)), (0, 0.4, TWO))
    assert confusion([first, second], 2).tolist() == [[1, 0, 0], [1, 0, 1], [2, 0, 0]]
