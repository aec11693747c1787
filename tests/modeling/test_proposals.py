"""Proposals are Detectron2's, bit for bit, and a GPU is asked once for all images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.modeling.proposals import select_proposals
from dre_ssod.modeling.rpn import SemiSupervisedRPN
from tests.factories import labeled_image, tiny_cfg, tiny_model

SIZES = [(64, 96), (50, 70), (64, 80)]


def drawn(counts: tuple[int, ...] = (900, 300, 40)) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes around and beyond the images, many of them empty once they are clipped."""
    generator = torch.Generator().manual_seed(0)
    boxes, logits = [], []
    for count in counts:
        corners = 140 * torch.rand(len(SIZES), count, 2, generator=generator) - 30
        sides = 40 * torch.rand(len(SIZES), count, 2, generator=generator)
        boxes.append(torch.cat([corners, corners + sides], dim=2))
        # Few different ones: equal logits keep their order.
        logits.append(torch.randint(0, 50, (len(SIZES), count), generator=generator) / 10)
    return boxes, logits


def both(
    boxes: list[Tensor], logits: list[Tensor], training: bool = True, **changes: Any
) -> tuple[list[Instances], list[Instances]]:
    options: dict[str, Any] = {
        "nms_thresh": 0.7,
        "pre_nms_topk": 200,
        "post_nms_topk": 100,
        "min_box_size": 0.0,
        "training": training,
        **changes,
    }
    found = select_proposals(boxes, logits, SIZES, **options)
    return found, find_top_rpn_proposals(boxes, logits, SIZES, **options)


def assert_same(found: list[Instances], expected: list[Instances]) -> None:
    assert len(found) == len(expected) == len(SIZES)
    for one, other in zip(found, expected, strict=True):
        assert one.image_size == other.image_size
        assert one.get_fields().keys() == other.get_fields().keys()
        assert torch.equal(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(one.objectness_logits, other.objectness_logits)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_nms_topk": 2000, "post_nms_topk": 2000},
        {"nms_thresh": 0.3, "min_box_size": 10.0},
        {"min_box_size": 1000.0},
        {"post_nms_topk": 1},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_they_are_detectron2s(changes: dict[str, Any], training: bool) -> None:
    found, expected = both(*drawn(), training, **changes)
    assert_same(found, expected)
    assert bool(len(found[0])) == (changes.get("min_box_size") != 1000.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits(dtype: torch.dtype) -> None:
    boxes, logits = drawn()
    with torch.autocast("cpu", dtype):
        assert_same(*both(boxes, [level.to(dtype) for level in logits]))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["box", "logit"])
def test_what_is_not_finite_goes_or_is_an_error_in_training(value: float, where: str) -> None:
    boxes, logits = drawn()
    # Among the best, so that it comes so far.
    logits[0][1, 7] = 100.0
    (boxes[0][1, 7] if where == "box" else logits[0][1])[... if where == "box" else 7] = value
    if where == "box" or value != -torch.inf:
        with pytest.raises(FloatingPointError, match="diverged"):
            both(boxes, logits)
    assert_same(*both(boxes, logits, training=False, pre_nms_topk=2000))


def test_the_detectors_rpn_selects_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tiny_cfg(), spread=1.0).eval()
    inputs = [labeled_image(seed) for seed in range(3)]
    images = model.preprocess_image(inputs)
    with torch.no_grad():
        features = model.backbone(images.tensor)
        found, _ = model.proposal_generator(images, features, None)
        monkeypatch.delattr(SemiSupervisedRPN, "predict_proposals")
        expected, _ = model.proposal_generator(images, features, None)
    assert_same(found, expected)
    assert len(found[0]) == 40
