"""Unbiased Teacher v2 (Liu et al., CVPR 2022), its part for Faster R-CNN.

Unbiased Teacher, and boxes: teacher and student each say how uncertain they are of every edge of a
box, and the student listens where its teacher is clearly the surer one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dre_ssod.errors import ConfigError
from dre_ssod.methods.mean_teacher import METHODS
from dre_ssod.methods.parts.pcv import iou_with_label
from dre_ssod.methods.unbiased.unbiased_teacher import UnbiasedTeacher
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, refuse, setting
from dre_ssod.structures import Mean, StudentLosses

BOX_TERM = "loss_box_reg_unsup"


@METHODS.register()
class UnbiasedTeacherV2(UnbiasedTeacher):
    """Adds to Unbiased Teacher the box losses of both kinds of images, and weighs objectness.

    The box head predicts sigma = sigmoid(z), in (0, 1), for each of the four edges
    (``MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA``).
    """

    @dataclass(frozen=True)
    class Settings(UnbiasedTeacher.Settings):
        box_weight: float = setting(
            "SSOD.UNBIASED_TEACHER_V2.BOX_WEIGHT",
            1.0,
            "Weight of the box loss of unlabeled images, in place of lambda_u.",
            Number(0.0, 1e6),
        )
        nll_weight: float = setting(
            "SSOD.UNBIASED_TEACHER_V2.NLL_WEIGHT",
            0.05,
            "Weight of the negative log-likelihood of labeled boxes, which trains sigma.",
            Number(0.0, 1e6),
        )
        margin: float = setting(
            "SSOD.UNBIASED_TEACHER_V2.MARGIN",
            0.1,
            "By how much the teacher must be more certain of an edge than the student.",
            Number(0.0, 1.0),
        )
        certainty: float = setting(
            "SSOD.UNBIASED_TEACHER_V2.CERTAINTY",
            0.5,
            "And how certain, c = 1 - sigma, it must be at least (public code alone).",
            Number(0.0, 1.0),
        )

    unread = ()
    # Objectness is weighed by the score of the pseudo-label with the highest IoU.
    rpn_weights = "gt_scores"

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        head = cfg.MODEL.ROI_BOX_HEAD
        if head.BBOX_REG_LOSS_TYPE != "kl" or not head.BOUNDED_SIGMA:
            raise ConfigError(
                "SSOD.METHOD 'UnbiasedTeacherV2' needs a box head that predicts a sigma in (0, 1): "
                "set MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE 'kl' and BOUNDED_SIGMA True, or have "
                "configs/methods/UnbiasedTeacherV2.yaml among the bases of the config"
            )
        if head.BOX_TRANSFORM != "corner":
            refuse(
                cfg,
                "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM",
                "'corner' with this method, which compares the certainty of edges",
            )
        if head.BETA_NLL:
            refuse(cfg, "MODEL.ROI_BOX_HEAD.BETA_NLL", "0 with this method's own likelihood")
        if head.SIGMA_SCALE != 1.0:
            refuse(
                cfg,
                "MODEL.ROI_BOX_HEAD.SIGMA_SCALE",
                "1 with this method, which compares the teacher's sigma, which it scales, with the "
                "student's, which it does not. A trained model may be used with another one",
            )

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        found = super().losses(labeled, cls, box)
        found.supervised["loss_box_reg"] = self.likelihood(labeled)
        return found

    def likelihood(self, labeled: Regions) -> Tensor:
        """L_s^reg, over foreground regions i and edges k, with d their coded error::

            1 / R * sum_i [ sum_k |d_ik| + w * IoU_i * ( 2 log 2 pi
                            + sum_k [ d_ik^2 / (2 sigma_ik^2) + 1/2 log sigma_ik^2 ] ) ]

        IoU_i is that of the predicted box with its label and has a gradient.
        """
        alpha = labeled.log_variance
        assert alpha is not None, "checked by from_config"
        predicted, targets = labeled.offsets
        squares = (predicted.float() - targets.float()).square()
        nll = (0.5 * torch.exp(-alpha) * squares + 0.5 * alpha).sum(dim=1)
        nll = iou_with_label(labeled) * (nll + 2.0 * math.log(2.0 * math.pi))
        losses = labeled.smooth_l1().sum(dim=1) + self.settings.nll_weight * nll
        return labeled.box_mean(torch.where(labeled.is_foreground, losses, 0.0))

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Adds L_u^reg, the mean of what is kept of the edges' errors::

        1 / R * sum_i sum_k [c^T_ik > c^S_ik + margin and c^T_ik > certainty] * |d_ik|
        """
        found = super().unlabeled_losses(cls, box)
        kept = self.listens(box)
        losses = (kept * box.smooth_l1()).sum(dim=1)
        found.unsupervised[BOX_TERM] = self.box_mean(box, losses, kept.any(dim=1))
        share = kept.float().mean(dim=1)
        found.figures["edges_kept"] = Mean.of(share, box.is_foreground)
        return found

    def listens(self, box: Regions) -> Tensor:
        """(R, 4) bool: where the teacher is surer of an edge, c = 1 - sigma, than the student."""
        assert box.log_variance is not None, "checked by from_config"
        student = 1.0 - torch.exp(0.5 * box.log_variance.detach())
        sigma = box.matched("gt_coded_sigma", absent=1.0)
        # Without any label there is one number per region.
        teacher = 1.0 - (sigma if sigma.dim() == 2 else sigma[:, None])
        return (teacher > student + self.settings.margin) & (teacher > self.settings.certainty)

    def full_weight(self, term: str) -> float:
        return float(self.settings.box_weight) if term == BOX_TERM else super().full_weight(term)
