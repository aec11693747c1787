"""Loss denominators, on one process and over several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dre_ssod.modeling.counts import RegionCounts, count_regions, shared_mean
from tests.forks import run_two_processes

K = 3
RANK_LABELS = (
    (torch.tensor([0, 1, K, K, K]), torch.tensor([K, K])),
    (torch.tensor([2, K]), torch.tensor([K, K, K, K])),
)
"""Per process, the classes of a labeled and of an unlabeled group."""


def _values(counts: RegionCounts) -> tuple[float, float, float]:
    return counts.sampled.item(), counts.foreground.item(), counts.background.item()


def test_one_process() -> None:
    labeled, unlabeled = count_regions(*RANK_LABELS[0], num_classes=K)
    assert _values(labeled) == (5.0, 2.0, 3.0)
    # Nothing is ever divided by zero.
    assert _values(unlabeled) == (2.0, 1.0, 2.0)


def test_no_regions_count_as_one() -> None:
    (counts,) = count_regions(torch.zeros(0, dtype=torch.int64), num_classes=K)
    assert _values(counts) == (1.0, 1.0, 1.0)


def test_counts_are_float32_scalars_without_gradient() -> None:
    (counts,) = count_regions(torch.tensor([0, K]), num_classes=K)
    for value in (counts.sampled, counts.foreground, counts.background):
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert not value.requires_grad


def test_each_process_gets_its_share_of_the_global_counts(tmp_path: Path) -> None:
    # Over both processes: labeled 7 = 3 + 4, unlabeled 6 = 0 (counted as 1) + 6; halved.
    expected = torch.tensor([[3.5, 1.5, 2.0], [3.0, 0.5, 3.0]])
    for counts, mean in run_two_processes(_count_on, folder=tmp_path):
        torch.testing.assert_close(counts, expected)
        # 1 and 2 of the first process, 6 of the second.
        assert mean.item() == 3.0


def _count_on(rank: int) -> tuple[Tensor, Tensor]:
    groups = count_regions(*RANK_LABELS[rank], num_classes=K)
    result: Tensor = torch.tensor([_values(counts) for counts in groups])
    values, chosen = ((1.0, 2.0, 9.0), (1, 1, 0)) if rank == 0 else ((6.0, 9.0), (1, 0))
    mean = shared_mean(torch.tensor(values), torch.tensor(chosen) > 0)
    return result, mean


def test_the_average_over_processes_is_the_loss_of_one() -> None:
    """What the division by the number of processes is for."""
    errors = [torch.tensor([1.0, 4.0]), torch.tensor([2.5])]
    (union,) = count_regions(torch.cat([rank[0] for rank in RANK_LABELS]), num_classes=K)
    share = union.foreground / 2
    averaged = sum(rank_errors.sum() / share for rank_errors in errors) / 2
    assert float(averaged) == pytest.approx(torch.cat(errors).mean().item())


def test_a_mean_of_nothing_can_be_divided_by() -> None:
    nothing = torch.zeros(2, dtype=torch.bool)
    assert shared_mean(torch.ones(2), nothing).item() > 0.0
    assert not shared_mean(torch.ones(2, requires_grad=True), ~nothing).requires_grad
