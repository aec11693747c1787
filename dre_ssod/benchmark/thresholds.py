"""Score thresholds for random weights, which let as much through as trained ones would."""

from __future__ import annotations

from torch import Tensor


def threshold_for(scores: Tensor, count: int) -> float:
    """The score that the ``count`` highest of (R,) scores exceed; the lowest where R is no more."""
    return float(scores.sort(descending=True).values[: count + 1][-1])
