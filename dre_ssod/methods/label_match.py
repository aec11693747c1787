"""LabelMatch (Chen et al., CVPR 2022): labels by rank within the class, and a band of doubt.

Labeled and unlabeled images show the same things equally often. So a class gets as many
pseudo-labels as its share in the labeled set says, whatever its scores are: the threshold of class
c is a score at a rank. With b_c labeled boxes of class c per labeled image and n unlabeled images::

    low(c)  = score at rank n * b_c          high(c) = score at rank n * b_c * alpha

Detections from high on are *reliable* labels. Those from low to high are *uncertain*: objects for
the RPN, but in the box head their regions are taught the teacher's own opinion of them, unless
mining finds that the teacher is sure of them all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from dre_ssod.methods.mean_teacher import METHODS, Clock, MeanTeacher
from dre_ssod.methods.parts.labeled_classes import boxes_per_image
from dre_ssod.methods.parts.per_label import mean_per_label
from dre_ssod.methods.parts.score_ranks import ScoreRanks, count_scores
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, setting
from dre_ssod.structures import Mean, StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, observe
from dre_ssod.transfers import chosen


@METHODS.register()
class LabelMatch(MeanTeacher):
    """Thresholds by rank, soft targets for what is uncertain, and mining.

    The ranks are those of the scores that the teacher gives while it labels. As long as a rank is
    below 1, because few images have been seen, tau stands in for the threshold.
    """

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        reliable_share: float = setting(
            "SSOD.LABELMATCH.RELIABLE_SHARE",
            0.2,
            "alpha: the best share of the expected labels of a class, which are reliable.",
            Number(0.0, 1.0),
        )
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
        temperature: float = setting(
            "SSOD.LABELMATCH.TEMPERATURE",
            0.5,
            "T: the teacher's soft targets are softmax(logits / T).",
            Number(0.0, 100.0, positive=True),
        )
        mining_iou: float = setting(
            "SSOD.LABELMATCH.MINING_IOU",
            0.8,
            "Mining takes an uncertain label for reliable if the boxes that the teacher refines "
            "from its regions have at least this mean IoU with it, and MINING_SCORE is met.",
            Number(0.0, 1.0),
        )
        mining_score: float = setting(
            "SSOD.LABELMATCH.MINING_SCORE",
            0.8,
            "Mean score for the label's class that the teacher must give its regions for mining.",
            Number(0.0, 1.0),
        )

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._ranks: ScoreRanks | None = None
        self._boxes_per_image = torch.zeros(0)
        # Of the pass that is under way: its iteration, counts by class, and images.
        self._iteration = -1
        self._counts: Tensor | None = None
        self._images = 0

    # Labels

    def study(self, labeled: Sequence[dict[str, Any]], num_classes: int) -> None:
        """Count b_c, the boxes of each class per labeled image; at least one in all of them."""
        self._boxes_per_image = boxes_per_image(labeled, num_classes)
        self._ranks = ScoreRanks(num_classes, self.settings.window)

    def thresholds(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """high(c) and low(c), (K,) each."""
        tau = torch.full((num_classes,), self.settings.score_threshold)
        if self._ranks is None:
            return tau, tau
        high, low = (
            self._ranks.thresholds(share * self._boxes_per_image)
            for share in (self.settings.reliable_share, 1.0)
        )
        high = torch.where(high.isnan(), tau, high).clamp(min=self.settings.min_score)
        low = torch.where(low.isnan(), tau, low).clamp(min=self.settings.min_score)
        return high, torch.minimum(low, high)

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Detections from low(c) on.

        ``gt_reliable`` (R,) is 1 from high(c) on and else 0, ``gt_weak_box`` (R, 4) is the box in
        the weak view.
        """
        seen = observe(teacher, samples, self.settings.min_score)
        num_classes: int = teacher.roi_heads.num_classes
        self._count(seen.detections, num_classes, clock)
        bounds = torch.stack(self.thresholds(num_classes)).to(teacher.device, non_blocking=True)
        labels = [_select(found, *bounds) for found in seen.detections]
        return Labels.single(seen.carry(labels), seen.score)

    # Losses

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Hard targets for reliable labels and the background, soft ones in between::

        L_u^cls = 1 / N * (sum_hard L_CE(p_i, c_i) - sum_soft sum_c p_i^T(c) log p_i(c))
        L_u^reg = 1 / N * sum_reliable L_smoothL1(t_i^e, t_i^u)
        """
        promoted = self.promoted(cls)
        hard = _is_reliable(cls) | promoted
        soft = cls.is_foreground & ~hard
        targets = sharpen(cls.teacher.probabilities, self.settings.temperature)
        cls_losses = torch.where(soft, soft_cross_entropy(cls, targets), cls.cross_entropy())
        box_losses = torch.where(hard, box.smooth_l1().sum(dim=1), 0.0)
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": cls.mean(cls_losses),
                "loss_box_reg_unsup": self.box_mean(box, box_losses),
            },
            figures={
                "reliable_regions": Mean.of(hard, cls.is_foreground),
                "promoted_regions": Mean.of(promoted, cls.is_foreground),
            },
        )

    def promoted(self, cls: Regions) -> Tensor:
        """(R,) whether a region's label is uncertain and mining takes it for reliable."""
        scores, classes = cls.teacher, cls.classes.clamp(max=cls.predictor.num_classes - 1)
        # One column where no image has a label.
        labels = Boxes(cls.matched("gt_weak_box").view(len(classes), -1).expand(-1, 4))
        iou = matched_pairwise_iou(Boxes(scores.refined(classes)), labels).nan_to_num()
        score = scores.probabilities.gather(1, classes[:, None])[:, 0]
        agrees = mean_per_label(iou, cls) >= self.settings.mining_iou
        is_sure = mean_per_label(score, cls) >= self.settings.mining_score
        return cls.is_foreground & ~_is_reliable(cls) & agrees & is_sure

    # Following

    def decay(self, clock: Clock) -> float:
        """The same from the first iteration on; a burn-in ends with a copy."""
        return 0.0 if self.ema_step(clock) == 0 else float(self.settings.ema_decay)

    # What it learns of the data

    def _count(self, detections: Sequence[Instances], num_classes: int, clock: Clock) -> None:
        """Count the scores of a pass.

        A step that came to nothing and whoever else asks for labels between two steps leave counts
        behind: those of another iteration are dropped.
        """
        if clock.iteration != self._iteration:
            self._iteration, self._counts, self._images = clock.iteration, None, 0
        scores, classes = (
            torch.cat([found.get(name) for found in detections])
            for name in ("gt_scores", "gt_classes")
        )
        counts = count_scores(scores, classes, num_classes)
        self._counts = counts if self._counts is None else self._counts + counts
        self._images += len(detections)

    def tally(self) -> Mapping[str, Tensor]:
        """Scores by class and bin, and images, of the step; nothing during the burn-in."""
        if self._ranks is None or self._counts is None:
            return {}
        counts, self._counts = self._counts, None
        images = torch.full((1,), float(self._images), device=counts.device)
        return {"scores": counts, "images": images}

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        if self._ranks is not None and totals:
            self._ranks.add(totals["scores"], totals["images"].item())

    def state_dict(self) -> dict[str, Any]:
        return {} if self._ranks is None else self._ranks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._ranks is not None and state:
            self._ranks.load_state_dict(state)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) of (R, K + 1) probabilities, which are softmax(logits)."""
    return (probabilities.clamp(min=1e-30).log() / temperature).softmax(dim=1).detach()


def soft_cross_entropy(regions: Regions, targets: Tensor) -> Tensor:
    """(R,) cross-entropy of the student's class scores with (R, K + 1) soft targets."""
    return -(targets * regions.predictions.logits.float().log_softmax(dim=1)).sum(dim=1)


def _select(found: Instances, high: Tensor, low: Tensor) -> Instances:
    kept = chosen(found, found.gt_scores >= low[found.gt_classes])
    kept.gt_reliable = (kept.gt_scores >= high[kept.gt_classes]).float()
    kept.gt_weak_box = kept.gt_boxes.tensor
    return kept


def _is_reliable(regions: Regions) -> Tensor:
    return (regions.matched("gt_reliable") > 0.0) & regions.is_foreground
