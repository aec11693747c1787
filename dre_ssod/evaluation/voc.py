"""PASCAL VOC's average precision, as Detectron2 computes it, on any set in VOC's layout.

Detectron2's own evaluator reads the XML files again, and stops at files that lack a tag it does not
need, at names with spaces and at coordinates that are not whole. This one works on records that are
in memory already, and gives the same figures to the last digit (tests/evaluation/test_voc).

Shapes: D detections of a class over all images, G objects of a class in an image.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_ap
from detectron2.utils import comm

FloatArray = npt.NDArray[np.float64]

THRESHOLDS = tuple(percent / 100.0 for percent in range(50, 100, 5))
"""Overlaps from which on a detection counts as right. AP is the mean over all of them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detections:
    """Detections of one class.

    Attributes:
        images: (D,) indices of images.
        scores: (D,).
        boxes: (D, 4), (x1, y1, x2, y2), 1-based, of the pixels at the corners.
    """

    images: npt.NDArray[np.int64]
    scores: FloatArray
    boxes: FloatArray


@dataclass(frozen=True)
class Objects:
    """Objects of one class in one image.

    Attributes:
        boxes: (G, 4) as in :class:`Detections`.
        difficult: (G,) bool.
    """

    boxes: FloatArray
    difficult: npt.NDArray[np.bool_]


class VOCEvaluator(DatasetEvaluator):
    """AP, AP50 and AP75 by PASCAL VOC's matching; difficult objects are ignored."""

    def __init__(
        self,
        key: str,
        records: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        eleven_points: bool,
    ) -> None:
        """
        Args:
            key: the results' name.
            records: of the test set, with ``difficult`` in every annotation, boxes (x1, y1, x2, y2)
                in continuous pixels.
            class_names: in the order of their indices.
            eleven_points: the mean of the precision at recalls 0, 0.1 ... 1 (VOC 2007) instead of
                the area under the curve (VOC 2010 and later).
        """
        self._key = key
        self._class_names = list(class_names)
        self._eleven_points = eleven_points
        self._image_indices = {record["image_id"]: i for i, record in enumerate(records)}
        self._objects = _by_class(records)
        self.reset()

    def reset(self) -> None:
        self._found: dict[int, list[list[float]]] = defaultdict(list)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Note the detections, rounded as in the result files of the VOC development kit."""
        for image, output in zip(inputs, outputs, strict=True):
            index = self._image_indices[image["image_id"]]
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.numpy() + np.array([1, 1, 0, 0], dtype=np.float32)
            for label, score, box in zip(
                instances.pred_classes.tolist(), instances.scores.tolist(), boxes, strict=True
            ):
                row = [index, float(f"{score:.3f}"), *(float(f"{edge:.1f}") for edge in box)]
                self._found[label].append(row)

    def evaluate(self) -> dict[str, Any] | None:
        """Percentages under the key: AP, AP50, AP75 and ``AP50-<class>``; None beside rank 0.

        A class without an object that is not difficult has no AP (NaN) and is left out of the
        means.
        """
        gathered = comm.gather(dict(self._found), dst=0)
        if not comm.is_main_process():
            return None
        table = np.array([self._class_ap(label, gathered) for label in range(self._num_classes)])
        present = ~np.isnan(table[:, 0])
        if not present.all():
            missing = [self._class_names[label] for label in np.flatnonzero(~present)]
            logger.info("%s: no object to find of %s: left out", self._key, ", ".join(missing))
        means = table[present].mean(axis=0) if present.any() else np.full(len(THRESHOLDS), np.nan)
        results = {
            "AP": float(means.mean()),
            "AP50": float(means[THRESHOLDS.index(0.5)]),
            "AP75": float(means[THRESHOLDS.index(0.75)]),
        }
        for name, values in zip(self._class_names, table, strict=True):
            results[f"AP50-{name}"] = float(values[THRESHOLDS.index(0.5)])
        return {self._key: results}

    @property
    def _num_classes(self) -> int:
        return len(self._class_names)

    def _class_ap(self, label: int, gathered: Sequence[dict[int, list[list[float]]]]) -> FloatArray:
        """AP of a class in percent at each threshold."""
        rows = [row for found in gathered for row in found.get(label, [])]
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        detections = Detections(table[:, 0].astype(np.int64), table[:, 1], table[:, 2:])
        aps = average_precision(detections, self._objects.get(label, {}), self._eleven_points)
        return 100.0 * aps


def average_precision(
    detections: Detections, objects: dict[int, Objects], eleven_points: bool
) -> FloatArray:
    """AP of one class at each of :data:`THRESHOLDS`, in [0, 1].

    Detections are taken by falling score. Each belongs to the object of its image that it overlaps
    most. Above the threshold it is right if it is the first of that object, wrong if it is a
    further one, and neither if the object is difficult.

    Args:
        objects: by the index of their image.

    Returns:
        (10,), NaN where there is no object that is not difficult.
    """
    expected = sum(int((~found.difficult).sum()) for found in objects.values())
    if expected == 0:
        return np.full(len(THRESHOLDS), np.nan)
    order = np.argsort(-detections.scores)
    overlap, owner, difficult = _match(detections, objects, order)
    aps = []
    for threshold in THRESHOLDS:
        found = overlap > threshold
        wanted = np.flatnonzero(found & ~difficult)
        first = wanted[np.unique(owner[wanted], return_index=True)[1]]
        right = np.zeros(len(order))
        right[first] = 1.0
        wrong = np.where(found & difficult, 0.0, 1.0 - right)
        hits, misses = np.cumsum(right), np.cumsum(wrong)
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
        aps.append(voc_ap(hits / expected, precision, eleven_points))
    return np.array(aps, dtype=np.float64)


def _match(
    detections: Detections, objects: dict[int, Objects], order: npt.NDArray[np.int64]
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For the detections in this order: largest overlap, number of that object, its difficulty."""
    starts, count = {}, 0
    for image, found in objects.items():
        starts[image] = count
        count += len(found.boxes)
    overlap = np.full(len(order), -np.inf)
    owner = np.zeros(len(order), dtype=np.int64)
    difficult = np.zeros(len(order), dtype=np.bool_)
    for place, index in enumerate(order):
        image = int(detections.images[index])
        if image in objects:
            overlaps = _overlaps(detections.boxes[index], objects[image].boxes)
            best = int(np.argmax(overlaps))
            overlap[place] = overlaps[best]
            owner[place] = starts[image] + best
            difficult[place] = objects[image].difficult[best]
    return overlap, owner, difficult


def _overlaps(box: FloatArray, others: FloatArray) -> FloatArray:
    """IoU of a box (4,) with others (G, 4); both corners are pixels inside, hence + 1."""
    sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2]) + 1.0
    shared = np.maximum(sides[:, 0], 0.0) * np.maximum(sides[:, 1], 0.0)
    areas = (others[:, 2] - others[:, 0] + 1.0) * (others[:, 3] - others[:, 1] + 1.0)
    own = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
    return np.asarray(shared / (own + areas - shared))


def _by_class(records: Sequence[dict[str, Any]]) -> dict[int, dict[int, Objects]]:
    """Objects by class, then by the index of their image."""
    found: dict[int, dict[int, list[tuple[list[float], bool]]]] = defaultdict(dict)
    for index, record in enumerate(records):
        for item in record["annotations"]:
            x1, y1, x2, y2 = item["bbox"]
            row = ([x1 + 1.0, y1 + 1.0, x2, y2], bool(item["difficult"]))
            found[item["category_id"]].setdefault(index, []).append(row)
    return {
        label: {
            index: Objects(np.array([b for b, _ in rows]), np.array([d for _, d in rows]))
            for index, rows in images.items()
        }
        for label, images in found.items()
    }
