"""Unbiased Teacher v2: bounded sigma, its likelihood, edges that are listened to, objectness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.data.mappers import UnlabeledPairMapper
from dre_ssod.errors import ConfigError
from dre_ssod.methods import Clock, build_method
from dre_ssod.methods.unbiased.unbiased_teacher_v2 import UnbiasedTeacherV2
from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.refinement import PLAIN
from dre_ssod.modeling.regions import Regions
from dre_ssod.teacher import as_targets
from tests.factories import NUM_CLASSES, SIZE, pseudo_labels, tiny_cfg, tiny_model
from tests.modeling.regions import make_features, make_heads, make_proposals

KEYS = {
    "SSOD.METHOD": "UnbiasedTeacherV2",
    "MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA": True,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
}


def log_variance(sigma: Any) -> Tensor:
    return 2.0 * torch.tensor(sigma).log()


class Case:
    """Two foreground regions and a background one, of ten pixels a side."""

    def __init__(self, alpha: Tensor, teacher_sigma: Tensor | None = None) -> None:
        head = make_heads(**KEYS)
        self.method = head.method
        assert isinstance(self.method, UnbiasedTeacherV2)
        generator = torch.Generator().manual_seed(0)
        self.deltas = torch.randn(3, 4, generator=generator).requires_grad_()
        self.alpha = alpha.requires_grad_()
        proposals = torch.tensor([[10.0, 10.0, 20.0, 20.0]]).repeat(3, 1)
        self.targets = torch.randn(3, 4, generator=generator)
        self.matched = proposals + self.targets
        sampled = Instances(SIZE, proposal_boxes=Boxes(proposals), gt_boxes=Boxes(self.matched))
        if teacher_sigma is not None:
            sampled.gt_coded_sigma = teacher_sigma
        classes = torch.tensor([0, 1, NUM_CLASSES])
        logits = torch.zeros(3, NUM_CLASSES + 1, requires_grad=True)
        counts = RegionCounts(torch.tensor(3.0), torch.tensor(2.0), torch.tensor(1.0))
        self.regions = Regions(
            head.heads.box_predictor,
            [sampled],
            BoxPredictions(logits, self.deltas, self.alpha),
            classes,
            counts,
            torch.tensor(3.0),
        )


# The head


def test_sigma_starts_at_a_half_and_stays_below_1() -> None:
    model = tiny_model(tiny_cfg(**KEYS))
    predictions = model.roi_heads.predict(
        make_features(1), [p.proposal_boxes for p in make_proposals(())]
    )
    assert predictions.log_variance is not None
    sigma = torch.exp(0.5 * predictions.log_variance)
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.5), rtol=0.0, atol=1e-2)
    wide = tiny_model(tiny_cfg(**KEYS), spread=20.0)
    found = wide.roi_heads.predict(
        make_features(1), [p.proposal_boxes for p in make_proposals(())]
    ).log_variance
    assert found is not None
    assert ((found < 0.0) & found.isfinite()).all()


def test_detections_carry_the_sigma_of_their_own_offsets_to_labels() -> None:
    heads = tiny_model(tiny_cfg(**KEYS), spread=2.0).roi_heads
    proposals = make_proposals(())
    (found,) = heads.detect(make_features(1), proposals, 0.3)
    predictions = heads.predict(make_features(1), [proposals[0].proposal_boxes])
    _, (kept,) = heads.box_predictor.refined(predictions, proposals, 0.3, PLAIN)
    expected = torch.exp(0.5 * predictions.log_variance[kept])
    assert len(found) > 0
    torch.testing.assert_close(as_targets(found).gt_coded_sigma, expected)
    plain = tiny_model(tiny_cfg(), spread=2.0).roi_heads
    assert not plain.detect(make_features(1), proposals, 0.3)[0].has("coded_sigma")


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA": False},
        {"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1"},
    ],
)
def test_another_head_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needs a box head that predicts a sigma in"):
        build_method(tiny_cfg(**{**KEYS, **keys}))


def test_another_power_of_the_variance_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"BOX_TRANSFORM is 'center_size'; it must be 'corner'"):
        build_method(tiny_cfg(**{**KEYS, "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM": "center_size"}))
    with pytest.raises(ConfigError, match=r"BETA_NLL is 0\.5; it must be 0 with"):
        build_method(tiny_cfg(**{**KEYS, "MODEL.ROI_BOX_HEAD.BETA_NLL": 0.5}))
    with pytest.raises(ConfigError, match=r"SIGMA_SCALE is 1\.3; it must be 1 with"):
        build_method(tiny_cfg(**{**KEYS, "MODEL.ROI_BOX_HEAD.SIGMA_SCALE": 1.3}))


# Labeled boxes


def test_the_likelihood_is_restated_edge_by_edge() -> None:
    sigma = [[0.5, 0.2, 0.9, 0.4], [0.3, 0.3, 0.6, 0.7], [0.5] * 4]
    case = Case(log_variance(sigma))
    total = 0.0
    for row in range(2):
        nll = 2 * math.log(2 * math.pi)
        for k in range(4):
            error = case.deltas[row, k].item() - case.targets[row, k].item()
            total += abs(error)
            nll += error**2 / (2 * sigma[row][k] ** 2) + math.log(sigma[row][k] ** 2) / 2
        # Ten pixels a side and weights of 10: an offset is as many pixels.
        predicted = torch.tensor([[10.0, 10.0, 20.0, 20.0]]) + case.deltas[row].detach()
        iou = pairwise_iou(Boxes(predicted), Boxes(case.matched[row : row + 1])).item()
        total += 0.05 * iou * nll
    found = case.method.likelihood(case.regions)
    assert found.item() == pytest.approx(total / 3, rel=1e-4)
    found.backward()
    assert not case.deltas.grad[2].any()
    assert not case.alpha.grad[2].any()


def test_the_gradient_pushes_sigma_down_where_the_error_is_0() -> None:
    z = torch.zeros(3, 4, requires_grad=True)
    case = Case(torch.zeros(3, 4))
    alpha = 2.0 * F.logsigmoid(z)
    torch.testing.assert_close(torch.exp(0.5 * alpha), torch.full((3, 4), 0.5))
    predictions = BoxPredictions(torch.zeros(3, NUM_CLASSES + 1), case.targets.clone(), alpha)
    regions = Regions(
        case.regions.predictor,
        case.regions.sampled,
        predictions,
        case.regions.classes,
        case.regions.counts,
        case.regions.box_divisor,
    )
    case.method.likelihood(regions).backward()
    assert (z.grad[:2] > 0.0).all()


# Unlabeled boxes


@pytest.mark.parametrize(
    ("teacher", "student", "kept"), [(0.8, 0.75, False), (0.9, 0.75, True), (0.45, 0.1, False)]
)
def test_an_edge_is_kept_where_the_teacher_is_clearly_surer(
    teacher: float, student: float, kept: bool
) -> None:
    alpha = log_variance([[1.0 - student] * 4] * 3)
    case = Case(alpha, torch.full((3, 4), 1.0 - teacher))
    assert (case.method.listens(case.regions) == kept).all()


def test_edges_are_kept_one_by_one_and_teach_their_plain_error() -> None:
    teacher = torch.tensor([[0.1, 0.9, 0.1, 0.9], [0.9, 0.1, 0.1, 0.1], [0.1] * 4])
    case = Case(log_variance([[0.5] * 4] * 3), teacher)
    expected = [[True, False, True, False], [False, True, True, True], [True] * 4]
    assert case.method.listens(case.regions).tolist() == expected
    loss = case.method.unlabeled_losses(case.regions, case.regions).unsupervised[
        "loss_box_reg_unsup"
    ]
    errors = (case.deltas - case.targets).abs() * torch.tensor(expected)
    torch.testing.assert_close(loss, errors[:2].sum() / 3)
    loss.backward()
    assert case.alpha.grad is None
    assert not case.deltas.grad[~torch.tensor(expected)].any()


def test_without_labels_nothing_is_kept() -> None:
    case = Case(log_variance([[0.5] * 4] * 3))
    assert not case.method.listens(case.regions).any()


def test_boxes_and_the_rest_have_weights_of_their_own() -> None:
    method = UnbiasedTeacherV2(UnbiasedTeacherV2.Settings(unsup_loss_weight=3.0))
    clock = Clock(0, 0, 1)
    terms = ("loss_box_reg", "loss_box_reg_unsup", "loss_cls_unsup", "loss_rpn_cls_unsup")
    assert [method.weight(term, clock) for term in terms] == [1.0, 1.0, 3.0, 3.0]


def test_no_edge_changes_its_place_from_the_teachers_view_to_the_students() -> None:
    """A flip between the two would exchange the sigmas of left and right."""
    method = UnbiasedTeacherV2(UnbiasedTeacherV2.Settings())
    assert isinstance(method.mappers(tiny_cfg())[1], UnlabeledPairMapper)


# Objectness


def test_anchors_are_weighed_by_the_score_of_the_nearest_label() -> None:
    model = tiny_model(tiny_cfg(**KEYS), spread=0.5)
    rpn = model.proposal_generator
    features = make_features(2)
    features["p6"] = features["p5"][:, :, ::2, ::2]
    levels = [features[name] for name in rpn.in_features]
    anchors = rpn.anchor_generator(levels)
    logits, deltas = rpn._predict(levels)
    labels = pseudo_labels()
    labels.gt_scores = torch.tensor([0.75, 0.95])
    targets = [labels, labels[:0]]
    torch.manual_seed(0)
    found = rpn._group_losses(anchors, logits, deltas, targets, slice(0, 2), None, "gt_scores")[
        "loss_rpn_cls"
    ]
    torch.manual_seed(0)
    sampled, _ = rpn.label_and_sample_anchors(anchors, targets)
    boxes = Boxes.cat(anchors).tensor
    total = 0.0
    scores = torch.cat(logits, dim=1)[0]
    # The other image has no label, so it weighs nothing.
    for row in sampled[0].ge(0).nonzero()[:, 0].tolist():
        nearest = int(pairwise_iou(Boxes(boxes[row : row + 1]), labels.gt_boxes)[0].argmax())
        p = 1 / (1 + math.exp(-scores[row].item()))
        entropy = -math.log(p if sampled[0][row] == 1 else 1 - p)
        total += labels.gt_scores[nearest].item() * entropy
    assert found.item() == pytest.approx(total / (2 * rpn.batch_size_per_image), rel=1e-4)
    found.backward()


def test_without_weights_objectness_is_detectron2s() -> None:
    """With all scores 1, the weighed loss is the plain one."""
    model = tiny_model(tiny_cfg(**KEYS), spread=0.5)
    rpn = model.proposal_generator
    features = make_features(1)
    features["p6"] = features["p5"][:, :, ::2, ::2]
    levels = [features[name] for name in rpn.in_features]
    anchors, (logits, deltas) = rpn.anchor_generator(levels), rpn._predict(levels)
    labels = pseudo_labels()
    labels.gt_scores = torch.ones(2)
    values = []
    for field in (None, "gt_scores"):
        torch.manual_seed(0)
        values.append(
            rpn._group_losses(anchors, logits, deltas, [labels], slice(0, 1), None, field)
        )
    torch.testing.assert_close(values[0], values[1])
