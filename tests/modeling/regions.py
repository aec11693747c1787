"""Regions around labels, for tests of the box head's losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.methods import MeanTeacher, build_method
from dre_ssod.modeling.box_predictor import BoxPredictions
from dre_ssod.modeling.roi_heads import GaussianROIHeads
from dre_ssod.structures import StudentLosses
from tests.factories import BOXES, SIZE, pseudo_labels, tiny_cfg, tiny_model


@dataclass
class BoxHead:
    """Box heads, and the method whose losses they give."""

    heads: GaussianROIHeads
    method: MeanTeacher


def make_heads(**overrides: Any) -> BoxHead:
    cfg = tiny_cfg(**overrides)
    return BoxHead(tiny_model(cfg, spread=0.5).roi_heads, build_method(cfg))


def make_features(images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"p{level}": torch.randn(images, 16, 64 >> level, 96 >> level, generator=generator)
        for level in (2, 3, 4, 5)
    }


def make_proposals(*boxes_per_image: Any, count: int = 30) -> list[Instances]:
    """Boxes near those given, a few pixels off, and as many anywhere."""
    generator = torch.Generator().manual_seed(2)
    proposals = []
    for boxes in boxes_per_image:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 30.0])
        rows = [torch.cat([corner, corner + 24.0], dim=1)]
        if len(boxes):
            near = torch.tensor(boxes).repeat(count // len(boxes), 1)
            rows.append(near + 3 * torch.randn(near.shape, generator=generator))
        tensor = torch.cat(rows)
        proposals.append(
            Instances(
                SIZE, proposal_boxes=Boxes(tensor), objectness_logits=torch.zeros(len(tensor))
            )
        )
    return proposals


def ground_truth(boxes: Any = BOXES) -> Instances:
    labels = pseudo_labels(boxes)
    return Instances(SIZE, gt_boxes=labels.gt_boxes, gt_classes=labels.gt_classes)


class Scores:
    """Given scores of R regions."""

    def __init__(self, foreground: Tensor, background: Tensor, quality: Tensor | None) -> None:
        self.foreground, self.background, self._quality = foreground, background, quality

    @property
    def probabilities(self) -> Tensor:
        """(R, 4), all foreground in class 1."""
        nothing = torch.zeros_like(self.foreground)
        return torch.stack([nothing, self.foreground, nothing, self.background], dim=1)

    def quality(self, classes: Tensor) -> Tensor | None:
        assert (classes == 1).all()
        return self._quality


class Scorer:
    """Reproducible scores; keeps the boxes that it was asked about."""

    def __init__(self, ones: bool = False) -> None:
        self.ones = ones
        self.boxes: list[Boxes] = []
        self.scores: Scores | None = None

    def __call__(self, boxes: list[Boxes]) -> Scores:
        self.boxes = boxes
        count = sum(map(len, boxes))
        if self.ones:
            parts = [torch.ones(count) for _ in range(3)]
        else:
            generator = torch.Generator().manual_seed(3)
            parts = [torch.rand(count, generator=generator) for _ in range(3)]
        self.scores = Scores(*(part.requires_grad_() for part in parts))
        return self.scores


def losses_of(
    head: BoxHead,
    labeled: list[Instances],
    unlabeled: list[Instances],
    scorer: Scorer | None = None,
) -> StudentLosses:
    """Losses of images whose proposals lie around the boxes of their labels."""
    targets = labeled + unlabeled
    proposals = make_proposals(*(t.gt_boxes.tensor.tolist() for t in targets))
    torch.manual_seed(0)
    return head.heads.student_losses(
        make_features(len(targets)), proposals, labeled, unlabeled, unlabeled, scorer, head.method
    )


def sampled_by(head: BoxHead, targets: list[Instances]) -> tuple[list[Instances], BoxPredictions]:
    """The regions that :func:`losses_of` trains on, and the head's predictions for them."""
    proposals = make_proposals(*(t.gt_boxes.tensor.tolist() for t in targets))
    torch.manual_seed(0)
    sampled = head.heads.label_and_sample_proposals(proposals, targets)
    boxes = [p.proposal_boxes for p in sampled]
    return sampled, head.heads.predict(make_features(len(targets)), boxes)
