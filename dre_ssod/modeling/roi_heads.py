"""RoI heads that sample and predict for labeled images and pseudo-labeled views in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.counts import RegionCounts, count_regions
from dre_ssod.modeling.pooling import drop_block, keep_coordinates_exact
from dre_ssod.modeling.refinement import PLAIN, Refinement, RefiningFastRCNNOutputLayers
from dre_ssod.modeling.regions import Ask, ImageClasses, Regions, RegionScores, labeled_losses
from dre_ssod.modeling.student_batch import Features, Losses
from dre_ssod.structures import StudentLosses


@ROI_HEADS_REGISTRY.register()
class GaussianROIHeads(StandardROIHeads):
    """Detectron2's box head with a Gaussian predictor, whose losses a method may choose.

    ``forward`` is Detectron2's: supervised losses in training, detections in evaluation.
    ``student_losses`` is the semi-supervised pass.
    """

    @configurable
    def __init__(self, *, box_loss_normalizer: str, drop_block: float = 0.0, **kwargs: Any) -> None:
        """
        Args:
            box_loss_normalizer: "sampled" or "foreground", what box losses are divided by.
            drop_block: share of pooled features that is dropped in training.
            kwargs: as for Detectron2's ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.box_loss_normalizer = box_loss_normalizer
        self.drop_block = drop_block

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["box_loss_normalizer"] = cfg.SSOD.BOX_LOSS_NORMALIZER
        arguments["drop_block"] = cfg.MODEL.ROI_BOX_HEAD.DROP_BLOCK
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        parts["box_pooler"] = keep_coordinates_exact(parts["box_pooler"])
        parts["box_predictor"] = RefiningFastRCNNOutputLayers(cfg, parts["box_head"].output_shape)
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
        return proposals, self.student_losses(features, proposals, targets).supervised

    def predict(self, features: Features, boxes: list[Boxes]) -> BoxPredictions:
        """Pool, head and predictor over R boxes, given per image."""
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        if self.training:
            pooled = drop_block(pooled, self.drop_block)
        predictions: BoxPredictions = self.box_predictor(self.box_head(pooled))
        return predictions

    def detect(
        self,
        features: Features,
        proposals: list[Instances],
        score_thresh: float,
        refinement: Refinement = PLAIN,
    ) -> list[Instances]:
        """Detections after NMS with a score above ``score_thresh``, in the images' own frame.

        For pseudo-labels: nothing in ``cfg.TEST`` refines them.
        """
        predictions = self.predict(features, [p.proposal_boxes for p in proposals])
        found, _ = self.box_predictor.refined(predictions, proposals, score_thresh, refinement)
        return found

    def score_boxes(self, features: Features, boxes: list[Boxes]) -> RegionScores:
        """What the head says of given boxes, without NMS: a teacher's opinion."""
        rows = cat([boxes_per_image.tensor for boxes_per_image in boxes])
        return RegionScores(rows, self.box_predictor, self.predict(features, boxes))

    def _forward_box(self, features: Features, proposals: list[Instances]) -> list[Instances]:
        predictions = self.predict(features, [p.proposal_boxes for p in proposals])
        detections, _ = self.box_predictor.inference(predictions, proposals)
        return detections

    def student_losses(
        self,
        features: Features,
        proposals: list[Instances],
        labeled_targets: list[Instances],
        cls_labels: Sequence[Instances] = (),
        box_labels: Sequence[Instances] = (),
        ask: Ask | None = None,
        method: Losses | None = None,
        weights: Tensor | None = None,
        image_scores: Tensor | None = None,
    ) -> StudentLosses:
        """Losses of labeled images followed by pseudo-labeled views.

        Args:
            features: feature maps of all N images, the labeled ones first.
            proposals: N, from the RPN.
            labeled_targets: ground truth with ``gt_boxes`` and ``gt_classes``.
            cls_labels, box_labels: pseudo-labels of the other images, for the classification and
                the box loss; where they are one object, regions are sampled once for both.
            ask: the teacher's opinion of sampled regions, where the method wants it.
            method: None for :func:`labeled_losses`, without pseudo-labels.
            weights: of each of the other images in their losses; None: all are 1.
            image_scores: (N, K) of the classes in the images, where the detector has them.
        """
        labeled, cls, box = self.sample_regions(
            features, proposals, labeled_targets, cls_labels, box_labels, ask, weights=weights
        )
        if image_scores is not None:
            first = len(labeled_targets)
            shown = ImageClasses.of(image_scores[:first], labeled_targets)
            labeled = replace(labeled, image_classes=shown)
            if cls is not None:
                shown = ImageClasses.of(image_scores[first:], cls_labels)
                is_one = box is cls
                cls = replace(cls, image_classes=shown)
                box = cls if is_one else box
        return labeled_losses(labeled) if method is None else method.losses(labeled, cls, box)

    def sample_regions(
        self,
        features: Features,
        proposals: list[Instances],
        labeled_targets: list[Instances],
        cls_labels: Sequence[Instances],
        box_labels: Sequence[Instances],
        ask: Ask | None,
        everywhere: bool = True,
        weights: Tensor | None = None,
    ) -> tuple[Regions, Regions | None, Regions | None]:
        """Regions of the labeled images, and of the others by each of their label sets.

        Args:
            everywhere: whether they are counted over all processes, which then all must call this;
                see :meth:`student_losses` for the other arguments.

        Returns:
            the last two are None without pseudo-labels, and one object where the label sets are.
        """
        first = len(labeled_targets)
        sampled = [
            *self._sample(proposals[:first], labeled_targets),
            *self._sample(proposals[first:], cls_labels, "unsup"),
        ]
        predictions = self.predict(features, [p.proposal_boxes for p in sampled])
        classes = cat([p.gt_classes for p in sampled])
        rows = sum(len(p) for p in sampled[:first])
        groups = [
            (sampled[:first], predictions.rows(slice(0, rows)), classes[:rows]),
            (sampled[first:], predictions.rows(slice(rows, None)), classes[rows:]),
        ]
        if box_labels is not cls_labels:
            again = self._sample(proposals[first:], box_labels, "unsup_box")
            unlabeled = {name: maps[first:] for name, maps in features.items()}
            predictions = self.predict(unlabeled, [p.proposal_boxes for p in again])
            groups.append((again, predictions, cat([p.gt_classes for p in again])))
        counts = count_regions(
            *(labels for _, _, labels in groups),
            num_classes=self.num_classes,
            everywhere=everywhere,
        )
        regions = [
            Regions(self.box_predictor, *group, count, self._box_divisor(count), ask, of_images)
            for group, count, of_images in zip(
                groups, counts, (None, weights, weights), strict=False
            )
        ]
        if not cls_labels:
            return regions[0], None, None
        return regions[0], regions[1], regions[-1]

    def _sample(
        self, proposals: list[Instances], targets: Sequence[Instances], scope: str | None = None
    ) -> list[Instances]:
        """Sampled regions of a group of images; Detectron2 counts each group by the same names."""
        if not targets:
            return []
        with get_event_storage().name_scope(scope) if scope else nullcontext():
            sampled: list[Instances] = self.label_and_sample_proposals(proposals, list(targets))
        return sampled

    def _box_divisor(self, counts: RegionCounts) -> Tensor:
        # Dividing by all sampled regions gives each foreground region the same pull, however many
        # there are (see FastRCNNOutputLayers.box_reg_loss); DRE's eq. 10 and 11 say N_fg.
        return counts.sampled if self.box_loss_normalizer == "sampled" else counts.foreground
