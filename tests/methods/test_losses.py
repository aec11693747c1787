"""The box head's losses: restated region by region, their limits, and where gradients go."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.regions import Regions
from tests.factories import BOXES, NUM_CLASSES, SIZE, beta_4, pseudo_labels
from tests.modeling.regions import (
    Scorer,
    ground_truth,
    losses_of,
    make_features,
    make_heads,
    make_proposals,
    sampled_by,
)

LOSS_TYPE = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
LOSS_WEIGHT = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"
AGNOSTIC = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
NO_WEIGHTS = {"SSOD.LER.ENABLED": False, "SSOD.PRC.ENABLED": False}
QUALITY = (0.1, 0.45, 0.3)
OTHER_BOXES = ((30.0, 4.0, 60.0, 30.0), (10.0, 30.0, 34.0, 54.0), (66.0, 30.0, 90.0, 60.0))


def _corner_offsets(proposal: list[float], target: list[float]) -> list[float]:
    """Section 3.2, weights 10."""
    sides = [proposal[2] - proposal[0], proposal[3] - proposal[1]] * 2
    return [10.0 * (t - p) / s for p, t, s in zip(proposal, target, sides, strict=True)]


def _smooth_l1(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def _cross_entropy(logits: Tensor, label: int) -> float:
    exponentials = [math.exp(value) for value in logits.tolist()]
    return -math.log(exponentials[label] / sum(exponentials))


def _best_match(box: list[float], targets: Instances) -> int:
    return int(pairwise_iou(Boxes([box]), targets.gt_boxes)[0].argmax())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_supervised_losses_are_cross_entropy_and_equations_8_and_9(beta: float) -> None:
    head = make_heads(**{"MODEL.ROI_BOX_HEAD.BETA_NLL": beta})
    labeled = [ground_truth(), ground_truth(OTHER_BOXES)]
    losses = losses_of(head, labeled, [])
    sampled, predictions = sampled_by(head, labeled)
    assert predictions.log_variance is not None

    classification = regression = 0.0
    region = 0
    for instances, truth in zip(sampled, labeled, strict=True):
        for box, label in zip(
            instances.proposal_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True
        ):
            classification += _cross_entropy(predictions.logits[region], label)
            if label < NUM_CLASSES:
                matched = _best_match(box, truth)
                assert label == int(truth.gt_classes[matched])
                offsets = _corner_offsets(box, truth.gt_boxes.tensor[matched].tolist())
                for k, offset in enumerate(offsets):
                    alpha = predictions.log_variance[region, 4 * label + k].item()
                    error = offset - predictions.deltas[region, 4 * label + k].item()
                    loss = math.exp(-alpha) * _smooth_l1(error) + alpha / 2
                    regression += math.exp(alpha) ** beta * loss
            region += 1
    assert losses.supervised["loss_cls"].item() == pytest.approx(classification / region, rel=1e-4)
    assert losses.supervised["loss_box_reg"].item() == pytest.approx(regression / region, rel=1e-4)
    assert not losses.unsupervised


def test_unsupervised_losses_are_equations_11_to_14() -> None:
    head = make_heads()
    labeled = [ground_truth()]
    unlabeled = [pseudo_labels(OTHER_BOXES, QUALITY), pseudo_labels(BOXES, (0.2, 0.05))]
    scorer = Scorer()
    losses = losses_of(head, labeled, unlabeled, scorer)
    sampled, predictions = sampled_by(head, labeled + unlabeled)
    # The scorer saw the regions of the unlabeled images alone, in order.
    assert len(scorer.boxes) == 2
    for asked, instances in zip(scorer.boxes, sampled[1:], strict=True):
        assert torch.equal(asked.tensor, instances.proposal_boxes.tensor)

    scores = scorer.scores
    assert scores is not None
    quality = scores.quality(torch.tensor([1]))
    assert quality is not None
    entropies: dict[bool, list[float]] = {True: [], False: []}
    regression = 0.0
    region, first = 0, len(sampled[0])
    for instances, labels in zip(sampled[1:], unlabeled, strict=True):
        for box, label in zip(
            instances.proposal_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True
        ):
            entropy = _cross_entropy(predictions.logits[first + region], label)
            if label == NUM_CLASSES:
                entropies[False].append(scores.background[region].item() * entropy)
            else:
                weight = scores.foreground[region] * quality[region]
                entropies[True].append(weight.item() * entropy)
                matched = _best_match(box, labels)
                offsets = _corner_offsets(box, labels.gt_boxes.tensor[matched].tolist())
                for k, offset in enumerate(offsets):
                    error = offset - predictions.deltas[first + region, 4 * label + k].item()
                    s_loc = labels.gt_localization_quality[matched].item()
                    regression += s_loc * _smooth_l1(error)
            region += 1
    means = [sum(group) / len(group) for group in entropies.values()]
    assert losses.unsupervised["loss_cls_unsup"].item() == pytest.approx(sum(means), rel=1e-4)
    assert losses.unsupervised["loss_box_reg_unsup"].item() == pytest.approx(
        regression / region, rel=1e-4
    )


def test_a_background_region_cannot_spoil_the_box_losses_whatever_its_offsets() -> None:
    head = make_heads(**{"SSOD.PRC.ENABLED": False})
    classes = torch.tensor([NUM_CLASSES, 0])
    deltas = torch.full((2, 4 * NUM_CLASSES), math.inf)
    deltas[1] = 0.5
    deltas.requires_grad_()
    sampled = Instances(SIZE, proposal_boxes=Boxes([[0.0, 0.0, 8.0, 8.0], [1.0, 1.0, 9.0, 9.0]]))
    sampled.gt_boxes = Boxes([[2.0, 2.0, 9.0, 9.0], [1.0, 1.0, 8.0, 9.0]])
    sampled.gt_localization_quality = torch.tensor([0.0, 0.3])
    one = torch.tensor(1.0)
    predictions = BoxPredictions(torch.zeros(2, NUM_CLASSES + 1), deltas, None)
    regions = Regions(
        head.heads.box_predictor, [sampled], predictions, classes, RegionCounts(one, one, one), one
    )
    found = head.method.unlabeled_losses(regions, regions)
    loss = found.unsupervised["loss_box_reg_unsup"]
    loss.backward()
    assert loss.isfinite()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()
    assert not deltas.grad[0].any()
    assert deltas.grad[1].any()


def test_ler_with_quality_one_is_no_ler() -> None:
    labels = [pseudo_labels(OTHER_BOXES, (1.0, 1.0, 1.0))]
    on, off = (
        losses_of(make_heads(**{"SSOD.LER.ENABLED": ler}), [ground_truth()], labels, Scorer())
        for ler in (True, False)
    )
    assert on.unsupervised == off.unsupervised
    assert on.supervised == off.supervised


def test_prc_with_scores_one_is_no_prc() -> None:
    labels = [pseudo_labels(OTHER_BOXES, QUALITY)]
    on = losses_of(make_heads(), [ground_truth()], labels, Scorer(ones=True))
    off = losses_of(make_heads(**{"SSOD.PRC.ENABLED": False}), [ground_truth()], labels)
    assert on.unsupervised == off.unsupervised


def test_without_weights_a_pseudo_label_teaches_what_a_label_does() -> None:
    all_regions = {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 4096,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    }
    plain = {LOSS_TYPE: "smooth_l1", "SSOD.UNSUP_CLS_NORMALIZER": "sampled"}
    head = make_heads(**NO_WEIGHTS, **all_regions, **plain)
    labels = [pseudo_labels(OTHER_BOXES, QUALITY)]
    losses = head.heads.student_losses(
        {name: value.repeat(2, 1, 1, 1) for name, value in make_features(1).items()},
        make_proposals(OTHER_BOXES) * 2,
        [ground_truth(OTHER_BOXES)],
        *(labels, labels, None, head.method),
    )
    for name, value in losses.supervised.items():
        assert value.item() > 0
        torch.testing.assert_close(losses.unsupervised[f"{name}_unsup"], value)


def test_literal_classification_loss_is_a_mean_over_foreground_plus_one_over_background() -> None:
    head = make_heads(**NO_WEIGHTS)
    labels = [ground_truth()], [pseudo_labels(OTHER_BOXES)]
    loss = losses_of(head, *labels).unsupervised["loss_cls_unsup"]
    sampled, predictions = sampled_by(head, labels[0] + labels[1])
    logits, classes = predictions.logits[len(sampled[0]) :], sampled[1].gt_classes
    foreground = classes < NUM_CLASSES
    expected = F.cross_entropy(logits[foreground], classes[foreground])
    expected = expected + F.cross_entropy(logits[~foreground], classes[~foreground])
    torch.testing.assert_close(loss, expected)


def test_box_losses_are_divided_by_sampled_or_by_foreground_regions() -> None:
    labels = [ground_truth()], [pseudo_labels(OTHER_BOXES, QUALITY)]
    sampled, literal = (
        losses_of(make_heads(**{"SSOD.BOX_LOSS_NORMALIZER": name}), *labels, Scorer())
        for name in ("sampled", "foreground")
    )
    groups, _ = sampled_by(make_heads(), labels[0] + labels[1])
    ratios = [len(g) / int((g.gt_classes < NUM_CLASSES).sum()) for g in groups]
    torch.testing.assert_close(
        literal.supervised["loss_box_reg"], ratios[0] * sampled.supervised["loss_box_reg"]
    )
    torch.testing.assert_close(
        literal.unsupervised["loss_box_reg_unsup"],
        ratios[1] * sampled.unsupervised["loss_box_reg_unsup"],
    )
    torch.testing.assert_close(literal.supervised["loss_cls"], sampled.supervised["loss_cls"])


def test_loss_weight_scales_both_box_losses() -> None:
    labels = [ground_truth()], [pseudo_labels(OTHER_BOXES, QUALITY)]
    one, three = (
        losses_of(
            make_heads(**{"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": weight}), *labels, Scorer()
        )
        for weight in (1.0, 3.0)
    )
    for group in ("supervised", "unsupervised"):
        for name, value in getattr(one, group).items():
            factor = 3.0 if "box_reg" in name else 1.0
            torch.testing.assert_close(getattr(three, group)[name], factor * value)


def test_unlabeled_images_do_not_change_the_supervised_losses() -> None:
    alone = losses_of(make_heads(), [ground_truth()], [])
    joined = losses_of(make_heads(), [ground_truth()], [pseudo_labels(OTHER_BOXES)], Scorer())
    for name, value in alone.supervised.items():
        torch.testing.assert_close(joined.supervised[name], value)


def test_the_variance_branch_learns_from_labeled_images_only() -> None:
    head = make_heads()
    losses = losses_of(head, [ground_truth()], [pseudo_labels(OTHER_BOXES)], Scorer())
    branch = list(head.heads.box_predictor.log_variance.parameters())
    supervised, unsupervised = (
        torch.autograd.grad(sum(terms.values()), branch, retain_graph=True, allow_unused=True)
        for terms in (losses.supervised, losses.unsupervised)
    )
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in supervised)
    assert all(gradient is None or not gradient.any() for gradient in unsupervised)


def test_no_gradient_flows_through_any_weight() -> None:
    labels = pseudo_labels(OTHER_BOXES)
    labels.gt_localization_quality.requires_grad_()
    labels.gt_scores.requires_grad_()
    scorer = Scorer()
    losses = losses_of(make_heads(), [ground_truth()], [labels], scorer)
    losses.total(beta_4).backward()
    assert scorer.scores is not None
    weights = [
        labels.gt_localization_quality,
        labels.gt_scores,
        scorer.scores.foreground,
        scorer.scores.background,
        scorer.scores.quality(torch.tensor([1])),
    ]
    assert [weight.grad for weight in weights if weight is not None] == [None] * 5


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("labeled_boxes", [BOXES, ()])
@pytest.mark.parametrize("pseudo_boxes", [OTHER_BOXES, ()])
def test_losses_without_boxes_are_finite_and_tied_to_every_parameter(
    agnostic: bool, labeled_boxes: Any, pseudo_boxes: Any
) -> None:
    head = make_heads(**{AGNOSTIC: agnostic})
    losses = losses_of(head, [ground_truth(labeled_boxes)], [pseudo_labels(pseudo_boxes)], Scorer())
    total = losses.total(beta_4)
    assert torch.isfinite(total)
    total.backward()
    for name, parameter in head.heads.named_parameters():
        assert parameter.grad is not None, name
    if not labeled_boxes:
        assert losses.supervised["loss_box_reg"].item() == 0.0
    if not pseudo_boxes:
        assert losses.unsupervised["loss_box_reg_unsup"].item() == 0.0


def test_no_regions_at_all() -> None:
    head = make_heads()
    empty = Instances(SIZE, proposal_boxes=Boxes(torch.zeros(0, 4)))
    empty.objectness_logits = torch.zeros(0)
    labels = [pseudo_labels(())]
    losses = head.heads.student_losses(
        *(make_features(2), [empty, empty], [ground_truth(())], labels, labels),
        *(Scorer(), head.method),
    )
    assert losses.total(beta_4).item() == 0.0
    losses.total(beta_4).backward()
    assert all(parameter.grad is not None for parameter in head.heads.parameters())


def test_figures() -> None:
    labels = [pseudo_labels(OTHER_BOXES, (0.2, 0.2, 0.2))]
    losses = losses_of(make_heads(), [ground_truth()], labels, Scorer(ones=True))
    groups, _ = sampled_by(make_heads(), [ground_truth(), *labels])
    foreground = (groups[1].gt_classes < NUM_CLASSES).float()
    means = {name: (mean.total / mean.count).item() for name, mean in losses.figures.items()}
    assert means["foreground_regions"] == pytest.approx(foreground.mean().item())
    assert means["prc_weight_fg"] == means["prc_weight_bg"] == pytest.approx(1.0)
    assert means["ler_weight"] == pytest.approx(0.2)
    assert means["sigma"] > 0
    assert all(not mean.total.requires_grad for mean in losses.figures.values())


def test_forward_is_detectron2s_in_training() -> None:
    head = make_heads()
    labeled = [ground_truth()]
    proposals = make_proposals(BOXES)
    torch.manual_seed(0)
    returned, losses = head.heads(None, make_features(1), proposals, labeled)
    assert returned is proposals
    assert losses == losses_of(head, labeled, []).supervised
