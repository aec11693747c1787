"""What detections of one image have found, missed and invented.

K classes, D detections and G objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import Boxes, pairwise_iou

from dre_ssod.data.records import corners
from dre_ssod.evaluation.localization import MATCH_IOU
from dre_ssod.evaluation.pseudo_labels import match_best_first
from dre_ssod.inspection.found import Finding

KINDS = {
    "missed": ("missed", "no detection has found the object"),
    "confused": ("wrong class", "the box is right, the class is not"),
    "misplaced": ("badly placed", f"meets an object of its class, at an IoU below {MATCH_IOU}"),
    "double": ("double", "on an object of its class that one of a higher score has found"),
    "invented": ("nothing there", "meets no object"),
}
"""Kinds of mistakes: what each is called, and what it is."""
PLACED_FROM = 0.1
"""IoU with an object of its class from which on a wrong box is badly placed, as in TIDE."""


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        kind: of :data:`KINDS`.
        class_index: of the object; of the detection where there is none.
        detection: number of the detection, None for an object that was missed.
        object: number of the object that was missed or taken for another class, else None.
    """

    kind: str
    class_index: int
    detection: int | None = None
    object: int | None = None


@dataclass(frozen=True)
class Judged(Finding):
    """Detections of one image, of at least the lowest score, against its objects.

    Attributes:
        mistakes: the worst first: missed objects, then detections by falling score.
    """

    mistakes: Sequence[Mistake]


def judge(finding: Finding) -> Judged:
    """Tell apart what detections have not found, and what they have found besides.

    A detection that found nothing is, in this order: of the wrong class, if it meets an object that
    nothing found; double; of the wrong class, if it meets one that is found; badly placed; or of
    something that is not there. As in TIDE, only detections of one class are double.
    """
    detections = finding.detections
    classes = detections.pred_classes
    targets = [int(item["category_id"]) for item in finding.objects]
    truth = torch.tensor([corners(item) for item in finding.objects]).reshape(-1, 4)
    overlaps = pairwise_iou(detections.pred_boxes, Boxes(truth))
    order = detections.scores.argsort(descending=True, stable=True).tolist()
    left = [number for number in order if number not in finding.partner]
    free = [number for number, partner in enumerate(finding.partner) if partner < 0]
    confused = {
        number: free[place]
        for number, place in zip(
            left, match_best_first(overlaps[left][:, free]).tolist(), strict=True
        )
        if place >= 0
    }
    same = classes[:, None] == torch.tensor(targets, dtype=torch.int64)[None, :]
    meets = overlaps >= MATCH_IOU
    near = (overlaps >= PLACED_FROM) & same
    mistakes = [
        Mistake("missed", targets[number], object=number)
        for number in free
        if number not in confused.values()
    ]
    for number in left:
        # An object of its class that it meets was found with a higher score, else it had found it.
        is_double = bool((meets & same)[number].any())
        if number not in confused and not is_double and meets[number].any():
            confused[number] = int(overlaps[number].argmax())
        if number in confused:
            partner = confused[number]
            mistakes.append(Mistake("confused", targets[partner], number, partner))
        else:
            kind = "double" if is_double else "misplaced" if near[number].any() else "invented"
            mistakes.append(Mistake(kind, int(classes[number]), number))
    return Judged(finding.objects, finding.partner, detections, mistakes)


def confusion(judged: Sequence[Judged], num_classes: int) -> npt.NDArray[np.int64]:
    """(K + 1, K + 1) counts: rows are objects and, last, nothing; columns detections and, last,
    none. Every detection counts once, and every object that none is on."""
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in judged:
        classes = image.detections.pred_classes.tolist()
        for item, partner in zip(image.objects, image.partner, strict=True):
            if partner >= 0:
                counts[int(item["category_id"]), classes[partner]] += 1
        for mistake in image.mistakes:
            detected = num_classes if mistake.detection is None else classes[mistake.detection]
            true = mistake.class_index if mistake.object is not None else num_classes
            counts[true, detected] += 1
    return counts
