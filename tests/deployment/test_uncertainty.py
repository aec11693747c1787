from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from dre_ssod.deployment.labeling.uncertainty import (
    MostUncertain,
    disagreement,
    image_uncertainty,
    mirrored,
)


def found(scores: list[float], quality: list[float] | None = None) -> Instances:
    instances = Instances((10, 10), scores=torch.tensor(scores))
    if quality is not None:
        instances.localization_quality = torch.tensor(quality)
    return instances


def test_hand_computed_measures() -> None:
    # H(1/2) = 1 bit, H(1/4) = 1/4 * 2 + 3/4 * log2(4/3) = 0.811278.
    measured = image_uncertainty(found([0.5, 0.25], [0.5, 0.1]))
    assert measured["entropy"] == pytest.approx((1 + 0.811278) / 2, abs=1e-6)
    # Doubts 0 and 0.8, weighted by the scores.
    assert measured["quality"] == pytest.approx(0.25 * 0.8 / 0.75, abs=1e-6)
    assert measured["both"] == pytest.approx(
        (measured["entropy"] + measured["quality"]) / 2, abs=1e-6
    )


def test_limits() -> None:
    assert image_uncertainty(found([], [])) == {"quality": 0.0, "entropy": 0.0, "both": 0.0}
    assert image_uncertainty(found([1.0], [0.5])) == {"quality": 0.0, "entropy": 0.0, "both": 0.0}
    assert image_uncertainty(found([0.5], [0.0])) == {"quality": 1.0, "entropy": 1.0, "both": 1.0}


def test_the_measures_do_not_depend_on_the_scale_of_the_quality() -> None:
    plain = image_uncertainty(found([0.5, 0.25], [0.45, 0.1]))
    assert image_uncertainty(found([0.5, 0.25], [0.9, 0.2]), best_quality=1.0) == plain


def test_without_a_variance_branch_there_is_entropy_alone() -> None:
    assert image_uncertainty(found([0.5])).keys() == {"entropy"}
    assert image_uncertainty(found([])) == {"entropy": 0.0}


@given(
    values=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, math.pi]), max_size=30),
    size=st.integers(0, 8),
)
def test_the_heap_keeps_what_sorting_everything_would(values: list[float], size: int) -> None:
    heap = MostUncertain(size)
    for number, value in enumerate(values):
        heap.add(value, {"id": number})
        assert len(heap._heap) <= size
    order = sorted(range(len(values)), key=lambda n: (-values[n], n))
    expected = [n for n in order if values[n] > 0][:size]
    assert [image["id"] for image in heap.ranked()] == expected


def look(*found: tuple[list[float], float, int]) -> Instances:
    """(box, score, class) of each detection on an image of 40 x 100 pixels."""
    boxes = torch.tensor([box for box, _, _ in found]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in found])
    classes = torch.tensor([label for _, _, label in found], dtype=torch.int64)
    return Instances((40, 100), pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)


def test_two_looks_that_agree_and_that_do_not() -> None:
    box, other = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    one = look((box, 0.9, 0), (other, 0.5, 1))
    assert disagreement(one, one) == pytest.approx(0.0, abs=1e-6)
    # What only one of them finds counts with its score: 1 - 2 * 0.9 / (0.9 + 1.4).
    missed = look((box, 0.9, 0))
    assert disagreement(one, missed) == disagreement(missed, one)
    assert disagreement(one, missed) == pytest.approx(1 - 1.8 / 2.3, abs=1e-6)
    assert disagreement(look(), missed) == 1.0
    assert disagreement(missed, look((box, 0.9, 1))) == 1.0
    # IoU 0.8: 1 - 2 * 0.8 * 0.6 / (0.9 + 0.6).
    moved = look(([0.0, 0.0, 10.0, 8.0], 0.6, 0))
    assert disagreement(missed, moved) == pytest.approx(1 - 0.96 / 1.5, abs=1e-6)
    assert disagreement(look(), look()) == 0.0


def test_a_mirror_image_is_turned_back() -> None:
    found = mirrored(look(([10.0, 5.0, 30.0, 25.0], 0.9, 1)))
    assert found.pred_boxes.tensor.tolist() == [[70.0, 5.0, 90.0, 25.0]]
    assert (found.scores.tolist(), found.pred_classes.tolist()) == ([pytest.approx(0.9)], [1])
