"""After RPL, Rethinking Pseudo Labels (Li et al., AAAI 2022): only the structure of it is public.

Known: a box gets a localization quality beside its class score, pseudo-labels are kept by both, and
per class thresholds and loss weights move with the pseudo-labels seen, against class imbalance.
Not known, and therefore chosen here:

- the quality is s_loc of the Gaussian head (the paper recasts localization as classification over
  bins), and tau_loc a quantile of the newest detections of the class: small objects have a lower
  s_loc than large ones, however well they are placed;
- the relative frequency of a class is r_c = n_c / max_j n_j, with n_c a moving average of its
  pseudo-labels per image that starts at its labels per image;
- t_cls(c) = tau_cls * r_c^g1, t_loc(c) = tau_loc(c) * r_c^g1, and regions of class c weigh
  min(r_c^-g2, u_max) over the mean of that by n; g1 = 0.05 and g2 = 0.6 are from memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from dre_ssod.data.splits.pools import Pools
from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.labeled_classes import boxes_per_image
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.score_ranks import ScoreRanks, count_scores
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.regions import Regions
from dre_ssod.settings import Number, setting
from dre_ssod.structures import StudentLosses, UnlabeledSample
from dre_ssod.teacher import Labels, observe
from dre_ssod.transfers import chosen

RAREST = 1e-3
"""Lowest relative frequency of a class."""


@METHODS.register()
class RPLLike(MeanTeacher):
    """Two criteria for a label, and thresholds and weights by class frequency."""

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        score_threshold: float = setting(
            "SSOD.RPL_LIKE.SCORE_THRESHOLD",
            0.8,
            "tau_cls: lowest score of a pseudo-label of the most frequent class.",
            Number(0.0, 1.0),
        )
        by_quality: bool = setting(
            "SSOD.RPL_LIKE.BY_QUALITY", True, "Labels are kept by s_loc, too."
        )
        quality_share: float = setting(
            "SSOD.RPL_LIKE.QUALITY_SHARE",
            0.7,
            "tau_loc is the s_loc that this share of the newest detections of a class beyond its "
            "t_cls reach.",
            Number(0.0, 1.0),
        )
        window: int = setting(
            "SSOD.RPL_LIKE.WINDOW",
            10000,
            "How many newest detections of all classes, to twice as many, tau_loc is taken from.",
            Number(1, 10**9),
        )
        threshold_power: float = setting(
            "SSOD.RPL_LIKE.THRESHOLD_POWER", 0.05, "g1: exponent of thresholds.", Number(0.0, 10.0)
        )
        loss_power: float = setting(
            "SSOD.RPL_LIKE.LOSS_POWER", 0.6, "g2: exponent of loss weights.", Number(0.0, 10.0)
        )
        max_weight: float = setting(
            "SSOD.RPL_LIKE.MAX_WEIGHT",
            5.0,
            "u_max: largest weight of a class before the weights are divided by their mean.",
            Number(1.0, 1e6),
        )
        momentum: float = setting(
            "SSOD.RPL_LIKE.MOMENTUM",
            0.999,
            "m: how much of the labels per image, by class, stays at each iteration.",
            Number(0.0, 1.0),
        )

    variance_keys = ("SSOD.RPL_LIKE.BY_QUALITY",)

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._frequency: Tensor | None = None
        self._qualities: ScoreRanks | None = None

    # Labels

    def study(self, pools: Pools) -> None:
        """Start n_c at the labeled boxes per labeled image."""
        self._frequency = boxes_per_image(pools)
        self._qualities = ScoreRanks(len(pools.classes), self.settings.window)

    def relative_frequency(self, num_classes: int) -> Tensor:
        """r_c, (K,) in [RAREST, 1]."""
        n = torch.ones(num_classes) if self._frequency is None else self._frequency
        return (n / n.max()).clamp(min=RAREST)

    def thresholds(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """t_cls(c) and t_loc(c), (K,) each; t_loc is 0 as long as no quality is known."""
        factor = self.relative_frequency(num_classes) ** self.settings.threshold_power
        tau_loc = torch.zeros(num_classes)
        if self._qualities is not None:
            tau_loc = self._qualities.quantiles(self.settings.quality_share).nan_to_num()
        return self.settings.score_threshold * factor, tau_loc * factor

    def label(
        self, teacher: SemiSupervisedRCNN, samples: Sequence[UnlabeledSample], clock: Clock
    ) -> Labels:
        """Detections that reach both thresholds of their class."""
        num_classes: int = teacher.roi_heads.num_classes
        by_class = self.thresholds(num_classes)
        seen = observe(teacher, samples, by_class[0].min().item())
        scores, qualities = torch.stack(by_class).to(teacher.device, non_blocking=True)
        certain = [
            chosen(found, found.gt_scores >= scores[found.gt_classes]) for found in seen.detections
        ]
        kept = certain
        if self.settings.by_quality:
            kept = [
                chosen(found, found.gt_localization_quality >= qualities[found.gt_classes])
                for found in certain
            ]
        counts = self._counts(certain, kept, num_classes)
        return Labels.single(seen.carry(kept), seen.score, counts)

    # Losses

    def unlabeled_losses(self, cls: Regions, box: Regions) -> StudentLosses:
        """Cross-entropy weighed by class, the background by 1; plain box loss."""
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": cls.mean(self.region_weights(cls) * cls.cross_entropy()),
                "loss_box_reg_unsup": self.box_mean(box, box.smooth_l1().sum(dim=1)),
            }
        )

    def region_weights(self, cls: Regions) -> Tensor:
        """The weight of a region's class, 1 of background."""
        classes = cls.classes.clamp(max=cls.predictor.num_classes - 1)
        weights = self.class_weights(cls.predictor.num_classes).to(
            classes.device, non_blocking=True
        )
        return torch.where(cls.is_foreground, weights[classes], 1.0)

    def class_weights(self, num_classes: int) -> Tensor:
        """(K,) min(r_c^-g2, u_max), divided by the mean of it over labels as frequent as r says."""
        r = self.relative_frequency(num_classes)
        weights = (r**-self.settings.loss_power).clamp(max=self.settings.max_weight)
        return weights / ((r * weights).sum() / r.sum())

    # What it learns of the data

    def _counts(
        self, certain: Sequence[Instances], kept: Sequence[Instances], num_classes: int
    ) -> dict[str, Tensor]:
        """Labels of a pass by class, images, and qualities by bin."""
        if self._frequency is None:
            return {}
        classes = torch.cat([found.gt_classes for found in kept])
        counts = {
            "labels": torch.bincount(classes, minlength=num_classes).float(),
            "images": torch.full((1,), float(len(kept)), device=classes.device),
        }
        if self.settings.by_quality:
            qualities = torch.cat([found.gt_localization_quality for found in certain])
            of_certain = torch.cat([found.gt_classes for found in certain])
            counts["qualities"] = count_scores(qualities, of_certain, num_classes)
        return counts

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        if self._frequency is None or self._qualities is None or not totals:
            return
        self._frequency = torch.lerp(
            totals["labels"] / totals["images"], self._frequency, self.settings.momentum
        )
        if "qualities" in totals:
            self._qualities.add(totals["qualities"], totals["qualities"].sum().item())

    def state_dict(self) -> dict[str, Any]:
        if self._frequency is None or self._qualities is None:
            return {}
        return {"frequency": self._frequency, "qualities": self._qualities.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state and self._qualities is not None:
            self._frequency = state["frequency"]
            self._qualities.load_state_dict(state["qualities"])
