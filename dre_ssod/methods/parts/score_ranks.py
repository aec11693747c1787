"""The score at a rank within its class, from counts of what a teacher has seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BINS = 1024
"""Scores are counted in bins of equal width; as a power of two it makes their edges exact."""


def count_scores(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """(K, BINS) number of (R,) scores in [0, 1] of each class in each bin."""
    bins = (scores.float() * BINS).long().clamp(0, BINS - 1)
    counts = torch.zeros(num_classes * BINS, device=scores.device)
    counts.index_add_(0, classes * BINS + bins, torch.ones_like(scores, dtype=torch.float32))
    return counts.view(num_classes, BINS)


class ScoreRanks:
    """Scores of the newest unlabeled images, at least ``window`` and less than two of them.

    Counts of two windows are kept: of the last full one, and of the one that is being filled. So
    nothing depends on the order of images within a window, and what a checkpoint holds stays small
    however long the window is.
    """

    def __init__(self, num_classes: int, window: int) -> None:
        """
        Args:
            num_classes: K.
            window: in images.
        """
        self._window = window
        self._counts = torch.zeros(2, num_classes, BINS)
        self._images = torch.zeros(2)

    def add(self, counts: Tensor, images: float) -> None:
        """Take in the scores of more images, (K, BINS) as :func:`count_scores` gives them."""
        self._counts[1] += counts
        self._images[1] += images
        if self._images[1] >= self._window:
            self._counts = torch.stack([self._counts[1], torch.zeros_like(counts)])
            self._images = torch.stack([self._images[1], torch.zeros(())])

    def thresholds(self, boxes_per_image: Tensor) -> Tensor:
        """(K,) score that as many detections of a class reach as there should be boxes of it.

        With n images, the score at rank floor(n * boxes per image), rounded down to 1 / BINS. 0
        where there are fewer detections; NaN where the rank is still below 1.

        Args:
            boxes_per_image: (K,).
        """
        ranks = (self._images.sum() * boxes_per_image).floor()[:, None]
        reaching = self._counts.sum(dim=0).flip(1).cumsum(dim=1).flip(1)
        edges = torch.arange(BINS) / BINS
        scores = torch.where(reaching >= ranks, edges, 0.0).amax(dim=1)
        return torch.where(ranks[:, 0] >= 1, scores, torch.nan)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts, "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts, self._images = state["counts"].clone(), state["images"].clone()
