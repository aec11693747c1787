"""What a detector finds and misses, told apart by color, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from dre_ssod.data.records import corners, is_crowd
from dre_ssod.evaluation.localization import MATCH_IOU
from dre_ssod.evaluation.pseudo_labels import detections_in_crowd, match_best_first
from dre_ssod.inspection.canvas import Item, RGBImage, draw_items

FOUND, MISSED, WRONG = "#35e05a", "#ff3b30", "#ffd23f"
LEGEND = (
    "green: found   red, dashed: missed   yellow, thin: nothing there, another class, IoU below "
    f"{MATCH_IOU:g}, or found already"
)
WIDTH, WRONG_WIDTH = 1.8, 0.7


@dataclass(frozen=True)
class Finding:
    """Detections of one image against its objects.

    Attributes:
        objects: annotations in Detectron2's format; crowd regions are none.
        partner: of each object, the number of the detection that found it; -1 if none did.
        detections: on the CPU, without those that found nothing and lie in a crowd region of their
            class: COCO's evaluation ignores them.
    """

    objects: Sequence[dict[str, Any]]
    partner: Sequence[int]
    detections: Instances

    @property
    def found(self) -> int:
        """How many objects were found."""
        return sum(number >= 0 for number in self.partner)

    def above(self, score: float) -> Finding:
        """The same without the detections of lower scores."""
        return self.only(self.detections.scores >= score)

    def only(self, kept: Tensor) -> Finding:
        """The same with some of the detections, by (D,) bool."""
        number_of = torch.where(kept, kept.cumsum(0) - 1, -1).tolist()
        partner = [number_of[number] if number >= 0 else -1 for number in self.partner]
        return Finding(self.objects, partner, self.detections[kept])


def find(detections: Instances, annotations: Sequence[dict[str, Any]]) -> Finding:
    """Match detections to objects, each once: in order of their scores, the object of their class
    that they overlap most among those still free, from an IoU of 0.5 on.

    Args:
        detections: on the CPU, with ``pred_boxes``, ``pred_classes`` and ``scores``.
        annotations: in Detectron2's format, in the same frame.
    """
    objects = [item for item in annotations if not is_crowd(item)]
    partner = [-1] * len(objects)
    if objects:
        truth = Boxes(torch.tensor([corners(item) for item in objects]))
        classes = torch.tensor([int(item["category_id"]) for item in objects])
        overlaps = pairwise_iou(detections.pred_boxes, truth)
        overlaps[detections.pred_classes[:, None] != classes[None, :]] = 0.0
        order = detections.scores.argsort(descending=True, stable=True)
        matched = match_best_first(overlaps[order]).tolist()
        for number, best in zip(order.tolist(), matched, strict=True):
            if best >= 0:
                partner[best] = number
    kept = ~detections_in_crowd(detections, annotations)
    kept[[number for number in partner if number >= 0]] = True
    return Finding(objects, partner, detections).only(kept)


def best_score(findings: Sequence[Finding]) -> float:
    """The score from which on detections are best kept: F1 over all images is highest there.

    A detection's object does not depend on those of lower scores, so one matching serves for all.
    Infinite where nothing was found.
    """
    scores = torch.cat([finding.detections.scores for finding in findings])
    is_right = torch.cat([_is_partner(finding) for finding in findings])
    objects = sum(len(finding.objects) for finding in findings)
    order = scores.argsort(descending=True, stable=True)
    right = is_right[order].cumsum(0)
    f1 = 2 * right / (torch.arange(1, len(scores) + 1) + objects)
    if not right.any():
        return math.inf
    return float(scores[order][f1.argmax()])


def tally(findings: Sequence[Finding]) -> str:
    """What was found in all images, and how many detections are wrong."""
    found = sum(finding.found for finding in findings)
    objects = sum(len(finding.objects) for finding in findings)
    wrong = sum(len(finding.detections) for finding in findings) - found
    return f"{found} of {objects} objects found, {wrong} wrong detections"


def _is_partner(finding: Finding) -> Tensor:
    found = torch.zeros(len(finding.detections), dtype=torch.int64)
    found[[number for number in finding.partner if number >= 0]] = 1
    return found


def draw_finding(image_rgb: RGBImage, finding: Finding, class_names: Sequence[str]) -> RGBImage:
    """Draw found objects by their detection, missed ones by their own box, and what is wrong.

    Args:
        image_rgb: (H, W, 3) uint8, in the frame of the boxes.
        class_names: by class index.

    Returns:
        as :func:`dre_ssod.inspection.canvas.draw_items`.
    """
    boxes = finding.detections.pred_boxes.tensor.numpy()
    classes = finding.detections.pred_classes.tolist()
    items = [
        Item(boxes[number], WRONG, class_names[classes[number]], width=WRONG_WIDTH)
        for number in range(len(boxes))
        if number not in finding.partner
    ]
    for item, number in zip(finding.objects, finding.partner, strict=True):
        if number >= 0:
            items.append(Item(boxes[number], FOUND, width=WIDTH))
        else:
            name = class_names[int(item["category_id"])]
            items.append(Item(np.asarray(corners(item)), MISSED, name, dashed=True, width=WIDTH))
    return draw_items(image_rgb, items)
