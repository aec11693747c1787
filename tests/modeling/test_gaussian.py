"""KL regression loss: eq. 8 and 9, coordinate by coordinate, and what follows from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from dre_ssod.modeling.gaussian import kl_regression_loss


def _inputs(rows: int = 40, scale: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    """Random (R, 4) float64 predictions, targets and alphas, on both sides of abs = 1."""
    generator = torch.Generator().manual_seed(0)
    prediction, target, alpha = (
        scale * torch.randn(rows, 4, dtype=torch.float64, generator=generator) for _ in range(3)
    )
    return prediction.requires_grad_(), target, alpha.requires_grad_()


def _one(distance: float, alpha: float) -> Tensor:
    """The loss of one coordinate that is off by ``distance``; the other three add nothing."""
    prediction = torch.tensor([[distance, 0.0, 0.0, 0.0]], dtype=torch.float64)
    log_variance = torch.tensor([[alpha, 0.0, 0.0, 0.0]], dtype=torch.float64)
    return kl_regression_loss(prediction, torch.zeros_like(prediction), log_variance)[0]


def _restated(t_e: float, t_g: float, alpha: float) -> tuple[float, float, float]:
    """Eq. 8 and 9 of one coordinate, and their derivatives by t_e and alpha, worked out by hand."""
    difference = t_g - t_e
    precision = math.exp(-alpha)
    if abs(difference) <= 1.0:
        value = precision / 2.0 * difference**2 + alpha / 2.0
        slope = -precision * difference
        alpha_slope = 0.5 - precision / 2.0 * difference**2
    else:
        value = precision * (abs(difference) - 0.5) + alpha / 2.0
        slope = -precision * math.copysign(1.0, difference)
        alpha_slope = 0.5 - precision * (abs(difference) - 0.5)
    return value, slope, alpha_slope


def test_value_and_gradient_are_those_of_the_equations() -> None:
    prediction, target, alpha = _inputs()
    loss = kl_regression_loss(prediction, target, alpha)
    grad_prediction, grad_alpha = torch.autograd.grad(loss.sum(), (prediction, alpha))

    distances = (target - prediction).abs()
    assert (distances <= 1).any()
    assert (distances > 1).any()
    for row in range(len(loss)):
        terms = [
            _restated(*(t[row, k].item() for t in (prediction, target, alpha))) for k in range(4)
        ]
        values, slopes, alpha_slopes = zip(*terms, strict=True)
        assert loss[row].item() == pytest.approx(sum(values), rel=1e-12)
        assert grad_prediction[row].tolist() == pytest.approx(slopes, rel=1e-12)
        assert grad_alpha[row].tolist() == pytest.approx(alpha_slopes, rel=1e-12)


def test_hand_computed() -> None:
    # alpha = log 4, so exp(-alpha) = 1/4 and alpha / 2 = log 2.
    # d = 0.5: 1/4 * 0.125 + log 2;  d = 3: 1/4 * 2.5 + log 2.
    alpha = math.log(4.0)
    assert _one(0.5, alpha).item() == pytest.approx(0.03125 + math.log(2.0))
    assert _one(3.0, alpha).item() == pytest.approx(0.625 + math.log(2.0))


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_beta_nll_multiplies_each_coordinate_by_a_power_of_its_own_variance(beta: float) -> None:
    prediction, target, alpha = _inputs(rows=20)
    loss = kl_regression_loss(prediction, target, alpha, beta)
    grad_prediction, grad_alpha = torch.autograd.grad(loss.sum(), (prediction, alpha))
    for row in range(len(loss)):
        # The factor has no gradient of its own: it multiplies value and slopes alike.
        terms = []
        for k in range(4):
            t_e, t_g, a = (t[row, k].item() for t in (prediction, target, alpha))
            sigma = math.sqrt(math.exp(a))
            terms.append([sigma ** (2.0 * beta) * part for part in _restated(t_e, t_g, a)])
        values, slopes, alpha_slopes = zip(*terms, strict=True)
        assert loss[row].item() == pytest.approx(sum(values), rel=1e-12)
        assert grad_prediction[row].tolist() == pytest.approx(slopes, rel=1e-12)
        assert grad_alpha[row].tolist() == pytest.approx(alpha_slopes, rel=1e-12, abs=1e-14)


def test_with_beta_1_boxes_get_the_gradient_of_smooth_l1_whatever_their_variance() -> None:
    prediction, target, alpha = _inputs()
    (found,) = torch.autograd.grad(
        kl_regression_loss(prediction, target, alpha, 1.0).sum(), prediction
    )
    plain = F.smooth_l1_loss(prediction, target, beta=1.0, reduction="sum")
    torch.testing.assert_close(found, torch.autograd.grad(plain, prediction)[0])


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(kl_regression_loss, _inputs(rows=6))


def test_near_the_target_it_is_the_negative_log_likelihood_of_a_gaussian() -> None:
    prediction, target, alpha = _inputs(scale=0.15)
    assert ((target - prediction).abs() <= 1).all()
    gaussian = Normal(prediction, torch.exp(alpha / 2))
    expected = -gaussian.log_prob(target).sum(dim=1) - 2.0 * math.log(2.0 * math.pi)
    torch.testing.assert_close(kl_regression_loss(prediction, target, alpha), expected)


def test_value_and_slope_are_continuous_where_the_equations_meet() -> None:
    below, above = 1.0 - 1e-9, 1.0 + 1e-9
    for alpha in (-3.0, 0.0, 2.0):
        assert _one(below, alpha).item() == pytest.approx(_one(above, alpha).item(), abs=1e-7)
        slopes = []
        for distance in (below, 1.0, above):
            prediction = torch.full((1, 4), distance, dtype=torch.float64, requires_grad=True)
            loss = kl_regression_loss(
                prediction, torch.zeros(1, 4), torch.full((1, 4), alpha, dtype=torch.float64)
            )
            slopes.append(torch.autograd.grad(loss.sum(), prediction)[0][0, 0].item())
        assert slopes == pytest.approx([math.exp(-alpha)] * 3, rel=1e-6)


def test_with_unit_variance_it_is_smooth_l1() -> None:
    prediction, target, _ = _inputs()
    loss = kl_regression_loss(prediction, target, torch.zeros_like(target))
    expected = F.smooth_l1_loss(prediction, target, beta=1.0, reduction="none").sum(dim=1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss.sum(), prediction), torch.autograd.grad(expected.sum(), prediction)
    )


@pytest.mark.parametrize(
    ("distance", "best_variance"),
    # Setting the derivative by alpha to zero: sigma^2 = d^2 in eq. 8, 2d - 1 in eq. 9.
    [(0.2, 0.04), (0.9, 0.81), (1.0, 1.0), (1.5, 2.0), (4.0, 7.0)],
)
def test_the_best_variance_is_the_error_itself(distance: float, best_variance: float) -> None:
    best = math.log(best_variance)
    least = _one(distance, best).item()
    for step in (1e-3, 0.1, 1.0):
        assert _one(distance, best - step).item() > least
        assert _one(distance, best + step).item() > least


def test_a_certain_and_right_prediction_has_a_negative_loss() -> None:
    assert _one(0.0, -6.0).item() == pytest.approx(-3.0)


def test_no_regions_give_no_loss_and_a_zero_gradient() -> None:
    prediction = torch.zeros(0, 4, requires_grad=True)
    alpha = torch.zeros(0, 4, requires_grad=True)
    loss = kl_regression_loss(prediction, torch.zeros(0, 4), alpha)
    assert loss.shape == (0,)
    assert loss.sum().item() == 0.0
    loss.sum().backward()
    assert prediction.grad is not None
    assert alpha.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    prediction = torch.tensor([[0.5, 2.0, -3.0, 0.0]], dtype=dtype)
    target = torch.zeros(1, 4, dtype=dtype)
    # exp(7) = 1097 has no exact bfloat16; in float32 the result agrees with float64's.
    alpha = torch.full((1, 4), -7.0, dtype=dtype)
    loss = kl_regression_loss(prediction, target, alpha)
    assert loss.dtype == torch.float32
    expected = kl_regression_loss(prediction.double(), target.double(), alpha.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0.0)
