"""Scores at ranks: by hand, against sorting, and what a window forgets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dre_ssod.methods.parts.score_ranks import BINS, ScoreRanks, count_scores


def _ranks(scores: list[list[float]], images: int, window: int = 1000) -> ScoreRanks:
    """Scores by class."""
    ranks = ScoreRanks(len(scores), window)
    classes = [number for number, found in enumerate(scores) for _ in found]
    flat = torch.tensor([score for found in scores for score in found])
    ranks.add(count_scores(flat, torch.tensor(classes, dtype=torch.int64), len(scores)), images)
    return ranks


def test_scores_are_counted_in_their_class_and_bin() -> None:
    scores = torch.tensor([0.0, 0.5, 0.5, 0.9999, 1.0])
    counts = count_scores(scores, torch.tensor([0, 1, 1, 0, 1]), 2)
    assert counts.shape == (2, BINS)
    assert counts.sum() == 5
    assert counts[1, BINS // 2] == 2
    assert counts[0, 0] == counts[0, BINS - 1] == counts[1, BINS - 1] == 1


def test_by_hand() -> None:
    # Ten images, so that 0.3 boxes an image are rank 3, and 0.25 are rank 2.
    ranks = _ranks([[0.875, 0.75, 0.5, 0.25], [0.5, 0.125, 0.25]], images=10)
    assert ranks.thresholds(torch.tensor([0.3, 0.25])).tolist() == [0.5, 0.25]
    assert ranks.thresholds(torch.tensor([0.1, 0.1])).tolist() == [0.875, 0.5]


def test_too_few_detections_give_0_and_a_rank_below_1_nothing() -> None:
    ranks = _ranks([[0.5], [], [0.5]], images=10)
    found = ranks.thresholds(torch.tensor([0.2, 0.1, 0.09]))
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2].isnan()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_score_at_the_rank_of_the_sorted_list(seed: int) -> None:
    scores = torch.rand(500, generator=torch.Generator().manual_seed(seed))
    ranks = _ranks([scores.tolist()], images=100)
    best: Tensor = scores.sort(descending=True).values
    for rank in (1, 2, 37, 499, 500):
        found = ranks.thresholds(torch.tensor([(rank + 0.5) / 100])).item()
        # Rounded down to a bin, so that the score itself reaches it.
        assert found <= best[rank - 1].item() < found + 1 / BINS
        assert int((scores >= found).sum()) >= rank


def test_the_order_of_images_within_a_window_does_not_matter() -> None:
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0))
    orders = (scores, scores.flip(0))
    found = []
    for order in orders:
        ranks = ScoreRanks(1, window=50)
        for part in order.split(3):
            ranks.add(count_scores(part, torch.zeros(3, dtype=torch.int64), 1), 1.0)
        found.append(ranks.thresholds(torch.tensor([1.0])))
    assert torch.equal(*found)


def test_two_windows_are_remembered_and_older_ones_forgotten() -> None:
    ranks = ScoreRanks(1, window=10)
    one_per_image = torch.tensor([1.0])
    for score, expected in ((0.25, 0.25), (0.5, 0.25), (0.75, 0.5), (1 - 1 / BINS, 0.75)):
        ranks.add(count_scores(torch.tensor([score] * 10), torch.zeros(10).long(), 1), 10.0)
        # The last full window and the one being filled: right after a change, the full one alone.
        assert ranks.thresholds(one_per_image).item() == score
        more = ScoreRanks(1, window=10)
        more.load_state_dict(ranks.state_dict())
        more.add(count_scores(torch.tensor([expected] * 9), torch.zeros(9).long(), 1), 9.0)
        assert more.thresholds(one_per_image).item() == expected


def test_state_round_trip() -> None:
    ranks = _ranks([[0.5, 0.25], [0.75]], images=2)
    again = ScoreRanks(2, window=1000)
    again.load_state_dict(ranks.state_dict())
    boxes = torch.tensor([1.0, 0.5])
    assert torch.equal(again.thresholds(boxes), ranks.thresholds(boxes))
    # What is added to one is not added to the other.
    again.add(torch.ones(2, BINS), 1.0)
    assert ranks.thresholds(boxes).tolist() == [0.25, 0.75]
