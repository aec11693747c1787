"""What the teacher gives: detections on weak views, and its opinion of any box.

This is the only place where the teacher's frame (weak view) meets the student's (strong view).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.geometry import align_boxes
from dre_ssod.modeling.rcnn import SemiSupervisedRCNN
from dre_ssod.modeling.refinement import PLAIN, Refinement
from dre_ssod.modeling.regions import Ask, RegionScores
from dre_ssod.structures import UnlabeledSample, View
from dre_ssod.transfers import HostCopy

# A pseudo-box with a side below this many pixels of the strong view has left it.
MIN_SIDE = 1.0


@dataclass(frozen=True)
class TeacherPass:
    """One forward pass of the teacher over the weak views of N images, open to questions.

    Attributes:
        detections: per image, in weak-view coordinates: ``gt_boxes``, ``gt_classes``, ``gt_scores``
            (R,) and, with a variance branch, ``gt_localization_quality`` (R,) and ``gt_sigma``
            (R, 4) in pixels of the weak view.
    """

    samples: Sequence[UnlabeledSample]
    detections: list[Instances]
    _teacher: SemiSupervisedRCNN
    _features: dict[str, Tensor]

    def carry(self, labels: Sequence[Instances], chosen: Tensor | None = None) -> CarriedLabels:
        """Labels of the weak views mapped to the strong ones; boxes that leave the view dropped.

        Args:
            chosen: see :class:`CarriedLabels`.
        """
        weak = [sample.weak for sample in self.samples]
        strong = [sample.strong for sample in self.samples]
        return CarriedLabels(labels, weak, strong, chosen)

    @torch.no_grad()
    def score(self, boxes: list[Boxes]) -> RegionScores:
        """Score student proposals: map strong -> weak (section 3.4), clip, teacher's RoI head.

        Args:
            boxes: per image, in strong-view coordinates.
        """
        aligned = align_boxes(
            [boxes_per_image.tensor for boxes_per_image in boxes],
            [sample.strong for sample in self.samples],
            [sample.weak for sample in self.samples],
        )
        return self.rescore([Boxes(b) for b in aligned])

    @torch.no_grad()
    def rescore(self, boxes: list[Boxes]) -> RegionScores:
        """Score boxes given per image in weak-view coordinates, such as jittered detections."""
        return self._teacher.roi_heads.score_boxes(self._features, boxes)

    @torch.no_grad()
    def detect_again(self, boxes: list[Boxes], score_threshold: float) -> list[Instances]:
        """Detections with a score of at least tau, as :attr:`detections`, out of given proposals.

        Args:
            boxes: per image, in weak-view coordinates.
        """
        proposals = [
            Instances(sample.weak.size, proposal_boxes=given)
            for sample, given in zip(self.samples, boxes, strict=True)
        ]
        found = self._teacher.roi_heads.detect(
            self._features, proposals, _just_below(score_threshold)
        )
        return [as_targets(d) for d in found]


@torch.no_grad()
def observe(
    teacher: SemiSupervisedRCNN,
    samples: Sequence[UnlabeledSample],
    score_threshold: float,
    refinement: Refinement = PLAIN,
) -> TeacherPass:
    """Run the teacher on the weak views and keep detections with a score of at least tau.

    Args:
        teacher: in eval mode.
        samples: N unlabeled images.
        score_threshold: tau in [0, 1].
        refinement: of the detections.
    """
    images = teacher.preprocess_image([{"image": s.weak.image} for s in samples])
    features = teacher.backbone(images.tensor)
    proposals, _ = teacher.proposal_generator(images, features, None)
    # NMS lets a box suppress only boxes that score lower, so dropping those below tau first changes
    # nothing but the cost.
    bound = _just_below(score_threshold)
    detections = teacher.roi_heads.detect(features, proposals, bound, refinement)
    return TeacherPass(samples, [as_targets(d) for d in detections], teacher, features)


def _just_below(threshold: float) -> float:
    """Detectron2 keeps scores above a bound, the paper from tau on."""
    return torch.nextafter(torch.tensor(threshold), torch.tensor(-1.0)).item()


def as_targets(detections: Instances) -> Instances:
    """Rename detections to training targets (``gt_*`` fields follow a box to its proposals)."""
    targets = Instances(detections.image_size)
    targets.gt_boxes = detections.pred_boxes
    targets.gt_classes = detections.pred_classes
    targets.gt_scores = detections.scores
    if detections.has("localization_quality"):
        targets.gt_localization_quality = detections.localization_quality
        targets.gt_sigma = detections.pred_boxes_sigma
    if detections.has("coded_sigma"):
        targets.gt_coded_sigma = detections.coded_sigma
    return targets


class CarriedLabels:
    """Labels of N images carried from one view of each to another; boxes that leave it go.

    Which boxes are left is on its way to the host from the start; whoever needs to know, waits.
    ``gt_sigma`` belongs to the frame it was predicted in and is left behind.
    """

    def __init__(
        self,
        labels: Sequence[Instances],
        sources: Sequence[View],
        targets: Sequence[View],
        chosen: Tensor | None = None,
    ) -> None:
        """
        Args:
            labels: N ``Instances`` of the same fields, with ``gt_boxes`` in the coordinates of
                ``sources``.
            sources, targets: N views.
            chosen: (R,) bool, which labels of all images are carried; None: all.
        """
        self._labels = labels
        self._chosen = chosen
        self._targets = targets
        boxes = align_boxes([found.gt_boxes.tensor for found in labels], sources, targets)
        self._boxes = torch.cat(boxes)
        is_inside = Boxes(self._boxes).nonempty(MIN_SIDE)
        self._is_inside = HostCopy(is_inside if chosen is None else is_inside & chosen)
        self._carried: list[Instances] | None = None

    @property
    def origin(self) -> Sequence[Instances]:
        """The labels as they were, in the coordinates of their own views; to look at them."""
        if self._chosen is None:
            return self._labels
        rows = self._chosen.split([len(found) for found in self._labels])
        return [found[row] for found, row in zip(self._labels, rows, strict=True)]

    def instances(self) -> list[Instances]:
        """N ``Instances`` in the coordinates of ``targets``, with what their boxes carried.

        The first call waits for a GPU to say which boxes there are; later ones give the same.
        """
        if self._carried is None:
            self._carried = self._select(self._is_inside.read())
        return self._carried

    def _select(self, is_inside: Tensor) -> list[Instances]:
        """The labels of the boxes that are inside, (R,) of all images, on the host."""
        counts = [int(part.sum()) for part in is_inside.split([len(f) for f in self._labels])]
        rows = is_inside.nonzero()[:, 0].to(self._boxes.device, non_blocking=True)
        fields = {"gt_boxes": list(map(Boxes, self._boxes[rows].split(counts)))}
        for name in self._labels[0].get_fields():
            if name not in ("gt_boxes", "gt_sigma"):
                values = torch.cat([found.get(name) for found in self._labels])
                fields[name] = list(values[rows].split(counts))
        images = zip(self._targets, *fields.values(), strict=True)
        return [
            Instances(view.size, **dict(zip(fields, values, strict=True)))
            for view, *values in images
        ]


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels of a batch: a set for each kind of loss, often one object thrice.

    Attributes:
        rpn, cls, box: for the RPN, the classification and the box loss of the box head.
        ask: the teacher's opinion of boxes in the strong views; None where none is to be had.
        counts: what the method counts of these images, for a step that learns from them.
    """

    rpn: CarriedLabels
    cls: CarriedLabels
    box: CarriedLabels
    ask: Ask | None
    counts: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def single(
        cls, labels: CarriedLabels, ask: Ask | None, counts: Mapping[str, Tensor] | None = None
    ) -> Labels:
        """One set for all losses."""
        return cls(labels, labels, labels, ask, counts or {})
