"""The score at a rank within its class, from counts of what a teacher has seen.

LabelMatch (Chen et al., CVPR 2022) makes thresholds of it. Labeled and unlabeled images show the
same things equally often. So a class gets as many pseudo-labels as its share in the labeled set
says, whatever its scores are. With b_c labeled boxes of class c per labeled image and n unlabeled
images::

    t(c) = score at rank n * b_c * share
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.data.splits.pools import Pools
from dre_ssod.methods.parts.labeled_classes import boxes_per_image
from dre_ssod.settings import Number, setting

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
        return self._at(self._images.sum() * boxes_per_image)

    def quantiles(self, share: float) -> Tensor:
        """(K,) score that this share of the detections of a class reach; NaN of too few, too."""
        return self._at(share * self._counts.sum(dim=(0, 2)))

    def _at(self, ranks: Tensor) -> Tensor:
        ranks = ranks.floor()[:, None]
        reaching = self._counts.sum(dim=0).flip(1).cumsum(dim=1).flip(1)
        edges = torch.arange(BINS) / BINS
        scores = torch.where(reaching >= ranks, edges, 0.0).amax(dim=1)
        return torch.where(ranks[:, 0] >= 1, scores, torch.nan)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts, "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts, self._images = state["counts"].clone(), state["images"].clone()


@dataclass(frozen=True)
class RankSettings:
    """Keys of a method that has such thresholds."""

    min_score: float = setting(
        "SSOD.LABELMATCH.MIN_SCORE",
        0.05,
        "Lowest score of any label, whatever its rank.",
        Number(0.0, 1.0),
    )
    window: int = setting(
        "SSOD.LABELMATCH.WINDOW",
        12800,
        "The ranks are those among the scores of the newest one to two times as many images.",
        Number(1, 10**9),
    )


class RankThresholds:
    """The ranks are those of the scores that the teacher gives while it labels.

    As long as a rank is below 1, because few images have been seen, tau stands in for the
    threshold.
    """

    def __init__(self, settings: RankSettings, tau: float) -> None:
        self._settings = settings
        self._tau = tau
        self._ranks: ScoreRanks | None = None
        self._boxes_per_image = torch.zeros(0)

    def study(self, pools: Pools) -> None:
        """Count b_c, the boxes of each class per labeled image; at least one in all of them."""
        self._boxes_per_image = boxes_per_image(pools)
        self._ranks = ScoreRanks(len(pools.classes), self._settings.window)

    def at(self, share: float, num_classes: int) -> Tensor:
        """t(c), (K,), by the share of the expected labels that is wanted."""
        tau = torch.full((num_classes,), self._tau)
        if self._ranks is None:
            return tau
        found = self._ranks.thresholds(share * self._boxes_per_image)
        return torch.where(found.isnan(), tau, found).clamp(min=self._settings.min_score)

    def counts(self, detections: Sequence[Instances]) -> dict[str, Tensor]:
        """Scores of a pass by class and bin, and its images; nothing without :meth:`study`."""
        if self._ranks is None:
            return {}
        scores, classes = (
            torch.cat([found.get(name) for found in detections])
            for name in ("gt_scores", "gt_classes")
        )
        images = torch.full((1,), float(len(detections)), device=scores.device)
        return {
            "scores": count_scores(scores, classes, len(self._boxes_per_image)),
            "images": images,
        }

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        """Take in what :meth:`counts` gave, summed over passes and processes."""
        if self._ranks is not None and totals:
            self._ranks.add(totals["scores"], totals["images"].item())

    def state_dict(self) -> dict[str, Any]:
        """What steps have changed."""
        return {} if self._ranks is None else self._ranks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        if self._ranks is not None and state:
            self._ranks.load_state_dict(state)


class LearnsRanks:
    """Base of a method, before its other one, that keeps such thresholds in ``_ranks``."""

    _ranks: RankThresholds

    @classmethod
    def labels_by_rank(cls, cfg: CfgNode) -> bool:
        return True

    def study(self, pools: Pools) -> None:
        self._ranks.study(pools)

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        self._ranks.learn(totals)

    def state_dict(self) -> dict[str, Any]:
        return self._ranks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ranks.load_state_dict(state)
