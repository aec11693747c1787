"""Localization quality score: eq. 5."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dre_ssod.modeling.gaussian import localization_quality


def _alpha(rows: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 4, dtype=torch.float64, generator=generator).requires_grad_()


def _restated(alphas: list[float]) -> float:
    """1 - 1 / (1 + exp(-m)), m the mean variance."""
    mean = sum(math.exp(alpha) for alpha in alphas) / 4.0
    return 1.0 - 1.0 / (1.0 + math.exp(-mean))


def test_value_and_gradient_are_those_of_the_equation() -> None:
    alpha = _alpha()
    quality = localization_quality(alpha)
    assert quality.tolist() == pytest.approx([_restated(row) for row in alpha.tolist()])
    # d s_loc / d alpha_k = -s_loc (1 - s_loc) sigma_k^2 / 4.
    gradient = torch.autograd.grad(quality.sum(), alpha)[0]
    expected = -(quality * (1 - quality)).unsqueeze(1) * alpha.exp() / 4
    torch.testing.assert_close(gradient, expected)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(localization_quality, (_alpha(5),))


def test_hand_computed() -> None:
    # Variances 1, 2, 3, 6 have mean 3: 1 - sigmoid(3) = 0.0474259. Their logs have another mean.
    alpha = torch.tensor([[1.0, 2.0, 3.0, 6.0]]).log()
    assert localization_quality(alpha).item() == pytest.approx(0.0474259, abs=1e-6)


def test_an_untrained_branch_scores_0_2689() -> None:
    assert localization_quality(torch.zeros(1, 4)).item() == pytest.approx(0.2689414, abs=1e-6)
    assert localization_quality(torch.zeros(1, 4), rescale=True).item() == pytest.approx(
        0.5378828, abs=1e-6
    )


def test_limits() -> None:
    certain, uncertain = torch.full((1, 4), -40.0), torch.full((1, 4), 40.0)
    assert localization_quality(certain).item() == pytest.approx(0.5)
    assert localization_quality(certain, rescale=True).item() == pytest.approx(1.0)
    assert localization_quality(uncertain).item() == 0.0


def test_rescaling_doubles_and_the_bounds_hold() -> None:
    alpha = torch.linspace(-7.0, 7.0, 50).unsqueeze(1).expand(50, 4)
    quality, rescaled = localization_quality(alpha), localization_quality(alpha, rescale=True)
    torch.testing.assert_close(rescaled, 2 * quality)
    assert (quality >= 0).all()
    assert (quality < 0.5).all()


def test_more_variance_in_any_coordinate_means_less_quality() -> None:
    alpha = torch.zeros(5, 4)
    alpha[1:] += torch.eye(4)
    quality = localization_quality(alpha)
    assert (quality[1:] < quality[0]).all()
    torch.testing.assert_close(quality[1:], quality[1].expand(4))


def test_no_regions() -> None:
    alpha = torch.zeros(0, 4, requires_grad=True)
    quality = localization_quality(alpha)
    assert quality.shape == (0,)
    quality.sum().backward()
    assert alpha.grad is not None


def test_low_precision_is_computed_in_float32() -> None:
    alpha = torch.full((2, 4), 0.3, dtype=torch.bfloat16)
    quality = localization_quality(alpha)
    assert quality.dtype == torch.float32
    torch.testing.assert_close(quality, localization_quality(alpha.float()))
