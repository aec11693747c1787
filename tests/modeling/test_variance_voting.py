"""Variance voting against its definition, written out coordinate by coordinate."""

from __future__ import annotations

import math

import torch
from detectron2.structures import Boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dre_ssod.modeling.refinement import vote_boxes
from dre_ssod.teacher import observe
from tests.factories import tiny_cfg, tiny_model, unlabeled_sample

SIGMA_T = 0.02


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def by_loops(
    boxes: Tensor,
    classes: Tensor,
    candidates: Tensor,
    candidate_classes: Tensor,
    sigma: Tensor,
    sigma_t: float,
) -> Tensor:
    """The definition, one detection, coordinate and voter at a time."""
    result = []
    for box, label in zip(boxes.tolist(), classes.tolist(), strict=True):
        voted = []
        for k in range(4):
            total = norm = 0.0
            for other, its_label, deviation in zip(
                candidates.tolist(), candidate_classes.tolist(), sigma.tolist(), strict=True
            ):
                overlap = iou(box, other)
                if label == its_label and overlap > 0:
                    weight = math.exp(-((1 - overlap) ** 2) / sigma_t) / deviation[k] ** 2
                    total += weight * other[k]
                    norm += weight
            voted.append(total / norm if norm > 0 else box[k])
        result.append(voted)
    return torch.tensor(result).reshape(-1, 4)


def scene(seed: int, detections: int, candidates: int) -> tuple[Tensor, ...]:
    """Candidates of three classes crowded in a small frame; the first ones are the detections."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(candidates, 2, generator=generator) * 20
    side = torch.rand(candidates, 2, generator=generator) * 30 + 5
    boxes = torch.cat([corner, corner + side], dim=1)
    classes = torch.randint(0, 3, (candidates,), generator=generator)
    sigma = torch.exp(torch.randn(candidates, 4, generator=generator))
    return boxes[:detections], classes[:detections], boxes, classes, sigma


@given(
    seed=st.integers(0, 10**6),
    detections=st.integers(0, 6),
    more=st.integers(0, 30),
    sigma_t=st.sampled_from([0.005, 0.02, 0.5, 100.0]),
)
@settings(max_examples=60, deadline=None)
def test_it_equals_the_definition(seed: int, detections: int, more: int, sigma_t: float) -> None:
    inputs = scene(seed, detections, detections + more)
    voted = vote_boxes(*inputs, sigma_t)
    torch.testing.assert_close(voted, by_loops(*inputs, sigma_t), atol=1e-4, rtol=1e-5)
    assert voted.dtype == torch.float32


def test_a_hand_computed_vote() -> None:
    """IoU 8 x 10 / (100 + 100 - 80) = 2/3, so the far box weighs e^(-(1/9) / 0.02) = 0.003866.

    Its x1 has a quarter of the variance of the near one: x1 = 4 * 0.003866 * 2 / (1 + 0.015464).
    """
    near, far = [0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]
    sigma = torch.tensor([[2.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    label = torch.tensor([1])
    voted = vote_boxes(
        torch.tensor([near]), label, torch.tensor([near, far]), label.repeat(2), sigma, SIGMA_T
    )
    weight = math.exp(-1 / 9 / SIGMA_T)
    expected = [2 * 4 * weight / (1 + 4 * weight), 0.0, (10 + 12 * weight) / (1 + weight), 10.0]
    torch.testing.assert_close(voted, torch.tensor([expected]))
    assert math.isclose(expected[0], 0.030462, rel_tol=1e-3)


def test_a_box_alone_and_boxes_of_other_classes_change_nothing() -> None:
    boxes, _, candidates, _, sigma = scene(0, 3, 12)
    far = vote_boxes(
        boxes[:1],
        torch.tensor([0]),
        candidates,
        torch.tensor([0] + 11 * [1]),
        sigma,
        SIGMA_T,
    )
    torch.testing.assert_close(far, boxes[:1])
    nobody = vote_boxes(boxes, torch.zeros(3), candidates[:0], torch.zeros(0), sigma[:0], SIGMA_T)
    assert torch.equal(nobody, boxes)


def test_a_box_without_area_stays() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    label = torch.tensor([0])
    assert torch.equal(vote_boxes(point, label, point, label, torch.ones(1, 4), SIGMA_T), point)


def test_an_edge_follows_its_certain_voter_and_a_tight_vote_keeps_the_box() -> None:
    near, other = [0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0]
    candidates, labels = torch.tensor([near, other]), torch.zeros(2)
    sigma = torch.tensor([[1e3, 1.0, 1e-3, 1.0], [1e-3, 1.0, 1e3, 1.0]])
    voted = vote_boxes(candidates[:1], labels[:1], candidates, labels, sigma, SIGMA_T)
    torch.testing.assert_close(voted, torch.tensor([[1.0, 0.0, 10.0, 10.0]]), atol=1e-4, rtol=0.0)
    tight = vote_boxes(candidates[:1], labels[:1], candidates, labels, torch.ones(2, 4), 1e-4)
    torch.testing.assert_close(tight, candidates[:1])


def test_a_shift_of_the_image_shifts_the_votes_alone_even_far_out() -> None:
    boxes, classes, candidates, candidate_classes, sigma = scene(3, 5, 30)
    voted = vote_boxes(boxes, classes, candidates, candidate_classes, sigma, SIGMA_T)
    shift = 4096.0
    with torch.autocast("cpu", torch.bfloat16):
        moved = vote_boxes(
            boxes + shift, classes, candidates + shift, candidate_classes, sigma, SIGMA_T
        )
    torch.testing.assert_close(moved - shift, voted, atol=2e-3, rtol=0.0)


def test_a_models_detections_are_refined_and_its_pseudo_labels_are_not() -> None:
    threshold = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05}
    plain = tiny_model(tiny_cfg(**threshold), spread=0.5).eval()
    refining = tiny_model(
        tiny_cfg(
            **threshold,
            **{
                "TEST.VARIANCE_VOTING.ENABLED": True,
                "TEST.VARIANCE_VOTING.SIGMA_T": 0.5,
                "TEST.RANK_BY_QUALITY": True,
            },
        )
    ).eval()
    refining.load_state_dict(plain.state_dict())
    sample = unlabeled_sample()
    (before,), (after,) = (observe(m, [sample], 0.2).detections for m in (plain, refining))
    assert len(before) > 3
    for name, value in before.get_fields().items():
        other = after.get(name)
        assert torch.equal(*(v.tensor if isinstance(v, Boxes) else v for v in (value, other)))
    with torch.no_grad():
        (old,), (new,) = (m([{"image": sample.weak.image}]) for m in (plain, refining))
    assert old["instances"].scores.max() > 0.5 > new["instances"].scores.max()
