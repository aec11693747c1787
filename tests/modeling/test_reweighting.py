"""LER (eq. 11) and PRC (eq. 12 to 14), each restated region by region."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.reweighting import (
    ler_box_loss,
    prc_classification_loss,
    proposal_reliability,
)
from dre_ssod.structures import ProposalScores

NUM_CLASSES = 3
BACKGROUND = NUM_CLASSES


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _boxes(rows: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets (R, 4) and qualities (R,)."""
    quality = torch.sigmoid(_random(rows, seed=3)) / 2
    return 2 * _random(rows, 4, seed=1), 2 * _random(rows, 4, seed=2), quality


def _regions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, K + 1), classes (R,) with 4 foreground regions out of 10, weights (R,)."""
    classes = torch.tensor([3, 0, 3, 3, 1, 2, 3, 3, 0, 3])
    return _random(10, 4, seed=4).requires_grad_(), classes, torch.sigmoid(_random(10, seed=5))


def test_ler_is_equation_11() -> None:
    prediction, target, quality = _boxes()
    prediction.requires_grad_()
    loss = ler_box_loss(prediction, target, quality, torch.tensor(7.0))
    gradient = torch.autograd.grad(loss, prediction)[0]

    total = 0.0
    for row, s_loc in enumerate(quality.tolist()):
        for k in range(4):
            difference = prediction[row, k].item() - target[row, k].item()
            inside = abs(difference) < 1
            total += s_loc * (difference**2 / 2 if inside else abs(difference) - 0.5)
            slope = difference if inside else math.copysign(1.0, difference)
            assert gradient[row, k].item() == pytest.approx(s_loc * slope / 7.0, rel=1e-5)
    assert loss.item() == pytest.approx(total / 7.0, rel=1e-5)


def test_ler_with_weight_one_is_plain_smooth_l1() -> None:
    prediction, target, _ = _boxes()
    plain = F.smooth_l1_loss(prediction, target, beta=1.0, reduction="sum") / 7.0
    for quality in (None, torch.ones(len(target))):
        loss = ler_box_loss(prediction, target, quality, torch.tensor(7.0))
        torch.testing.assert_close(loss, plain)


def test_ler_honors_beta() -> None:
    prediction, target, _ = _boxes()
    loss = ler_box_loss(prediction, target, None, torch.tensor(1.0), beta=0.3)
    torch.testing.assert_close(
        loss, F.smooth_l1_loss(prediction, target, beta=0.3, reduction="sum")
    )


def test_ler_is_not_divided_by_its_weights() -> None:
    prediction, target, quality = _boxes()
    full, half = (
        ler_box_loss(prediction, target, weights, torch.tensor(7.0))
        for weights in (quality, quality / 2)
    )
    torch.testing.assert_close(half, full / 2)


def test_ler_sends_no_gradient_through_its_weights() -> None:
    prediction, target, quality = _boxes()
    quality.requires_grad_()
    loss = ler_box_loss(prediction.requires_grad_(), target, quality, torch.tensor(7.0))
    loss.backward()
    assert prediction.grad is not None
    assert quality.grad is None


def test_ler_without_regions_is_zero_and_tied_to_the_graph() -> None:
    prediction = torch.zeros(0, 4, requires_grad=True)
    loss = ler_box_loss(prediction, torch.zeros(0, 4), torch.zeros(0), torch.tensor(1.0))
    assert loss.item() == 0.0
    loss.backward()
    assert prediction.grad is not None


def test_reliability_is_equation_12_on_foreground_and_13_on_background() -> None:
    scores = ProposalScores(
        foreground=torch.tensor([0.9, 0.9, 0.2, 0.2]),
        background=torch.tensor([0.05, 0.05, 0.7, 0.7]),
        localization_quality=torch.tensor([0.4, 0.4, 0.1, 0.1]),
    )
    is_foreground = torch.tensor([True, False, True, False])
    weights = proposal_reliability(scores, is_foreground)
    torch.testing.assert_close(weights, torch.tensor([0.36, 0.05, 0.02, 0.7]))


def test_reliability_carries_no_gradient() -> None:
    parts = [torch.full((2,), 0.5, requires_grad=True) for _ in range(3)]
    weights = proposal_reliability(ProposalScores(*parts), torch.tensor([True, False]))
    assert not weights.requires_grad


def test_reliability_needs_the_variance_branch() -> None:
    scores = ProposalScores(torch.ones(1), torch.zeros(1), None)
    with pytest.raises(ValueError, match="variance branch"):
        proposal_reliability(scores, torch.tensor([True]))


def test_prc_is_equation_14() -> None:
    logits, classes, weights = _regions()
    loss = prc_classification_loss(logits, classes, weights, torch.tensor(4.0), torch.tensor(6.0))
    gradient = torch.autograd.grad(loss, logits)[0]

    sums = {"foreground": 0.0, "background": 0.0}
    for row, weight in enumerate(weights.tolist()):
        exponentials = [math.exp(value) for value in logits[row].tolist()]
        label = int(classes[row])
        group = "background" if label == BACKGROUND else "foreground"
        sums[group] -= weight * math.log(exponentials[label] / sum(exponentials))
        count = 6.0 if label == BACKGROUND else 4.0
        for column, exponential in enumerate(exponentials):
            slope = exponential / sum(exponentials) - float(column == label)
            assert gradient[row, column].item() == pytest.approx(weight * slope / count, abs=1e-6)
    assert loss.item() == pytest.approx(sums["foreground"] / 4 + sums["background"] / 6, rel=1e-5)


@pytest.mark.parametrize("ones", [True, False])
def test_prc_with_weight_one_is_two_plain_means(ones: bool) -> None:
    logits, classes, _ = _regions()
    weights = torch.ones(len(classes)) if ones else None
    loss = prc_classification_loss(logits, classes, weights, torch.tensor(4.0), torch.tensor(6.0))
    foreground = classes != BACKGROUND
    expected = F.cross_entropy(logits[foreground], classes[foreground])
    expected = expected + F.cross_entropy(logits[~foreground], classes[~foreground])
    torch.testing.assert_close(loss, expected)


def test_prc_with_weight_one_over_all_regions_is_the_cross_entropy_of_faster_rcnn() -> None:
    logits, classes, _ = _regions()
    sampled = torch.tensor(10.0)
    loss = prc_classification_loss(logits, classes, torch.ones(10), sampled, sampled)
    expected = F.cross_entropy(logits, classes)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    )


def test_prc_is_not_divided_by_its_weights() -> None:
    logits, classes, weights = _regions()
    one = torch.tensor(1.0)
    full = prc_classification_loss(logits, classes, weights, one, one)
    torch.testing.assert_close(
        prc_classification_loss(logits, classes, weights / 2, one, one), full / 2
    )


def test_prc_sends_no_gradient_through_its_weights() -> None:
    logits, classes, weights = _regions()
    weights.requires_grad_()
    one = torch.tensor(1.0)
    prc_classification_loss(logits, classes, weights, one, one).backward()
    assert logits.grad is not None
    assert weights.grad is None


def test_prc_of_background_alone() -> None:
    logits, _, weights = _regions()
    classes = torch.full((10,), BACKGROUND)
    loss = prc_classification_loss(logits, classes, weights, torch.tensor(1.0), torch.tensor(10.0))
    expected = (weights * F.cross_entropy(logits, classes, reduction="none")).mean()
    torch.testing.assert_close(loss, expected)


def test_prc_without_regions_is_zero_and_tied_to_the_graph() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    classes, one = torch.zeros(0, dtype=torch.int64), torch.tensor(1.0)
    loss = prc_classification_loss(logits, classes, torch.zeros(0), one, one)
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None


def test_low_precision_is_computed_in_float32() -> None:
    logits, classes, weights = _regions()
    prediction, target, quality = _boxes()
    one = torch.tensor(1.0)
    losses = [
        prc_classification_loss(logits.bfloat16(), classes, weights, one, one),
        ler_box_loss(prediction.bfloat16(), target.bfloat16(), quality, one),
    ]
    assert [loss.dtype for loss in losses] == [torch.float32] * 2
