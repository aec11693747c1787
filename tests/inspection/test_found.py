"""Found, missed and wrong: matched once each, and told apart by color."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from matplotlib.colors import to_rgb

from dre_ssod.inspection.canvas import RGBImage, magnification
from dre_ssod.inspection.found import (
    FOUND,
    LEGEND,
    MISSED,
    WRONG,
    best_score,
    draw_finding,
    find,
    tally,
)

SIZE = (120, 160)
NAMES = ("disk", "star")


def truth(*objects: tuple[int, list[float]], crowd: bool = False) -> list[dict[str, Any]]:
    return [
        {"category_id": c, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": int(crowd)}
        for c, box in objects
    ]


def detections(*found: tuple[int, float, list[float]]) -> Instances:
    return Instances(
        SIZE,
        pred_classes=torch.tensor([c for c, _, _ in found], dtype=torch.int64),
        scores=torch.tensor([score for _, score, _ in found]),
        pred_boxes=Boxes(torch.tensor([box for _, _, box in found]).reshape(-1, 4)),
    )


A, B, C = [10.0, 10.0, 50.0, 50.0], [60.0, 10.0, 100.0, 50.0], [110.0, 60.0, 150.0, 100.0]


def test_each_object_is_found_once_by_the_best_detection_of_its_class() -> None:
    found = find(
        detections((0, 0.6, A), (0, 0.9, [12.0, 10.0, 50.0, 50.0]), (0, 0.9, B), (1, 0.9, C)),
        truth((0, A), (1, B), (1, C)),
    )
    # The surer one takes A; B is of another class.
    assert list(found.partner) == [1, -1, 3]
    assert found.found == 2


def test_an_object_that_is_hardly_overlapped_and_a_crowd_are_not_found() -> None:
    shifted = [value + 20.0 for value in A]
    assert find(detections((0, 0.9, shifted)), truth((0, A))).found == 0
    assert find(detections((0, 0.9, A)), truth((0, A), crowd=True)).objects == []
    assert find(detections(), truth((0, A))).partner == [-1]
    assert find(detections((0, 0.9, A)), []).found == 0


def test_what_lies_in_a_crowd_is_ignored_unless_it_finds_an_object() -> None:
    whole = [0.0, 0.0, 110.0, 60.0]
    annotations = truth((0, A)) + truth((0, whole), crowd=True)
    # Of another class, B is wrong; of the crowd's, it is one of the crowd.
    found = find(detections((0, 0.9, B), (1, 0.8, B), (0, 0.7, A)), annotations)
    assert (list(found.partner), found.detections.scores.tolist()) == (
        [1],
        pytest.approx([0.8, 0.7]),
    )
    assert tally([found]) == "1 of 1 objects found, 1 wrong detections"
    in_crowd = find(detections((0, 0.9, B), (0, 0.7, A)), annotations)
    assert best_score([in_crowd]) == pytest.approx(0.7)


def test_what_is_found_is_counted_over_images() -> None:
    objects = truth((0, A), (0, B), (1, C))
    before = find(detections((0, 0.9, A), (0, 0.8, C)), objects)
    after = find(detections((0, 0.9, B), (1, 0.9, C)), objects)
    assert (before.found, after.found) == (1, 2)
    assert tally([before, after]) == "3 of 6 objects found, 1 wrong detections"


def test_without_low_scores_the_others_keep_their_objects() -> None:
    found = find(detections((0, 0.3, B), (0, 0.6, A), (1, 0.9, C)), truth((0, A), (0, B), (1, C)))
    kept = found.above(0.6)
    assert list(found.partner) == [1, 0, 2]
    assert list(kept.partner) == [0, -1, 1]
    assert kept.detections.scores.tolist() == pytest.approx([0.6, 0.9])
    assert found.above(math.inf).found == 0


def test_the_best_score_has_the_highest_f1_over_all_images() -> None:
    one = find(detections((0, 0.9, A), (0, 0.5, B)), truth((0, A), (0, B)))
    # At 0.7 a wrong one: F1 of 0.9, 0.7, 0.5, 0.4 is 2/4, 2/5, 4/6, 4/7.
    other = find(detections((0, 0.7, A), (1, 0.4, C)), truth((0, C)))
    assert best_score([one, other]) == pytest.approx(0.5)
    assert best_score([other]) == math.inf
    assert best_score([find(detections(), truth((0, A)))]) == math.inf


def color_at(drawn: RGBImage, x: float, y: float, color: str) -> bool:
    """Whether the color is found within two pixels of a point of the original image."""
    scale = magnification(*SIZE)
    px, py = round(x * scale), round(y * scale)
    patch = drawn[py - 8 : py + 9, px - 3 : px + 4].reshape(-1, 3).astype(float)
    return bool(np.abs(patch - np.array(to_rgb(color)) * 255).max(axis=1).min() < 40)


def test_the_colors_say_what_became_of_each() -> None:
    image = np.full((*SIZE, 3), 40, np.uint8)
    finding = find(detections((0, 0.9, A), (1, 0.9, C)), truth((0, A), (1, B)))
    drawn = draw_finding(image, finding, NAMES)
    for box, color in ((A, FOUND), (B, MISSED), (C, WRONG)):
        for other in (FOUND, MISSED, WRONG):
            assert color_at(drawn, box[0], (box[1] + box[3]) / 2, other) == (other == color)


def test_the_legend_names_all_that_is_yellow() -> None:
    near, again = [30.0, 10.0, 70.0, 50.0], [10.0, 10.0, 50.0, 48.0]
    named = (
        (C, "nothing there"),
        (B, "another class"),
        (near, "IoU below 0.5"),
        (again, "already"),
    )
    for box, name in named:
        finding = find(detections((0, 0.9, A), (0, 0.8, box)), truth((0, A), (1, B)))
        assert list(finding.partner) == [0, -1]
        assert name in LEGEND.partition("yellow")[2]
