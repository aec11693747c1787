"""Sampled regions: all that a loss of the box head may look at.

Legend: R regions, K foreground classes (class K is the background), C box codings a region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from detectron2.layers import cat
from detectron2.structures import Boxes, Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.box_predictor import BoxPredictions, GaussianFastRCNNOutputLayers
from dre_ssod.modeling.counts import RegionCounts
from dre_ssod.modeling.gaussian import kl_regression_loss, localization_quality
from dre_ssod.structures import Mean, StudentLosses


@dataclass(frozen=True)
class RegionScores:
    """What a teacher says of R given boxes.

    Attributes:
        boxes: (R, 4) that it was asked about, in its own view.
    """

    boxes: Tensor
    _predictor: GaussianFastRCNNOutputLayers
    _predictions: BoxPredictions

    @cached_property
    def probabilities(self) -> Tensor:
        """(R, K + 1) in float32, the background last."""
        return F.softmax(self._predictions.logits.float(), dim=-1)

    def quality(self, classes: Tensor) -> Tensor | None:
        """(R,) s_loc (eq. 5) of the given class in [0, K) of each; None without a variance."""
        alpha = self._predictions.log_variance
        if alpha is None:
            return None
        chosen = self._predictor.of_class(alpha, classes)
        return localization_quality(chosen, self._predictor.rescale_quality)

    def refined(self, classes: Tensor) -> Tensor:
        """(R, 4) boxes as the teacher would place them, by its offsets for the given classes."""
        deltas = self._predictor.of_class(self._predictions.deltas, classes)
        refined: Tensor = self._predictor.box2box_transform.apply_deltas(deltas, self.boxes)
        return refined


@dataclass(frozen=True)
class ImageClasses:
    """Which classes N images show: what a head says, and what their labels say.

    Attributes:
        scores: (N, K) in (0, 1), with a gradient.
        present: (N, K) 1 where a label is of the class, else 0.
    """

    scores: Tensor
    present: Tensor

    @classmethod
    def of(cls, scores: Tensor, labels: Sequence[Instances]) -> ImageClasses:
        """Scores of N images, and the classes of the labels of each."""
        rows = [
            torch.zeros_like(row).index_fill(0, found.gt_classes, 1.0)
            for row, found in zip(scores.detach(), labels, strict=True)
        ]
        return cls(scores, torch.stack(rows))


Ask = Callable[[list[Boxes]], RegionScores]
"""Asks the teacher about boxes, given per image; rows in the same order."""


@dataclass(frozen=True)
class Regions:
    """R regions that the student was sampled on images of one kind, and what it says of them.

    Attributes:
        sampled: per image, ``proposal_boxes``, ``gt_classes`` and, where the image has labels, all
            ``gt_*`` fields of the label that each region was matched to.
        predictions: the student's.
        classes: (R,) of the matched labels, K for background.
        counts: of these regions, over all processes.
        box_divisor: what box losses are divided by, a scalar.
        image_weights: of each image in all means; None: all are 1.
        image_classes: of the images themselves; None where the detector has no head for it.
    """

    predictor: GaussianFastRCNNOutputLayers
    sampled: list[Instances]
    predictions: BoxPredictions
    classes: Tensor
    counts: RegionCounts
    box_divisor: Tensor
    _ask: Ask | None = None
    image_weights: Tensor | None = None
    image_classes: ImageClasses | None = None

    @cached_property
    def is_foreground(self) -> Tensor:
        """(R,) bool."""
        return self.classes < self.predictor.num_classes

    @cached_property
    def offsets(self) -> tuple[Tensor, Tensor]:
        """Predicted t^e and target t^g, (R, 4) each, coded against the regions.

        Both are 0 for background regions, so that their smooth L1 loss and its gradient are:
        picking the foreground out would make the host wait for a GPU.
        """
        proposals = cat([p.proposal_boxes.tensor for p in self.sampled])
        # An image without boxes has no gt_boxes field, and no foreground region either.
        matched = cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in self.sampled]
        )
        predicted = self._of_target_class(self.predictions.deltas)
        targets = self.predictor.box2box_transform.get_deltas(proposals, matched)
        chosen = self.is_foreground[:, None]
        return torch.where(chosen, predicted, 0.0), torch.where(chosen, targets, 0.0)

    @cached_property
    def log_variance(self) -> Tensor | None:
        """(R, 4) alpha of the matched class, of any class for background."""
        alpha = self.predictions.log_variance
        return None if alpha is None else self._of_target_class(alpha)

    def matched(self, field: str, absent: float = 0.0) -> Tensor:
        """(R, ...) values of ``field`` of the label that each region was matched to.

        Args:
            absent: of regions on images whose labels have no such field.
        """
        known = next((p.get(field) for p in self.sampled if p.has(field)), None)
        shape = () if known is None else known.shape[1:]
        return cat(
            [
                p.get(field)
                if p.has(field)
                else torch.full((len(p), *shape), absent, device=self.classes.device)
                for p in self.sampled
            ]
        )

    @cached_property
    def teacher(self) -> RegionScores:
        """The teacher's opinion of the regions, asked for once, when it is first needed."""
        assert self._ask is not None, "these labels have no teacher to ask"
        return self._ask([p.proposal_boxes for p in self.sampled])

    def cross_entropy(self) -> Tensor:
        """(R,) of the student's class scores."""
        return F.cross_entropy(self.predictions.logits.float(), self.classes, reduction="none")

    def smooth_l1(self) -> Tensor:
        """(R, 4) of each coded coordinate, 0 for background."""
        predicted, targets = self.offsets
        beta = self.predictor.smooth_l1_beta
        loss: Tensor = smooth_l1_loss(predicted.float(), targets.float(), beta=beta)
        return loss

    def mean(self, values: Tensor) -> Tensor:
        """The mean of (R,) values over all regions of the batch, weighted by image."""
        return (self.weighted(values) / self.counts.sampled).sum()

    def box_mean(self, values: Tensor) -> Tensor:
        """The sum of (R, ...) box losses over what box losses are divided by, weighted.

        See ``SSOD.BOX_LOSS_NORMALIZER`` and ``MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT``.
        """
        weight = float(self.predictor.loss_weight.get("loss_box_reg", 1.0))
        return weight * self.weighted(values).sum() / self.box_divisor

    def weighted(self, values: Tensor) -> Tensor:
        """(R, ...) values times the weight of each region's image."""
        if self.image_weights is None:
            return values
        counts = torch.tensor([len(p) for p in self.sampled]).to(values.device, non_blocking=True)
        weights = torch.repeat_interleave(self.image_weights, counts, output_size=len(values))
        return weights.view(-1, *[1] * (values.dim() - 1)) * values

    def _of_target_class(self, per_class: Tensor) -> Tensor:
        """(R, 4) of (R, C * 4): the coding of each region's class, of any class for background."""
        classes = self.classes.clamp(max=self.predictor.num_classes - 1)
        return self.predictor.of_class(per_class, classes)


def labeled_losses(labeled: Regions) -> StudentLosses:
    """The box head's own losses: cross-entropy, and what BBOX_REG_LOSS_TYPE says of the boxes.

    With "kl" the box loss is DRE's eq. 10, the mean over regions of its eq. 8 and 9, weighted as
    ``MODEL.ROI_BOX_HEAD.BETA_NLL`` says; with "smooth_l1" that of Faster R-CNN.
    """
    entropy = F.cross_entropy(labeled.predictions.logits.float(), labeled.classes, reduction="sum")
    figures = {}
    if labeled.log_variance is None:
        box_losses = labeled.smooth_l1()
    else:
        beta = labeled.predictor.beta_nll
        losses = kl_regression_loss(*labeled.offsets, labeled.log_variance, beta)
        box_losses = torch.where(labeled.is_foreground, losses, 0.0)
        sigma = torch.exp(0.5 * labeled.log_variance).mean(dim=1)
        figures["sigma"] = Mean.of(sigma, labeled.is_foreground)
    return StudentLosses(
        supervised={
            "loss_cls": entropy / labeled.counts.sampled,
            "loss_box_reg": labeled.box_mean(box_losses),
        },
        figures=figures,
    )
