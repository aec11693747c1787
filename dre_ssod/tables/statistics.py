"""Means over runs, and what a difference between two rows is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """A mean over n runs.

    Attributes:
        n: number of runs.
        mean: of them.
        deviation: standard deviation of the sample (divided by n - 1); None for one run.
    """

    n: int
    mean: float
    deviation: float | None

    @property
    def half_width(self) -> float | None:
        """The mean's 95 % interval of Student's t reaches so far to both sides; None for one run.

        ::

            t_{0.975, n - 1} * deviation / sqrt(n)
        """
        if self.deviation is None:
            return None
        quantile = float(t.ppf((1.0 + CONFIDENCE) / 2.0, self.n - 1))
        return quantile * self.deviation / math.sqrt(self.n)


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean and deviation; None without values."""
    n = len(values)
    if n == 0:
        return None
    return Summary(n, fmean(values), stdev(values) if n > 1 else None)


def paired_difference(values: Mapping[str, float], base: Mapping[str, float]) -> Summary | None:
    """Of values by run: the differences over the runs that both have; None without such runs."""
    return summarize([value - base[run] for run, value in values.items() if run in base])


def reached_at(curve: Sequence[tuple[float, float]], value: float) -> float | None:
    """Where a curve first reaches a value, between its points linear in the logarithm of x.

    Args:
        curve: (x, y) at rising, positive x.

    Returns:
        x; None where the curve begins above the value, or never reaches it.
    """
    if curve and value < curve[0][1]:
        return None
    for (x, y), (next_x, next_y) in pairwise(curve):
        if y <= value <= next_y and y < next_y:
            share = (value - y) / (next_y - y)
            return x * (next_x / x) ** share
    return None
