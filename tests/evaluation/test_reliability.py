"""Reliability of sigma, on residuals of a known distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dre_ssod.evaluation.reliability import LEVELS, coverage, measure, reliability

# Residuals at equal steps of the Gaussian's own distribution: what a right sigma gives.
GAUSSIAN = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)


def test_a_right_sigma_covers_what_it_promises() -> None:
    found = measure(GAUSSIAN)
    assert found.n == 20000
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    assert found.deviation == pytest.approx(1.0, abs=1e-3)
    assert found.coverage == pytest.approx(LEVELS, abs=1e-3)
    assert found.miscalibration == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_sigma_shows_by_its_factor(factor: float) -> None:
    """Residuals twice too large: an interval covers what half its width should."""
    found = measure(factor * GAUSSIAN)
    assert found.deviation == pytest.approx(factor, rel=1e-3)
    bounds = stats.norm.ppf((1 + np.array(LEVELS)) / 2)
    assert found.coverage == pytest.approx(2 * stats.norm.cdf(bounds / factor) - 1, abs=1e-3)


def test_coverage_worked_out_by_hand() -> None:
    # The central intervals of 0.5 and 0.95 end at 0.674 and 1.960.
    residuals = np.array([0.0, -0.6, 0.7, 1.9, -3.0])
    np.testing.assert_allclose(coverage(residuals, (0.5, 0.95)), [2 / 5, 4 / 5])


def test_a_shift_is_a_mean_and_adds_to_the_deviation() -> None:
    found = measure(GAUSSIAN + 3.0)
    assert found.mean == pytest.approx(3.0)
    assert found.deviation == pytest.approx(np.sqrt(10.0), rel=1e-3)


def test_coordinates_are_kept_apart_and_pooled() -> None:
    residuals = np.stack([GAUSSIAN, 2 * GAUSSIAN, GAUSSIAN + 1, GAUSSIAN], axis=1)
    found = reliability(residuals)
    assert list(found) == ["x1", "y1", "x2", "y2", "all"]
    assert found["y1"] == measure(2 * GAUSSIAN)
    assert found["x2"].mean == pytest.approx(1.0)
    assert found["all"].n == 80000


def test_what_is_not_finite_is_left_out() -> None:
    assert measure(np.array([np.nan, 0.5, np.inf, -0.5])) == measure(np.array([0.5, -0.5]))


def test_without_residuals_nothing_is_claimed() -> None:
    found = reliability(np.full((3, 4), np.nan))["all"]
    assert (found.n, found.mean, found.deviation, found.coverage) == (0, None, None, ())
