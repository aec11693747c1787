"""Whether a detector knows how well its boxes are placed (figure 3).

Pure functions over arrays. D detections, G ground-truth boxes of one image; boxes are
(x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import Boxes, pairwise_iou
from scipy import stats

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

MATCH_IOU = 0.5
"""From this IoU on, a box and an object of its class can be one."""
SMALLEST_SAMPLE = 3
"""Two points always lie on a line."""


@dataclass(frozen=True)
class DetectionTable:
    """Detections of any number of images, one row each.

    Attributes:
        scores: (D,) foreground scores in [0, 1].
        qualities: (D,) s_loc of eq. 5.
        ious: (D,) true IoU, see :func:`match`.
        residuals: (D, 4) of x1, y1, x2, y2: predicted minus true edge, divided by its sigma; NaN
            where the image has no object of the class, or its border cuts both off.
    """

    scores: FloatArray
    qualities: FloatArray
    ious: FloatArray
    residuals: FloatArray

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in vars(self).items()}
        expected = {name: (len(self),) for name in shapes} | {"residuals": (len(self), 4)}
        if shapes != expected:
            raise ValueError(f"columns must have shape (D,), residuals (D, 4); they have {shapes}")

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, selection: npt.NDArray[np.bool_]) -> DetectionTable:
        """The rows where ``selection`` (D,) holds."""
        return DetectionTable(**{name: array[selection] for name, array in vars(self).items()})

    @classmethod
    def concatenate(cls, tables: list[DetectionTable]) -> DetectionTable:
        """All rows in order; no tables give no rows."""
        empty = np.zeros(0)
        tables = [cls(empty, empty, empty, np.zeros((0, 4))), *tables]
        names = [column.name for column in fields(cls)]
        return cls(*(np.concatenate([getattr(t, name) for t in tables]) for name in names))


@dataclass(frozen=True)
class Correlation:
    """Coefficients in [-1, 1]; None where they are undefined."""

    spearman: float | None
    pearson: float | None


@dataclass(frozen=True)
class SetReport:
    """How two criteria go with the true IoU over one set of detections.

    Attributes:
        n: number of detections.
        score: correlation of the foreground score with the IoU.
        localization_quality: correlation of s_loc with the IoU.
    """

    n: int
    score: Correlation
    localization_quality: Correlation


@dataclass(frozen=True)
class Spread:
    """How far (N,) weights lie apart; None without any.

    Attributes:
        low, high: the 5th and the 95th percentile.
    """

    n: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: FloatArray) -> Spread:
        """Of finite (N,) values."""
        if len(values) == 0:
            return cls(0, None, None, None, None)
        low, high = np.percentile(values, [5, 95])
        return cls(len(values), float(values.mean()), float(values.std()), float(low), float(high))


@dataclass(frozen=True)
class Quarter:
    """A quarter of the detections, as they are ordered by s_loc.

    Attributes:
        n: number of detections.
        quality: their mean s_loc.
        precision: share of them that overlap an object of their class from ``MATCH_IOU`` on.
        right_per_object: number of those over the number of objects. No recall: of several that
            overlap one object each counts (:func:`match`), so it can exceed 1.
        mean_iou: true IoU of all of them.
    """

    n: int
    quality: float
    precision: float
    right_per_object: float | None
    mean_iou: float


def match(
    boxes: FloatArray, classes: IntArray, gt_boxes: FloatArray, gt_classes: IntArray
) -> tuple[FloatArray, FloatArray]:
    """The ground-truth box of its class that each detection overlaps most.

    Several detections may share an object: this measures boxes and counts no duplicates.

    Args:
        boxes: (D, 4) of one image.
        classes: (D,)
        gt_boxes: (G, 4) of the same image, in the same frame.
        gt_classes: (G,)

    Returns:
        (D,) IoUs in [0, 1] and (D, 4) the boxes they are with; 0 and NaN where the image has no
        object of the class.
    """
    ious, matched = np.zeros(len(boxes)), np.full((len(boxes), 4), np.nan)
    if len(boxes) == 0 or len(gt_boxes) == 0:
        return ious, matched
    overlaps = pairwise_iou(
        Boxes(torch.as_tensor(np.asarray(boxes))), Boxes(torch.as_tensor(np.asarray(gt_boxes)))
    ).numpy()
    same_class = np.asarray(classes)[:, None] == np.asarray(gt_classes)[None, :]
    overlaps = np.where(same_class, overlaps, -1.0)
    best = overlaps.argmax(axis=1)
    found = same_class.any(axis=1)
    ious[found] = overlaps.max(axis=1)[found]
    matched[found] = np.asarray(gt_boxes)[best[found]]
    return ious, matched


def correlate(values: FloatArray, ious: FloatArray) -> Correlation:
    """Spearman's and Pearson's correlation of (D,) values with (D,) IoUs.

    Both are None, never NaN, with fewer than 3 points, where either side is constant, and where
    either holds a NaN or an infinity.

    Raises:
        ValueError: if the lengths differ.
    """
    if values.shape != ious.shape or values.ndim != 1:
        raise ValueError(f"expected two arrays (D,), got shapes {values.shape} and {ious.shape}")
    if len(values) < SMALLEST_SAMPLE or not (_varies(values) and _varies(ious)):
        return Correlation(None, None)
    return Correlation(
        spearman=float(stats.spearmanr(values, ious).statistic),
        pearson=float(stats.pearsonr(values, ious).statistic),
    )


def _varies(values: FloatArray) -> bool:
    """Finite, and different by more than the rounding of a double."""
    spread = np.ptp(values)
    return bool(np.isfinite(values).all() and spread > 1e-12 * np.abs(values).max())


def report(table: DetectionTable) -> SetReport:
    """Both correlations over a set of detections."""
    return SetReport(
        n=len(table),
        score=correlate(table.scores, table.ious),
        localization_quality=correlate(table.qualities, table.ious),
    )


def quarters(table: DetectionTable, objects: int) -> list[Quarter]:
    """Detections by quarter of s_loc, the lowest first; no quarter is empty, so fewer of a few.

    Args:
        objects: number of annotated objects, crowds left out.
    """
    parts = np.array_split(np.argsort(table.qualities, kind="stable"), 4)
    found = []
    for rows in parts:
        if len(rows):
            right = table.ious[rows] >= MATCH_IOU
            found.append(
                Quarter(
                    n=len(rows),
                    quality=float(table.qualities[rows].mean()),
                    precision=float(right.mean()),
                    right_per_object=float(right.sum()) / objects if objects else None,
                    mean_iou=float(table.ious[rows].mean()),
                )
            )
    return found


def analyze(table: DetectionTable, min_score: float) -> dict[str, SetReport]:
    """Reports on ``all`` confident detections and on those ``matched`` to an object.

    False positives lie at an IoU of 0 and have low scores, which flatters the score over ``all``;
    how well a found object is located shows in ``matched``, the subject of figure 3.

    Args:
        min_score: lowest foreground score of either set.
    """
    confident = table.rows(table.scores >= min_score)
    return {
        "all": report(confident),
        "matched": report(confident.rows(confident.ious >= MATCH_IOU)),
    }
