"""Unbiased Teacher (Liu et al., ICLR 2021).

A burn-in on labels alone gives a first teacher. From then on pseudo-labels train what is in a box,
never where the box is: their scores say nothing of the latter. A focal loss and a slow teacher keep
classes that are rare from being forgotten. Teacher and student see one geometry, the student with
other pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from detectron2.config import CfgNode
from torch import Tensor

from dre_ssod.data.mappers import LabeledPairMapper, UnlabeledPairMapper, UnlabeledViews
from dre_ssod.data.views.pixels import PixelRecipe
from dre_ssod.data.views.views import ViewRecipe
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.focal import focal_loss
from dre_ssod.methods.parts.schedules import Clock, constant_after_burn_in
from dre_ssod.methods.parts.thresholds import above
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, setting
from dre_ssod.structures import StudentLosses


@METHODS.register()
class UnbiasedTeacher(MeanTeacher):
    """Classification alone is learned from pseudo-labels::

    L = L_rpn^cls + L_rpn^reg + L_roi^focal + L_roi^reg + lambda_u (L_rpn^cls,u + L_roi^focal,u)

    lambda_u: ``SSOD.UNSUP_LOSS_WEIGHT``, alpha of the teacher: ``SSOD.EMA.DECAY``, burn-in:
    ``SSOD.BURN_IN_ITERS``; the published ones (4, 0.9996, 2000) are in
    ``configs/published/Base-UnbiasedTeacher-COCO.yaml``.
    """

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD",
            0.7,
            "delta: a detection of the teacher with a score above it becomes a pseudo-label.",
            Number(0.0, 1.0),
        )
        rpn_box: bool = setting(
            "SSOD.UNBIASED_TEACHER.UNSUP_RPN_BOX",
            False,
            "Pseudo-labels train the RPN's boxes; in the paper they do not.",
        )
        gamma: float = setting(
            "SSOD.UNBIASED_TEACHER.GAMMA",
            1.5,
            "gamma of the focal loss, of labeled and unlabeled images; 0: cross-entropy.",
            Number(0.0, 10.0),
        )

    # Pseudo-labels train no boxes that could be weighed.
    unread: ClassVar[tuple[str, ...]] = ("pcv",)

    # Views: both versions of every labeled image, and shared geometry

    view_keys: ClassVar[tuple[str, ...]] = ()

    def mappers(self, cfg: CfgNode) -> tuple[LabeledPairMapper, UnlabeledViews]:
        recipe, pixels = ViewRecipe.weak(cfg), PixelRecipe()
        return LabeledPairMapper(recipe, pixels), UnlabeledPairMapper(recipe, pixels)

    # Labels: detections that score above delta

    @property
    def lowest_score(self) -> float:
        return above(self.settings.score_threshold)

    # Losses

    def losses(self, labeled: Regions, cls: Regions | None, box: Regions | None) -> StudentLosses:
        found = super().losses(labeled, cls, box)
        found.supervised["loss_cls"] = self.focal(labeled)
        return found

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        return StudentLosses(unsupervised={"loss_cls_unsup": self.focal(cls)})

    def focal(self, regions: Regions) -> Tensor:
        """L_roi^focal: ``1 / R * sum_i (1 - p_i)^gamma * -log p_i``."""
        return regions.mean(self.focal_losses(regions))

    def focal_losses(self, regions: Regions) -> Tensor:
        """(R,) of each region: ``(1 - p_i)^gamma * -log p_i``."""
        return focal_loss(regions.predictions.logits, regions.classes, self.settings.gamma)

    # Following: alpha of the teacher stays, 1 - alpha comes from the student

    copies_early = True

    def decay(self, clock: Clock) -> float | None:
        alpha: float = self.settings.ema_decay
        if not self.settings.burn_in_copy:
            return alpha
        return constant_after_burn_in(clock.iteration, clock.burn_in, alpha)
