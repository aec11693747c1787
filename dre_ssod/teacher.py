"""What the teacher gives: pseudo-labels on weak views and scores of the student's proposals.

This is the only place where the teacher's frame (weak view) meets the student's (strong view).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.geometry import map_boxes, relative_matrix
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.structures import ProposalScores, UnlabeledSample

# A pseudo-box with a side below this many pixels of the strong view has left it.
MIN_SIDE = 1.0


@dataclass(frozen=True)
class TeacherOpinion:
    """The teacher's view of a batch of unlabeled images.

    Attributes:
        pseudo_labels: per image, in weak-view coordinates: ``gt_boxes``, ``gt_classes``,
            ``gt_scores`` (R,) and, with a variance branch, ``gt_localization_quality`` (R,) and
            ``gt_sigma`` (R, 4) in pixels of the weak view.
    """

    samples: list[UnlabeledSample]
    pseudo_labels: list[Instances]
    _teacher: SemiSupervisedRCNN
    _features: dict[str, Tensor]

    def pseudo_labels_on_strong_views(self) -> list[Instances]:
        """The pseudo-labels mapped weak -> strong, clipped; boxes that leave the view dropped."""
        return [
            to_view(labels, relative_matrix(s.weak.matrix, s.strong.matrix), s.strong.size)
            for labels, s in zip(self.pseudo_labels, self.samples, strict=True)
        ]

    @torch.no_grad()
    def score_proposals(self, boxes: list[Boxes]) -> ProposalScores:
        """Score student proposals: map strong -> weak (section 3.4), clip, teacher's RoI head.

        Args:
            boxes: per image, in strong-view coordinates.
        """
        aligned = []
        for boxes_per_image, sample in zip(boxes, self.samples, strict=True):
            matrix = relative_matrix(sample.strong.matrix, sample.weak.matrix)
            weak_boxes = Boxes(map_boxes(boxes_per_image.tensor, matrix))
            weak_boxes.clip(sample.weak.size)
            aligned.append(weak_boxes)
        return self._teacher.roi_heads.score_boxes(self._features, aligned)


@torch.no_grad()
def observe(
    teacher: SemiSupervisedRCNN, samples: list[UnlabeledSample], score_threshold: float
) -> TeacherOpinion:
    """Run the teacher on the weak views and keep detections with score >= tau as pseudo-labels.

    Args:
        teacher: in eval mode.
        samples: N unlabeled images.
        score_threshold: tau in [0, 1].
    """
    images = teacher.preprocess_image([{"image": s.weak.image} for s in samples])
    features = teacher.backbone(images.tensor)
    proposals, _ = teacher.proposal_generator(images, features, None)
    # NMS lets a box suppress only boxes that score lower, so dropping those below tau first changes
    # nothing but the cost. Detectron2 keeps scores above the bound, the paper from tau on.
    just_below = torch.nextafter(torch.tensor(score_threshold), torch.tensor(-1.0)).item()
    detections = teacher.roi_heads.detect(features, proposals, just_below)
    return TeacherOpinion(samples, [as_targets(d) for d in detections], teacher, features)


def as_targets(detections: Instances) -> Instances:
    """Rename detections to training targets (``gt_*`` fields follow a box to its proposals)."""
    targets = Instances(detections.image_size)
    targets.gt_boxes = detections.pred_boxes
    targets.gt_classes = detections.pred_classes
    targets.gt_scores = detections.scores
    if detections.has("localization_quality"):
        targets.gt_localization_quality = detections.localization_quality
        targets.gt_sigma = detections.pred_boxes_sigma
    return targets


def to_view(labels: Instances, matrix: Tensor, size: tuple[int, int]) -> Instances:
    """Map labels by ``matrix`` into a view of ``size`` (height, width); boxes outside are dropped.

    ``gt_sigma`` belongs to the frame it was predicted in and is left behind.
    """
    boxes = Boxes(map_boxes(labels.gt_boxes.tensor, matrix))
    boxes.clip(size)
    mapped = Instances(size, gt_boxes=boxes)
    for name, value in labels.get_fields().items():
        if name not in ("gt_boxes", "gt_sigma"):
            mapped.set(name, value)
    return mapped[boxes.nonempty(MIN_SIDE)]
