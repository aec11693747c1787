"""Dynamic reweighting of localization error, as section 3 of the paper has it.

The box head predicts a Gaussian for each box coordinate (eq. 4 to 9: ``modeling/gaussian.py``), and
its variance says how well a box is placed (s_loc, eq. 5). On labeled images the head is trained by
the KL loss, eq. 10. On unlabeled images s_loc weighs the box loss of each pseudo-label (LER,
section 3.3), and with the teacher's opinion of each region the classification loss (PRC,
section 3.4).

Weights never carry a gradient, and a loss is never divided by their sum: a batch of unreliable
regions is meant to teach less.

What else may be done is off by default: weigh more sharply (:func:`emphasized`) or relative to the
batch (:func:`relative`), place and choose the pseudo-labels by the variance
(``modeling/refinement.py``), and bound their scores by class (``parts/score_ranks.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dre_ssod.data.splits.pools import Pools
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.score_ranks import LearnsRanks, RankSettings, RankThresholds
from dre_ssod.modeling.counts import shared_mean
from dre_ssod.modeling.gaussian import best_quality
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.refinement import Refinement
from dre_ssod.modeling.regions import Regions, RegionScores
from dre_ssod.settings import Number, OneOf, key_of, setting
from dre_ssod.structures import Mean, StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, observe
from dre_ssod.transfers import chosen


@METHODS.register()
class DRE(LearnsRanks, MeanTeacher):
    """The paper's method: a mean teacher with LER and PRC, each of which can be switched off.

    Losses of labeled images are the head's own (:func:`labeled_losses`). With
    ``MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE`` "kl" their box loss is eq. 10::

        L_s^reg = 1 / N_s * sum_i L_KL(t_i^e, t_i^g)
    """

    @dataclass(frozen=True)
    class Settings(RankSettings, MeanTeacher.Settings):
        ler: bool = setting(
            "SSOD.LER.ENABLED",
            True,
            "Localization Error reweighting in Regression: s_loc weighs the terms of eq. 11.",
        )
        prc: bool = setting(
            "SSOD.PRC.ENABLED",
            True,
            "Proposal Reliability reweighting in Classification: eq. 12 and 13 weigh eq. 14.",
        )
        cls_normalizer: str = setting(
            "SSOD.UNSUP_CLS_NORMALIZER",
            "separate",
            'How the unsupervised cross-entropy is averaged: "separate" (eq. 14: one mean over '
            'foreground regions plus one over background ones) or "sampled" (one mean over all, as '
            "Faster R-CNN).",
            OneOf(("separate", "sampled")),
        )
        quality_power: float = setting(
            "SSOD.QUALITY_POWER",
            1.0,
            "gamma: s_max * (s_loc / s_max)^gamma stands for s_loc in eq. 11 and 12, where s_max, "
            "0.5 or rescaled 1, is that of a certain box. Above 1 it spreads what eq. 5 squeezes; "
            "1 is the paper's.",
            Number(0.0, 100.0),
        )
        relative_weights: bool = setting(
            "SSOD.RELATIVE_WEIGHTS",
            False,
            "The weights of foreground regions, s_loc in eq. 11 and s_fg in eq. 14, are divided by "
            "their mean over the batch: they prefer some regions, and no longer turn a loss down.",
        )
        label_ranking: bool = setting(
            "SSOD.LABELS.RANK_BY_QUALITY",
            False,
            "Which of overlapping detections becomes a pseudo-label goes by score times quality, "
            "as with TEST.RANK_BY_QUALITY; tau still bounds the score.",
        )
        label_voting: float = setting(
            "SSOD.LABELS.VOTING_SIGMA_T",
            0.0,
            "sigma_t of variance voting, which moves the boxes of pseudo-labels as "
            "TEST.VARIANCE_VOTING does at test time; 0: they stay.",
            Number(0.0, 1e4),
        )
        label_share: float = setting(
            "SSOD.LABELS.RANK_SHARE",
            0.0,
            "In place of tau, class c is bound by the score at rank n * b_c * RANK_SHARE, as in "
            "LabelMatch: n images, b_c labeled boxes of c per labeled image. 0: tau; 1: as many "
            "labels as expected. SSOD.LABELMATCH.MIN_SCORE and WINDOW apply.",
            Number(0.0, 1.0),
        )

    variance_keys = (
        *("SSOD.LER.ENABLED", "SSOD.PRC.ENABLED"),
        *("SSOD.LABELS.RANK_BY_QUALITY", "SSOD.LABELS.VOTING_SIGMA_T"),
    )

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._ranks = RankThresholds(settings, settings.score_threshold)
        self.asks_teacher = settings.prc
        self.has_two_means = settings.cls_normalizer == "separate"

    @classmethod
    def labels_by_rank(cls, cfg: CfgNode) -> bool:
        return bool(cls.settings_of(cfg).label_share)

    def label_advice(self, more: bool) -> str:
        if not self.settings.label_share:
            return super().label_advice(more)
        share, least = (key_of(self.Settings, name) for name in ("label_share", "min_score"))
        return f"raise {share} (at most 1) or lower {least}" if more else f"lower {share}"

    @property
    def refinement(self) -> Refinement:
        """What the settings say."""
        return Refinement(self.settings.label_ranking, self.settings.label_voting or None)

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Detections with a score of at least tau, or of the rank's by ``SSOD.LABELS.RANK_SHARE``.

        Ranked by quality, what has a rank is score times 2 s_loc, and so is what tau bounds while
        it stands in for the threshold of a rank that is not known yet.
        """
        share = self.settings.label_share
        if not share:
            return super().label(teacher, samples, clock)
        seen = observe(teacher, samples, self.settings.min_score, self.refinement)
        num_classes: int = teacher.roi_heads.num_classes
        bounds = self._ranks.at(share, num_classes).to(teacher.device, non_blocking=True)
        labels = [chosen(f, f.gt_scores >= bounds[f.gt_classes]) for f in seen.detections]
        return Labels.single(seen.carry(labels), seen.score, self._ranks.counts(seen.detections))

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """L_u^reg (eq. 11) and L_u^cls (eq. 14)::

            L_u^reg = 1 / N * sum_j s_j^loc * L_smoothL1(t_j^e, t_j^u)
            L_u^cls = 1 / N_fg * sum_i s_i^fg * L_CE(p_i, c_i) + 1 / N_bg * sum_j s_j^bg * L_CE(...)

        What box losses are divided by, N, is said by ``SSOD.BOX_LOSS_NORMALIZER``. With
        ``SSOD.RELATIVE_WEIGHTS``, s_j^loc and s_i^fg are those of :func:`relative`.
        """
        figures = {}
        box_losses = box.smooth_l1().sum(dim=1)
        s_loc = self.box_weights(box)
        if s_loc is not None:
            figures["ler_weight"] = Mean.of(s_loc, box.is_foreground)
            box_losses = self._relative(s_loc, box) * box_losses
        cls_losses = cls.cross_entropy()
        weights = self.region_weights(cls)
        if weights is not None:
            cls_losses = self._relative(weights, cls) * cls_losses
            figures["prc_weight_fg"] = Mean.of(weights, cls.is_foreground)
            figures["prc_weight_bg"] = Mean.of(weights, ~cls.is_foreground)
        mean = two_means(cls_losses, cls) if self.has_two_means else cls.mean(cls_losses)
        losses = {
            "loss_cls_unsup": mean,
            "loss_box_reg_unsup": self.box_mean(box, box_losses),
        }
        return StudentLosses(unsupervised=losses, figures=figures)

    def box_weights(self, box: Regions) -> Tensor | None:
        """s_loc of eq. 11; None where LER is off."""
        if not self.settings.ler:
            return None
        quality = box.matched("gt_localization_quality").detach()
        return emphasized(
            quality, self.settings.quality_power, best_quality(box.predictor.rescale_quality)
        )

    def region_weights(self, cls: Regions) -> Tensor | None:
        """s_fg and s_bg of eq. 12 and 13; None where PRC is off."""
        if not self.settings.prc:
            return None
        power = self.settings.quality_power
        best = best_quality(cls.predictor.rescale_quality)
        return reliability(cls.teacher, cls.is_foreground, lambda s: emphasized(s, power, best))

    def study(self, pools: Pools) -> None:
        if self.settings.label_share:
            super().study(pools)

    def _relative(self, weights: Tensor, regions: Regions) -> Tensor:
        if not self.settings.relative_weights:
            return weights
        return relative(weights, regions.is_foreground)


def emphasized(quality: Tensor, power: float, best: float) -> Tensor:
    """``s_max * (s_loc / s_max)^gamma``: spreads qualities, and leaves that of a certain box.

    Eq. 5 gives most boxes nearly the same quality. With gamma 4, 0.38 becomes 0.17, 0.48 0.42.

    Args:
        quality: (R,) s_loc in (0, s_max).
        power: gamma; 1 changes nothing.
        best: s_max.
    """
    return best * (quality / best).pow(power)


def relative(weights: Tensor, is_foreground: Tensor) -> Tensor:
    """``s_i / (1 / N_fg * sum_j s_j)`` for foreground regions, whose mean weight then is 1.

    As weights they say which regions matter more, not how much all of them do. The sum runs over
    the foreground regions of all processes, which all must call this; other weights stay.

    Args:
        weights: (R,), without gradient.
        is_foreground: (R,) bool.
    """
    return torch.where(is_foreground, weights / shared_mean(weights, is_foreground), weights)


def reliability(
    scores: RegionScores,
    is_foreground: Tensor,
    emphasize: Callable[[Tensor], Tensor] = lambda quality: quality,
) -> Tensor:
    """Reliability of each region: s_fg of eq. 12 or s_bg of eq. 13.

    ``s_fg = p_fg * s_loc``, with the teacher's highest probability of a foreground class and the
    variance of that class; ``s_bg = p_bg``.

    Args:
        scores: the teacher's opinion of the R regions.
        is_foreground: (R,) bool, the student's label assignment.
        emphasize: of s_loc.

    Returns:
        (R,) in [0, 1], without gradient.

    Raises:
        ValueError: if the teacher has no variance branch.
    """
    foreground, best = scores.probabilities[:, :-1].max(dim=1)
    quality = scores.quality(best)
    if quality is None:
        raise ValueError(
            "PRC needs the variance branch (eq. 12 uses s_loc): set "
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE to 'kl' or SSOD.PRC.ENABLED to False."
        )
    return torch.where(
        is_foreground, foreground * emphasize(quality), scores.probabilities[:, -1]
    ).detach()


def two_means(losses: Tensor, regions: Regions) -> Tensor:
    """A mean over foreground plus a mean over background regions of the batch (eq. 14).

    Args:
        losses: (R,) the reweighted cross-entropy.

    Returns:
        scalar; zero, and still tied to the graph, without regions.
    """
    counts = regions.counts
    divisor = torch.where(regions.is_foreground, counts.foreground, counts.background)
    return (losses / divisor).sum()
