"""Which images a model is unsure of, so that a person labels them next."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch.special import entr

from dre_ssod.evaluation.pseudo_labels import match_best_first

_OF_BOXES = ("quality", "entropy", "both")
VIEWS = "views"
"""Disagreement about the image and its mirror image."""
CRITERIA = (*_OF_BOXES, VIEWS)
DIGITS = 6


def image_uncertainty(found: Instances, best_quality: float = 0.5) -> dict[str, float]:
    """How unsure a model is of the boxes of one image, each measure a mean over boxes in [0, 1].

    ``entropy``: of the foreground score s in bits, -s log2 s - (1 - s) log2(1 - s): what is there?
    ``quality``: 1 - s_loc / s_max, weighted by score: where is it? Only with a variance branch.
    ``both``: the mean of the two. An image without boxes has 0 everywhere.

    Args:
        found: with ``scores`` (R,) and possibly ``localization_quality`` (R,).
        best_quality: s_max, the ``localization_quality`` of a box without variance.
    """
    scores = found.scores.double()
    names = _OF_BOXES if found.has("localization_quality") else ("entropy",)
    if len(scores) == 0:
        return dict.fromkeys(names, 0.0)
    bits = (entr(scores) + entr(1.0 - scores)) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    measures = {"entropy": float(bits.mean())}
    if "quality" in names:
        doubt = 1.0 - found.localization_quality.double() / best_quality
        measures["quality"] = float((doubt * scores).sum() / scores.sum())
        measures["both"] = (measures["entropy"] + measures["quality"]) / 2
    return {name: round(measures[name], DIGITS) for name in names}


def disagreement(first: Instances, second: Instances) -> float:
    """How far two looks at an image differ, in [0, 1]; 0 where neither finds anything.

    1 - 2 sum(IoU min(s, s')) / (sum(s) + sum(s')), the sum over pairs of a class that overlap with
    an IoU of 0.5 or more. What one look finds and the other misses counts with its score, so unlike
    measures of the boxes that were found this one sees missed objects.

    Args:
        first, second: with ``pred_boxes``, ``scores`` and ``pred_classes``, in one frame.
    """
    first, second = (look[look.scores.argsort(descending=True)] for look in (first, second))
    total = float(first.scores.sum() + second.scores.sum())
    if total == 0.0:
        return 0.0
    same = first.pred_classes[:, None] == second.pred_classes[None, :]
    overlaps = pairwise_iou(first.pred_boxes, second.pred_boxes) * same
    objects = match_best_first(overlaps)
    rows = (objects >= 0).nonzero().flatten()
    columns = objects[rows]
    shared = torch.minimum(first.scores[rows], second.scores[columns]) * overlaps[rows, columns]
    return round(max(1.0 - 2.0 * float(shared.sum()) / total, 0.0), DIGITS)


def mirrored(found: Instances) -> Instances:
    """Detections of a mirror image in the frame of the image."""
    boxes = found.pred_boxes.tensor
    width = found.image_size[1]
    back = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    fields = {"pred_boxes": Boxes(back), "scores": found.scores}
    return Instances(found.image_size, **fields, pred_classes=found.pred_classes)


@dataclass
class MostUncertain:
    """Keeps the images with the highest values out of any number, in memory for ``size``.

    Of equal values the image that came first stays.
    """

    size: int
    _heap: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    _count: int = 0

    def add(self, value: float, image: dict[str, Any]) -> None:
        """Offer an image; one with the value 0 has nothing to be unsure of and is not taken."""
        self._count += 1
        if value <= 0.0 or self.size == 0:
            return
        item = (value, -self._count, image)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, item)
        elif item > self._heap[0]:
            heapq.heapreplace(self._heap, item)

    def ranked(self) -> list[dict[str, Any]]:
        """The images, the most uncertain first."""
        return [image for _, _, image in sorted(self._heap, reverse=True, key=lambda i: i[:2])]
