"""RoI heads that train on labeled images and pseudo-labeled views in one pass."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.box_predictor import BoxPredictions, GaussianFastRCNNOutputLayers
from dre_ssod.modeling.counts import RegionCounts, count_regions
from dre_ssod.modeling.losses import kl_regression_loss
from dre_ssod.modeling.pooling import keep_coordinates_exact
from dre_ssod.modeling.reweighting import (
    ler_box_loss,
    prc_classification_loss,
    proposal_reliability,
)
from dre_ssod.structures import Mean, ProposalScorer, ProposalScores, StudentLosses

Features = dict[str, Tensor]


@ROI_HEADS_REGISTRY.register()
class GaussianROIHeads(StandardROIHeads):
    """Detectron2's box head with a Gaussian predictor, LER and PRC.

    ``forward`` is Detectron2's: supervised losses in training, detections in evaluation.
    ``student_losses`` is the semi-supervised pass.
    """

    @configurable
    def __init__(
        self,
        *,
        ler: bool,
        prc: bool,
        box_loss_normalizer: str,
        unsup_cls_normalizer: str,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            ler: weigh the unsupervised box loss by s_loc of the pseudo-label (eq. 11).
            prc: weigh the unsupervised classification loss by reliability (eq. 14).
            box_loss_normalizer: "sampled" or "foreground", what box losses are divided by.
            unsup_cls_normalizer: "separate" (eq. 14) or "sampled" (plain mean).
            kwargs: as for Detectron2's ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.ler = ler
        self.prc = prc
        self.box_loss_normalizer = box_loss_normalizer
        self.unsup_cls_normalizer = unsup_cls_normalizer

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["ler"] = cfg.SSOD.LER.ENABLED
        arguments["prc"] = cfg.SSOD.PRC.ENABLED
        arguments["box_loss_normalizer"] = cfg.SSOD.BOX_LOSS_NORMALIZER
        arguments["unsup_cls_normalizer"] = cfg.SSOD.UNSUP_CLS_NORMALIZER
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        parts["box_pooler"] = keep_coordinates_exact(parts["box_pooler"])
        parts["box_predictor"] = GaussianFastRCNNOutputLayers(cfg, parts["box_head"].output_shape)
        return parts

    def forward(
        self,
        images: ImageList,
        features: Features,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As Detectron2's ``ROIHeads.forward``."""
        if not self.training:
            return super().forward(images, features, proposals, targets)
        assert targets is not None, "targets are required in training"
        losses = self.student_losses(features, proposals, targets, [], None)
        return proposals, losses.supervised

    def predict(self, features: Features, boxes: list[Boxes]) -> BoxPredictions:
        """Pool, head and predictor over R boxes, given per image."""
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        predictions: BoxPredictions = self.box_predictor(self.box_head(pooled))
        return predictions

    def detect(
        self, features: Features, proposals: list[Instances], score_thresh: float
    ) -> list[Instances]:
        """Detections after NMS with a score above ``score_thresh``, in the images' own frame.

        For pseudo-labels: nothing in ``cfg.TEST`` refines them.
        """
        predictions = self.predict(features, [p.proposal_boxes for p in proposals])
        return self.box_predictor.detect(predictions, proposals, score_thresh)[0]

    def score_boxes(self, features: Features, boxes: list[Boxes]) -> ProposalScores:
        """Class probabilities and s_loc of given boxes, without NMS: a teacher's opinion."""
        return self.box_predictor.score(self.predict(features, boxes))

    def _forward_box(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        predictions = self.predict(features, [p.proposal_boxes for p in proposals])
        detections, _ = self.box_predictor.inference(predictions, proposals)
        return detections

    def student_losses(
        self,
        features: Features,
        proposals: list[Instances],
        labeled_targets: list[Instances],
        pseudo_labels: list[Instances],
        scorer: ProposalScorer | None,
    ) -> StudentLosses:
        """Losses of labeled images followed by pseudo-labeled views.

        Args:
            features: feature maps of all N images, the labeled ones first.
            proposals: N, from the RPN.
            labeled_targets: ground truth with ``gt_boxes`` and ``gt_classes``.
            pseudo_labels: with ``gt_scores`` and ``gt_localization_quality`` besides.
            scorer: the teacher's opinion of sampled proposals, needed where PRC is on.
        """
        sampled = self.label_and_sample_proposals(proposals, labeled_targets + pseudo_labels)
        predictions = self.predict(features, [p.proposal_boxes for p in sampled])
        classes = cat([p.gt_classes for p in sampled])
        num_labeled = len(labeled_targets)
        split = sum(len(p) for p in sampled[:num_labeled])
        counts = count_regions(classes[:split], classes[split:], num_classes=self.num_classes)
        losses = self._supervised(
            predictions.rows(slice(0, split)), sampled[:num_labeled], classes[:split], counts[0]
        )
        if pseudo_labels:
            losses.merge(
                self._unsupervised(
                    predictions.rows(slice(split, None)),
                    sampled[num_labeled:],
                    classes[split:],
                    counts[1],
                    scorer,
                )
            )
        return losses

    def _supervised(
        self,
        predictions: BoxPredictions,
        sampled: list[Instances],
        classes: Tensor,
        counts: RegionCounts,
    ) -> StudentLosses:
        """Cross-entropy of Faster R-CNN, and eq. 10 or smooth L1 on foreground regions."""
        cls_loss = F.cross_entropy(predictions.logits.float(), classes, reduction="sum")
        is_foreground = classes < self.num_classes
        deltas, targets = self._offsets(predictions.deltas, sampled, classes, is_foreground)
        figures = {}
        if predictions.log_variance is None:
            beta = self.box_predictor.smooth_l1_beta
            box_loss = smooth_l1_loss(deltas.float(), targets.float(), beta=beta).sum()
        else:
            alpha = self._of_target_class(predictions.log_variance, classes)
            losses = kl_regression_loss(deltas, targets, alpha)
            box_loss = torch.where(is_foreground, losses, 0.0).sum()
            sigma = torch.exp(0.5 * alpha).mean(dim=1)
            figures["sigma"] = Mean.of(sigma, is_foreground)
        return StudentLosses(
            supervised={
                "loss_cls": cls_loss / counts.sampled,
                "loss_box_reg": self._box_weight * box_loss / self._box_divisor(counts),
            },
            figures=figures,
        )

    def _unsupervised(
        self,
        predictions: BoxPredictions,
        sampled: list[Instances],
        classes: Tensor,
        counts: RegionCounts,
        scorer: ProposalScorer | None,
    ) -> StudentLosses:
        """PRC classification loss (eq. 14) and LER box loss (eq. 11)."""
        is_foreground = classes < self.num_classes
        figures = {"foreground_regions": Mean.of(is_foreground)}
        weights = None
        if self.prc:
            assert scorer is not None, "PRC needs the teacher's scores of the sampled proposals"
            weights = proposal_reliability(
                scorer([p.proposal_boxes for p in sampled]), is_foreground
            )
            figures["prc_weight_fg"] = Mean.of(weights, is_foreground)
            figures["prc_weight_bg"] = Mean.of(weights, ~is_foreground)
        together = self.unsup_cls_normalizer == "sampled"
        cls_loss = prc_classification_loss(
            predictions.logits,
            classes,
            weights,
            counts.sampled if together else counts.foreground,
            counts.sampled if together else counts.background,
        )
        deltas, targets = self._offsets(predictions.deltas, sampled, classes, is_foreground)
        quality = None
        if self.ler:
            quality = _matched_quality(sampled, deltas.device)
            figures["ler_weight"] = Mean.of(quality, is_foreground)
        box_loss = ler_box_loss(
            deltas,
            targets,
            quality,
            self._box_divisor(counts),
            self.box_predictor.smooth_l1_beta,
        )
        return StudentLosses(
            unsupervised={
                "loss_cls_unsup": cls_loss,
                "loss_box_reg_unsup": self._box_weight * box_loss,
            },
            figures=figures,
        )

    @property
    def _box_weight(self) -> float:
        return float(self.box_predictor.loss_weight.get("loss_box_reg", 1.0))

    def _box_divisor(self, counts: RegionCounts) -> Tensor:
        # Dividing by all sampled regions gives each foreground region the same pull, however many
        # there are (see FastRCNNOutputLayers.box_reg_loss); eq. 10 and 11 say N_fg.
        return counts.sampled if self.box_loss_normalizer == "sampled" else counts.foreground

    def _offsets(
        self, deltas: Tensor, sampled: list[Instances], classes: Tensor, is_foreground: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predicted and target offsets, (R, 4) each, of every sampled region.

        Both are 0 for background regions, so that their smooth L1 loss and its gradient are:
        picking the foreground out would make the host wait for a GPU.
        """
        proposals = cat([p.proposal_boxes.tensor for p in sampled])
        # An image without boxes has no gt_boxes field, and no foreground region either.
        matched = cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in sampled]
        )
        predicted = self._of_target_class(deltas, classes)
        targets = self.box_predictor.box2box_transform.get_deltas(proposals, matched)
        chosen = is_foreground[:, None]
        return torch.where(chosen, predicted, 0.0), torch.where(chosen, targets, 0.0)

    def _of_target_class(self, per_class: Tensor, classes: Tensor) -> Tensor:
        """(R, 4) of (R, C * 4): the coding of each region's class, of any class for background."""
        return self.box_predictor.of_class(per_class, classes.clamp(max=self.num_classes - 1))


def _matched_quality(sampled: list[Instances], device: torch.device) -> Tensor:
    """(R,) s_loc of the pseudo-label that each sampled region was matched to (0 where none is)."""
    return cat(
        [
            p.gt_localization_quality
            if p.has("gt_localization_quality")
            else torch.zeros(len(p), device=device)
            for p in sampled
        ]
    )
