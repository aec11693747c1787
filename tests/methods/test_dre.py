"""LER (eq. 11) and PRC (eq. 12 to 14), each restated region by region."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.methods.dre import DRE, reliability, two_means
from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.regions import Regions
from tests.factories import NUM_CLASSES, SIZE
from tests.modeling.regions import Scores, make_heads

BACKGROUND = NUM_CLASSES
# 4 foreground regions of 10.
CLASSES = torch.tensor([3, 0, 3, 3, 1, 2, 3, 3, 0, 3])
FOREGROUND = CLASSES != BACKGROUND


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Ten regions with random predictions, targets, qualities and teacher scores."""

    def __init__(self, classes: Tensor = CLASSES, **overrides: Any) -> None:
        head = make_heads(**{"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, **overrides})
        rows = len(classes)
        self.logits = _random(10, NUM_CLASSES + 1, seed=4)[:rows].requires_grad_()
        self.deltas = 2 * _random(10, 4, seed=1)[:rows]
        self.deltas.requires_grad_()
        self.quality = (torch.sigmoid(_random(10, seed=3)) / 2)[:rows]
        scores = torch.sigmoid(_random(3, 10, seed=5))[:, :rows]
        self.scores = Scores(*scores)
        proposals = torch.tensor([[10.0, 10.0, 20.0, 20.0]]).repeat(rows, 1)
        matched = proposals + 2 * _random(10, 4, seed=2)[:rows]
        sampled = Instances(SIZE, proposal_boxes=Boxes(proposals), gt_boxes=Boxes(matched))
        sampled.gt_localization_quality = self.quality
        # Ten pixels a side and weights of 10: an offset is as many pixels.
        self.targets = matched - proposals
        foreground, background = ((classes < BACKGROUND).sum(), (classes == BACKGROUND).sum())
        counts = [
            n.float().clamp(min=1.0) for n in (foreground + background, foreground, background)
        ]
        self.regions = Regions(
            head.heads.box_predictor,
            [sampled],
            BoxPredictions(self.logits, self.deltas, None),
            classes,
            RegionCounts(*counts),
            counts[0],
            lambda boxes: self.scores,
        )
        self.method = head.method

    def losses(self) -> dict[str, Tensor]:
        return self.method.unlabeled_losses(self.regions, self.regions).unsupervised

    @property
    def cls(self) -> Tensor:
        return self.losses()["loss_cls_unsup"]

    @property
    def box(self) -> Tensor:
        return self.losses()["loss_box_reg_unsup"]


def test_it_is_the_method_of_a_config_that_names_none() -> None:
    assert type(make_heads().method) is DRE


def test_ler_is_equation_11() -> None:
    case = Case()
    loss = case.box
    gradient = torch.autograd.grad(loss, case.deltas)[0]
    total = 0.0
    for row, s_loc in enumerate(case.quality.tolist()):
        for k in range(4):
            difference = case.deltas[row, k].item() - case.targets[row, k].item()
            inside = abs(difference) < 1
            slope = difference if inside else math.copysign(1.0, difference)
            if CLASSES[row] == BACKGROUND:
                slope = 0.0
            else:
                total += s_loc * (difference**2 / 2 if inside else abs(difference) - 0.5)
            assert gradient[row, k].item() == pytest.approx(s_loc * slope / 10, rel=1e-4)
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)


def test_without_ler_it_is_plain_smooth_l1() -> None:
    case = Case(**{"SSOD.LER.ENABLED": False})
    expected = F.smooth_l1_loss(
        case.deltas[FOREGROUND], case.targets[FOREGROUND], beta=1.0, reduction="sum"
    )
    torch.testing.assert_close(case.box, expected / 10)
    certain = Case()
    certain.quality.fill_(1.0)
    torch.testing.assert_close(certain.box, case.box)


def test_ler_honors_the_break_of_smooth_l1() -> None:
    case = Case(**{"SSOD.LER.ENABLED": False, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.3})
    expected = F.smooth_l1_loss(
        case.deltas[FOREGROUND], case.targets[FOREGROUND], beta=0.3, reduction="sum"
    )
    torch.testing.assert_close(case.box, expected / 10)


def test_losses_are_not_divided_by_their_weights() -> None:
    full, half = Case(), Case()
    half.quality.mul_(0.5)
    half.scores.foreground.mul_(0.5)
    half.scores.background.mul_(0.5)
    half.scores._quality.mul_(1.0)
    torch.testing.assert_close(half.box, full.box / 2)
    torch.testing.assert_close(half.cls, full.cls / 2)


def test_no_gradient_flows_through_a_weight() -> None:
    case = Case()
    weights = (case.quality, case.scores.foreground, case.scores.background)
    for weight in weights:
        weight.requires_grad_()
    (case.box + case.cls).backward()
    assert case.deltas.grad is not None
    assert case.logits.grad is not None
    assert [weight.grad for weight in weights] == [None] * 3


@pytest.mark.parametrize("count", [0, 3])
def test_without_foreground_losses_are_finite_and_tied_to_the_graph(count: int) -> None:
    case = Case(torch.full((count,), BACKGROUND))
    total = case.box + case.cls
    assert case.box.item() == 0.0
    assert (case.cls.item() == 0.0) == (count == 0)
    total.backward()
    assert case.deltas.grad is not None
    assert case.logits.grad is not None


def test_reliability_is_equation_12_on_foreground_and_13_on_background() -> None:
    scores = Scores(
        foreground=torch.tensor([0.9, 0.9, 0.2, 0.2]),
        background=torch.tensor([0.05, 0.05, 0.7, 0.7]),
        quality=torch.tensor([0.4, 0.4, 0.1, 0.1]),
    )
    weights = reliability(scores, torch.tensor([True, False, True, False]))
    torch.testing.assert_close(weights, torch.tensor([0.36, 0.05, 0.02, 0.7]))


def test_reliability_takes_the_best_foreground_class_and_its_own_variance() -> None:
    class Asked(Scores):
        probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.1, 0.3]])

        def quality(self, classes: Tensor) -> Tensor:
            assert classes.tolist() == [2, 0]
            return torch.tensor([0.5, 0.1])

    weights = reliability(Asked(torch.ones(2), torch.ones(2), None), torch.tensor([True, True]))
    torch.testing.assert_close(weights, torch.tensor([0.15, 0.05]))


def test_reliability_carries_no_gradient() -> None:
    parts = [torch.full((2,), 0.5, requires_grad=True) for _ in range(3)]
    assert not reliability(Scores(*parts), torch.tensor([True, False])).requires_grad


def test_reliability_needs_the_variance_branch() -> None:
    with pytest.raises(ValueError, match="variance branch"):
        reliability(Scores(torch.ones(1), torch.zeros(1), None), torch.tensor([True]))


def test_prc_is_equation_14() -> None:
    case = Case()
    loss = case.cls
    gradient = torch.autograd.grad(loss, case.logits)[0]
    weights = reliability(case.scores, FOREGROUND)
    sums = {"foreground": 0.0, "background": 0.0}
    for row, weight in enumerate(weights.tolist()):
        exponentials = [math.exp(value) for value in case.logits[row].tolist()]
        label = int(CLASSES[row])
        group = "background" if label == BACKGROUND else "foreground"
        sums[group] -= weight * math.log(exponentials[label] / sum(exponentials))
        count = 6.0 if label == BACKGROUND else 4.0
        for column, exponential in enumerate(exponentials):
            slope = exponential / sum(exponentials) - float(column == label)
            assert gradient[row, column].item() == pytest.approx(weight * slope / count, abs=1e-6)
    assert loss.item() == pytest.approx(sums["foreground"] / 4 + sums["background"] / 6, rel=1e-5)


def test_without_prc_it_is_two_plain_means() -> None:
    case = Case(**{"SSOD.PRC.ENABLED": False})
    expected = F.cross_entropy(case.logits[FOREGROUND], CLASSES[FOREGROUND])
    expected = expected + F.cross_entropy(case.logits[~FOREGROUND], CLASSES[~FOREGROUND])
    torch.testing.assert_close(case.cls, expected)


def test_without_prc_over_all_regions_it_is_the_cross_entropy_of_faster_rcnn() -> None:
    case = Case(**{"SSOD.PRC.ENABLED": False, "SSOD.UNSUP_CLS_NORMALIZER": "sampled"})
    loss, expected = case.cls, F.cross_entropy(case.logits, CLASSES)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, case.logits), torch.autograd.grad(expected, case.logits)
    )


def test_all_off_it_is_the_mean_teacher() -> None:
    off = {"SSOD.LER.ENABLED": False, "SSOD.PRC.ENABLED": False}
    ours = Case(**off, **{"SSOD.UNSUP_CLS_NORMALIZER": "sampled"}).losses()
    assert ours == Case(**{"SSOD.METHOD": "MeanTeacher"}).losses()


def test_two_means_are_each_over_their_own_regions() -> None:
    case = Case()
    values = torch.arange(10.0)
    expected = values[FOREGROUND].mean() + values[~FOREGROUND].mean()
    torch.testing.assert_close(two_means(values, case.regions), expected)
