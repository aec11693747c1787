"""What is drawn is like COCO, and the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dre_ssod.benchmark.boxes import LIMIT, draw_detections, draw_truth, threshold_for


def test_drawn_objects_are_like_cocos() -> None:
    """Shares of COCO's validation set: 41 % small, 34 % medium, 24 % large; 7.4 an image."""
    truth = draw_truth(images=1500, classes=80, seed=0)
    areas = np.array([item["area"] for item in truth["annotations"]])
    assert len(areas) / 1500 == pytest.approx(7.3, abs=0.5)
    assert (areas < 32**2).mean() == pytest.approx(0.42, abs=0.06)
    assert (areas > 96**2).mean() == pytest.approx(0.24, abs=0.06)
    assert 0.005 < np.mean([item["iscrowd"] for item in truth["annotations"]]) < 0.025
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    for item in truth["annotations"]:
        x, y, width, height = item["bbox"]
        assert min(x, y) >= 0
        assert x + width <= sizes[item["image_id"]][0] + 0.02
        assert y + height <= sizes[item["image_id"]][1] + 0.02
    numbers = [category["id"] for category in truth["categories"]]
    assert len(set(numbers)) == 80 < max(numbers)


def test_a_seed_draws_the_same_again_and_another_does_not() -> None:
    first, again, other = (draw_truth(20, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert draw_detections(first, 1) == draw_detections(again, 1) != draw_detections(first, 2)


def test_drawn_detections_keep_to_the_limit() -> None:
    truth = draw_truth(images=200, classes=10, seed=0)
    detections = draw_detections(truth, seed=0)
    per_image = Counter(item["image_id"] for item in detections)
    assert 40 < np.mean(list(per_image.values())) < max(per_image.values()) <= LIMIT
    assert all(item["score"] == float(np.float32(item["score"])) for item in detections)
    assert {item["category_id"] for item in detections} <= {c["id"] for c in truth["categories"]}


@pytest.mark.parametrize(("count", "expected"), [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.25)])
def test_as_many_scores_exceed_a_threshold_as_are_asked_for(count: int, expected: float) -> None:
    scores = torch.tensor([0.5, 0.25, 0.75])
    assert threshold_for(scores, count) == expected
    assert int((scores > expected).sum()) == min(count, 2)
