"""LabelMatch (Chen et al., CVPR 2022): labels by rank within the class, and a band of doubt.

A class gets as many labels as the labeled images let expect (``parts/score_ranks.py``), of two
kinds. With b_c labeled boxes of class c per labeled image and n unlabeled images::

    low(c)  = score at rank n * b_c          high(c) = score at rank n * b_c * alpha

Detections from high on are *reliable* labels. Those from low to high are *uncertain*: objects for
the RPN, but in the box head their regions are taught the teacher's own opinion of them, unless
mining finds that the teacher is sure of them all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.data.mappers import LabeledMapper, UnlabeledMapper, UnlabeledViews
from dre_ssod.data.views.pixels import PixelRecipe
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.per_label import mean_per_label
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.score_ranks import LearnsRanks, RankSettings, RankThresholds
from dre_ssod.modeling.counts import shared_sum
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, key_of, setting
from dre_ssod.structures import Mean, StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, observe
from dre_ssod.transfers import chosen


@METHODS.register()
class LabelMatch(LearnsRanks, MeanTeacher):
    """Thresholds by rank, soft targets for what is uncertain, and mining.

    The paper's adaptive label-distribution-aware confidence thresholds (ACT): :meth:`thresholds`;
    proposal self-assignment: :meth:`unlabeled_losses`; reliable pseudo-label mining:
    :meth:`promoted`. lambda_u, the rate of the teacher and the burn-in are those of the data's
    config, the published ones in ``configs/published/Base-LabelMatch-COCO.yaml``.
    """

    @dataclass(frozen=True)
    class Settings(RankSettings, MeanTeacher.Settings):
        reliable_share: float = setting(
            "SSOD.LABELMATCH.RELIABLE_SHARE",
            0.2,
            "alpha: the best share of the expected labels of a class, which are reliable.",
            Number(0.0, 1.0),
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
        self._ranks = RankThresholds(settings, settings.score_threshold)

    def label_advice(self, more: bool) -> str:
        """Of what bounds labels once ranks are known: tau does only before."""
        least, share = (key_of(self.Settings, name) for name in ("min_score", "reliable_share"))
        fewer = f"raise {least} or lower {share}, by which fewer of them count as reliable"
        return f"lower {least}" if more else fewer

    # Views: Unbiased Teacher's pixel operations, on labeled images without the erasing, and one
    # flip of the weak and the strong view, whose sizes are drawn apart

    asks_teacher = True
    view_keys = ("LABELED_VIEW.LONG_SIDES", "STRONG_VIEW.LONG_SIDES")

    def mappers(self, cfg: CfgNode) -> tuple[LabeledMapper, UnlabeledViews]:
        weak, views = ViewRecipe.weak(cfg), cfg.SSOD
        labeled = weak.sized(*views.LABELED_VIEW.LONG_SIDES)
        strong = weak.sized(*views.STRONG_VIEW.LONG_SIDES)
        return (
            LabeledMapper(replace(labeled, pixels=PixelRecipe(erasing=()))),
            UnlabeledMapper(weak, replace(strong, pixels=PixelRecipe()), one_flip=True),
        )

    # Labels

    def thresholds(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """high(c) and low(c), (K,) each."""
        high = self._ranks.at(self.settings.reliable_share, num_classes)
        return high, torch.minimum(self._ranks.at(1.0, num_classes), high)

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Detections from low(c) on.

        ``gt_reliable`` (R,) is 1 from high(c) on and else 0, ``gt_weak_box`` (R, 4) is the box in
        the weak view.
        """
        seen = observe(teacher, samples, self.settings.min_score)
        num_classes: int = teacher.roi_heads.num_classes
        bounds = torch.stack(self.thresholds(num_classes)).to(teacher.device, non_blocking=True)
        labels = [_select(found, *bounds) for found in seen.detections]
        return Labels.single(seen.carry(labels), seen.score, self._ranks.counts(seen.detections))

    # Losses

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Hard targets for reliable labels and the background, soft ones in between::

        L_u^cls = 1 / N_hard * sum_hard L_CE(p_i, c_i) - 1 / N * sum_soft sum_c p_i^T(c) log p_i(c)
        L_u^reg = 1 / N * sum_hard L_smoothL1(t_i^e, t_i^u)

        Hard: regions of reliable labels, of mined ones and, for classes, background; N_hard are
        those, N all that are sampled, of all processes. p_i^T: the teacher's opinion of region i
        itself, sharpened ("proposal self-assignment").
        """
        promoted = self.promoted(cls)
        hard = _is_reliable(cls) | promoted
        soft = cls.is_foreground & ~hard
        targets = sharpen(cls.teacher.probabilities, self.settings.temperature)
        hard_losses = torch.where(soft, 0.0, cls.cross_entropy())
        soft_losses = torch.where(soft, soft_cross_entropy(cls, targets), 0.0)
        box_losses = torch.where(hard, box.smooth_l1().sum(dim=1), 0.0)
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": hard_losses.sum() / shared_sum((~soft).float())
                + cls.mean(soft_losses),
                "loss_box_reg_unsup": self.box_mean(box, box_losses, hard),
            },
            figures={
                "reliable_regions": Mean.of(hard, cls.is_foreground),
                "promoted_regions": Mean.of(promoted, cls.is_foreground),
            },
        )

    def promoted(self, cls: Regions) -> Tensor:
        """(R,) whether a region's label is uncertain and mining takes it for reliable.

        The paper's "reliable pseudo-label mining".
        """
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
        is_copy = self.ema_step(clock) == 0 and clock.iteration > 0
        return 0.0 if is_copy else float(self.settings.ema_decay)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) of (R, K + 1) probabilities, which are softmax(logits)."""
    return (probabilities.clamp(min=1e-30).log() / temperature).softmax(dim=1).detach()


def soft_cross_entropy(regions: Regions, targets: Tensor) -> Tensor:
    """(R,) cross-entropy of the student's class scores with (R, K + 1) soft targets."""
    return F.cross_entropy(regions.predictions.logits.float(), targets, reduction="none")


def _select(found: Instances, high: Tensor, low: Tensor) -> Instances:
    kept = chosen(found, found.gt_scores >= low[found.gt_classes])
    kept.gt_reliable = (kept.gt_scores >= high[kept.gt_classes]).float()
    kept.gt_weak_box = kept.gt_boxes.tensor
    return kept


def _is_reliable(regions: Regions) -> Tensor:
    return (regions.matched("gt_reliable") > 0.0) & regions.is_foreground
