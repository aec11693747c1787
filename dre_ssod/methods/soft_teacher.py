"""Soft Teacher (Xu et al., ICCV 2021).

Each loss has labels of its own. Boxes that the teacher is sure of train the RPN and the classes;
boxes that it puts at the same place again when they are jittered train the boxes. And since no set
of labels is complete, what lies outside of them is background only as far as the teacher says so.

Equation numbers are the paper's, by memory of it; w and u are names of ours. Where paper and public
code differ, the code is followed: "differs" below, and in ``docs/methods.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import cat
from torch import Tensor

from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.jitter import box_spread
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.thresholds import above
from dre_ssod.modeling.counts import shared_sum
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, setting
from dre_ssod.structures import Mean, StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, observe


@METHODS.register()
class SoftTeacher(MeanTeacher):
    """A mean teacher with three label sets and soft background.

    ======= ===============================================================================
    eq. 1   L = L_s + alpha * L_u: :meth:`MeanTeacher.weight`, summed by ``StudentLosses.total``;
            alpha: ``SSOD.UNSUP_LOSS_WEIGHT``, in ``configs/published`` 4 by
            ``Base-SoftTeacher-COCO.yaml``, 2 by ``SoftTeacher_coco_additional.yaml``
    eq. 2   L_s: of the box head ``labeled_losses`` in ``modeling/regions.py``, of the RPN
            ``SemiSupervisedRPN.student_losses`` in ``modeling/rpn.py``, whose mean is over
            images, as here; the box head's differs, a mean over regions
    eq. 3   L_u = L_u^cls + L_u^reg: :meth:`unlabeled_losses`; differs as eq. 2
    eq. 4-5 L_u^cls, the weight w_j out of r_j: :meth:`unlabeled_losses`; differs in its divisor;
            the reliability r_j of background: :meth:`region_weights`, for which the teacher is
            asked by ``TeacherPass.score`` in ``teacher.py``
    eq. 6   refine(jitter(b)): ``methods/parts/jitter.py``; differs, normal jitter
    eq. 7   sigma-bar, the mean spread of the four coordinates: ``box_spread`` there
    eq. 8   each spread relative to the box: ``box_spread``; differs in its unit
    eq. 9   L_u^reg: :meth:`unlabeled_losses`; differs, of foreground regions, divided by the
            number of all sampled regions
    eq. 10  L_u by two label sets: :meth:`label`, :meth:`unlabeled_losses`
    labels  which box trains what, by three thresholds: :meth:`label`
    RPN     both losses, ``modeling/rpn.py``, by the labels of the classes unless
            ``SSOD.SOFT_TEACHER.RPN_SCORE`` is another bound than theirs
    views   weak, labeled and strong: ``ViewRecipe`` in ``data/views/views.py``, for
            ``data/mappers.py``; a strong view has one color operation, ``photometric.py`` there,
            and one move, ``geometric.py``, each time, a labeled one the former alone
    EMA     ``SSOD.EMA.DECAY`` of :class:`MeanTeacher`, 0.999 at most, from a copy at its first step
    runs    batch, rate and iterations: ``configs/published/Base-SoftTeacher-COCO.yaml`` for 1, 5
            and 10 %, ``SoftTeacher_coco_additional.yaml`` for all of COCO
    tested  the code's figures are the student's; here both are evaluated, and ``model_best``
            follows the teacher, unless ``SSOD.EVAL_MODEL`` is "student"
    ======= ===============================================================================
    """

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.SOFT_TEACHER.SCORE_THRESHOLD",
            0.5,
            "A detection of the teacher with a score above it is a candidate for all label sets.",
            Number(0.0, 1.0),
        )
        rpn_score: float = setting(
            "SSOD.SOFT_TEACHER.RPN_SCORE",
            0.9,
            "A candidate with a score above it trains the RPN.",
            Number(0.0, 1.0),
        )
        cls_score: float = setting(
            "SSOD.SOFT_TEACHER.CLS_SCORE",
            0.9,
            "A candidate with a score above it trains the classes.",
            Number(0.0, 1.0),
        )
        max_spread: float = setting(
            "SSOD.SOFT_TEACHER.BOX_SPREAD",
            0.02,
            "Bound of the spread u: a candidate below it trains the boxes, whatever its score.",
            Number(0.0, 1e6),
        )
        jitters: int = setting(
            "SSOD.SOFT_TEACHER.JITTERS",
            10,
            "N_jitter: jittered copies of a candidate that its spread is taken over.",
            Number(2, 1000),
        )
        jitter_scale: float = setting(
            "SSOD.SOFT_TEACHER.JITTER_SCALE",
            0.06,
            "Deviation of the normal jitter of an edge, as a fraction of the box's side. The "
            "paper's is uniform within as much.",
            Number(0.0, 1.0),
        )

    asks_teacher = True
    score_bounds = ("cls_score", "rpn_score", "score_threshold")

    # Labels

    @torch.no_grad()
    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Candidates, and which of them each loss learns from.

        ``score > rpn_score``, ``score > cls_score`` and, with the spread u of box jitter,
        ``u < max_spread``. The detection itself is the label, not the mean of its jittered boxes.
        """
        seen = observe(teacher, samples, above(self.settings.score_threshold))
        spreads = box_spread(seen, self.settings.jitters, self.settings.jitter_scale)
        for detections, spread in zip(seen.detections, spreads, strict=True):
            detections.gt_box_spread = spread
        scores = cat([detections.gt_scores for detections in seen.detections])
        cls = rpn = seen.carry(seen.detections, scores > self.settings.cls_score)
        if self.settings.rpn_score != self.settings.cls_score:
            rpn = seen.carry(seen.detections, scores > self.settings.rpn_score)
        box = seen.carry(seen.detections, cat(spreads) < self.settings.max_spread)
        return Labels(rpn, cls, box, seen.score)

    # Losses

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """L_u^cls and L_u^reg, with w_i = 1 for foreground and r_i, below, for background::

            L_u^cls = sum_i w_i * L_CE(p_i, c_i) / max(sum_i w_i, 1)
            L_u^reg = 1 / R * sum_i L_1(t_i, t_i^g)

        Both sums of the former run over all processes. The paper has the mean over foreground plus
        the background's sum with w_j = r_j / sum_k r_k (eq. 4 and 5), the code this one mean. R is
        the number of sampled regions, where the paper has the foreground ones
        (``SSOD.BOX_LOSS_NORMALIZER "foreground"``). L_1 is the base config's:
        smooth L1 with a beta of 0 in ``configs/methods/SoftTeacher.yaml``.
        """
        weights = self.region_weights(cls)
        cls_loss = (weights * cls.cross_entropy()).sum() / shared_sum(weights)
        losses = {
            "loss_cls_unsup": cls_loss,
            "loss_box_reg_unsup": self.box_mean(box, box.smooth_l1().sum(dim=1)),
        }
        background = Mean.of(weights, ~cls.is_foreground)
        return StudentLosses(unsupervised=losses, figures={"background_weight": background})

    def region_weights(self, cls: Regions) -> Tensor:
        """w: 1, or r_j, the teacher's probability that a background region is background."""
        return torch.where(cls.is_foreground, 1.0, cls.teacher.probabilities[:, -1]).detach()
