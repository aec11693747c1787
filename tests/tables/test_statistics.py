"""Means and intervals, against values worked out by hand and from a printed table of t."""

from __future__ import annotations

import pytest

from dre_ssod.tables.statistics import paired_difference, reached_at, summarize


def test_mean_and_deviation() -> None:
    found = summarize([1.0, 2.0, 6.0])
    assert found is not None
    assert (found.n, found.mean) == (3, 3.0)
    # ((-2)^2 + (-1)^2 + 3^2) / 2 = 7
    assert found.deviation == pytest.approx(7.0**0.5)


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)])
def test_the_interval_is_that_of_students_t(n: int, quantile: float) -> None:
    """97.5 % quantiles for n - 1 degrees of freedom, as tables print them."""
    found = summarize([float(i) for i in range(n)])
    assert found is not None
    assert found.deviation is not None
    assert found.half_width == pytest.approx(quantile * found.deviation / n**0.5, rel=1e-3)


def test_one_run_has_no_spread_and_none_no_mean() -> None:
    one = summarize([4.0])
    assert one is not None
    assert (one.mean, one.deviation, one.half_width) == (4.0, None, None)
    assert summarize([]) is None


def test_differences_are_of_the_same_run() -> None:
    """Runs differ by much more than rows do; some have no partner."""
    values = {"fold 0": 10.0, "fold 1": 20.0, "fold 2": 30.0, "fold 3": 99.0}
    base = {"fold 2": 29.0, "fold 0": 9.0, "fold 1": 18.0, "fold 4": 0.0}
    found = paired_difference(values, base)
    assert found is not None
    assert (found.n, found.mean) == (3, pytest.approx(4.0 / 3.0))
    assert found.deviation == pytest.approx((1.0 / 3.0) ** 0.5)
    assert paired_difference(values, {}) is None


def test_a_curve_is_read_off_between_its_points_in_the_logarithm_of_x() -> None:
    curve = [(5.0, 30.0), (20.0, 40.0), (80.0, 44.0)]
    assert reached_at(curve, 35.0) == pytest.approx(10.0)
    assert reached_at(curve, 40.0) == pytest.approx(20.0)
    assert reached_at(curve, 43.0) == pytest.approx(20.0 * 4.0**0.75)
    assert [reached_at(curve, value) for value in (29.9, 44.1)] == [None, None]
    # Where it falls, the first time counts.
    assert reached_at([(1.0, 3.0), (2.0, 1.0), (4.0, 5.0)], 3.0) == pytest.approx(2.0**1.5)
    assert reached_at([], 3.0) is None


def test_a_curve_that_begins_above_a_value_has_not_reached_it() -> None:
    """Also where it falls below it later."""
    curve = [(1.0, 50.0), (10.0, 40.0), (100.0, 60.0)]
    assert reached_at(curve, 45.0) is None
    assert reached_at(curve, 55.0) == pytest.approx(10.0**1.75)
