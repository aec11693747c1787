"""A region proposal network that also trains against pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, ciou_loss, diou_loss
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from dre_ssod.modeling.proposals import select_proposals
from dre_ssod.structures import StudentLosses

_IOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}


@PROPOSAL_GENERATOR_REGISTRY.register()
class SemiSupervisedRPN(RPN):
    """Detectron2's RPN with a second set of losses, against the pseudo-labels of strong views.

    ``forward`` is Detectron2's; ``student_losses`` is the semi-supervised pass.
    """

    @configurable
    def __init__(self, *, sample_from: str = "canvas", **kwargs: Any) -> None:
        """
        Args:
            sample_from: "canvas" or "image", the anchors of a padded batch that losses draw from.
            kwargs: as for Detectron2's ``RPN``.
        """
        super().__init__(**kwargs)
        self.sample_from = sample_from

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        arguments["sample_from"] = cfg.MODEL.RPN.SAMPLE_FROM
        return arguments

    def student_losses(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        labeled_targets: list[Instances],
        pseudo_labels: list[Instances],
        unsup_terms: Collection[str] = (),
        unsup_weights: Tensor | None = None,
        unsup_field: str | None = None,
    ) -> tuple[list[Instances], StudentLosses]:
        """Proposals of all N images and the RPN's losses.

        Args:
            images, features: N images, the labeled ones first.
            labeled_targets, pseudo_labels: with ``gt_boxes``; together N.
            unsup_terms: which of "loss_rpn_cls" and "loss_rpn_loc" pseudo-labels train.
            unsup_weights: of each image with pseudo-labels in their losses; None: all are 1.
            unsup_field: of pseudo-labels, which weighs the objectness loss of each anchor by that
                of the label with the highest IoU, so that it is 0 without labels; None: not.
        """
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logits, deltas = self._predict(levels)
        num_labeled = len(labeled_targets)
        supervised = self._group_losses(
            anchors, logits, deltas, labeled_targets, slice(0, num_labeled)
        )
        unsupervised = {}
        if pseudo_labels and unsup_terms:
            group = slice(num_labeled, None)
            # Detectron2 counts the anchors of either group by the same names.
            with get_event_storage().name_scope("unsup"):
                terms = self._group_losses(
                    anchors, logits, deltas, pseudo_labels, group, unsup_weights, unsup_field
                )
            unsupervised = {
                f"{name}_unsup": value for name, value in terms.items() if name in unsup_terms
            }
        proposals = self.predict_proposals(anchors, logits, deltas, images.image_sizes)
        return proposals, StudentLosses(supervised=supervised, unsupervised=unsupervised)

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As Detectron2's, with fewer waits for a GPU."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            proposals: list[Instances] = super().predict_proposals(
                anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes
            )
            return proposals
        return select_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            nms_thresh=self.nms_thresh,
            pre_nms_topk=self.pre_nms_topk[self.training],
            post_nms_topk=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
            training=self.training,
        )

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As Detectron2's; of ``sample_from`` "image" anchors beside an image are no negatives.

        Returns:
            Per image, (A,) labels of its A anchors, 1, 0 or -1 for those that are not sampled, and
            (A, 4) the boxes of those with label 1.
        """
        draw = super().label_and_sample_anchors
        if self.sample_from == "canvas":
            drawn: tuple[list[Tensor], list[Tensor]] = draw(anchors, gt_instances)
            return drawn
        every = Boxes.cat(anchors)
        centers = every.get_centers()
        all_labels, all_boxes = [], []
        for found in gt_instances:
            height, width = found.image_size
            is_inside = (centers < centers.new_tensor([width, height])).all(dim=1)
            inside = is_inside.nonzero().squeeze(1)
            labels = torch.full_like(is_inside, -1, dtype=torch.int8)
            boxes = torch.zeros_like(every.tensor)
            [labels[inside]], [boxes[inside]] = draw([every[inside]], [found])
            all_labels.append(labels)
            all_boxes.append(boxes)
        return all_labels, all_boxes

    def _predict(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, objectness (N, H * W * A) and offsets (N, H * W * A, 4) in anchor order."""
        objectness, offsets = self.rpn_head(levels)
        return (
            [level.permute(0, 2, 3, 1).flatten(1) for level in objectness],
            [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in offsets],
        )

    def _group_losses(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        targets: list[Instances],
        group: slice,
        weights: Tensor | None = None,
        field: str | None = None,
    ) -> dict[str, Tensor]:
        """Detectron2's RPN losses of a range of images, whose loss is the mean of theirs."""
        labels, boxes = self.label_and_sample_anchors(anchors, targets)
        scores = [level[group] for level in logits]
        offsets = [level[group] for level in deltas]
        if weights is None and field is None:
            losses: dict[str, Tensor] = self.losses(anchors, scores, labels, offsets, boxes)
            return losses
        # Its losses are sums, in which nothing is weighed any more; image by image, each would wait
        # for a GPU as often as all together do here.
        assert None in (weights, field), (
            "images are weighed as a whole or by their labels, not both"
        )
        every, sampled = Boxes.cat(anchors), torch.stack(labels)
        of_images = torch.ones(len(targets), device=sampled.device) if weights is None else weights
        of_anchors = of_images[:, None]
        if field is not None:
            of_anchors = torch.stack([_of_nearest(every, found, field) for found in targets])
        image, anchor = (sampled == 1).nonzero(as_tuple=True)
        _count_anchors(sampled, len(image))
        box_losses = self._box_losses(
            torch.cat(offsets, dim=1)[image, anchor].float(),
            every.tensor[anchor],
            torch.stack(boxes)[image, anchor],
        )
        totals = {
            "loss_rpn_cls": _objectness(torch.cat(scores, dim=1), sampled, of_anchors),
            "loss_rpn_loc": (of_images[image] * box_losses).sum(),
        }
        divisor = self.batch_size_per_image * len(targets)
        return {
            name: float(self.loss_weight.get(name, 1.0)) * total / divisor
            for name, total in totals.items()
        }

    def _box_losses(self, offsets: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """(P,) losses of offsets (P, 4) against the boxes (P, 4) of their anchors (P, 4)."""
        if self.box_reg_loss_type == "smooth_l1":
            wanted = self.box2box_transform.get_deltas(anchors, boxes)
            losses: Tensor = smooth_l1_loss(offsets, wanted, beta=self.smooth_l1_beta).sum(dim=1)
            return losses
        loss = _IOU_LOSSES[self.box_reg_loss_type]
        return loss(self.box2box_transform.apply_deltas(offsets, anchors), boxes)


def _objectness(scores: Tensor, sampled: Tensor, weights: Tensor) -> Tensor:
    """The weighed sum of the losses of scores (N, A), of the anchors that are sampled, 1 or 0."""
    losses = F.binary_cross_entropy_with_logits(
        scores.float(), sampled.clamp(min=0).float(), reduction="none"
    )
    return torch.where(sampled >= 0, weights * losses, 0.0).sum()


def _count_anchors(sampled: Tensor, positive: int) -> None:
    """Write how many anchors of an image are sampled, as Detectron2 does."""
    negative = int((sampled == 0).sum())
    storage = get_event_storage()
    for name, count in (("pos", positive), ("neg", negative)):
        storage.put_scalar(f"rpn/num_{name}_anchors", count / len(sampled))


def _of_nearest(boxes: Boxes, labels: Instances, field: str) -> Tensor:
    """(A,) field of the label that each of A boxes has the highest IoU with; 0 without labels."""
    if not len(labels):
        return torch.zeros(len(boxes), device=boxes.device)
    nearest = pairwise_iou(labels.gt_boxes, boxes).argmax(dim=0)
    values: Tensor = labels.get(field)[nearest]
    return values.detach()
