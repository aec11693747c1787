from __future__ import annotations

import pytest
import torch

from dre_ssod.benchmark.thresholds import threshold_for


@pytest.mark.parametrize(("count", "expected"), [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.25)])
def test_as_many_scores_exceed_it_as_are_asked_for(count: int, expected: float) -> None:
    scores = torch.tensor([0.5, 0.25, 0.75])
    assert threshold_for(scores, count) == expected
    assert int((scores > expected).sum()) == min(count, 2)
