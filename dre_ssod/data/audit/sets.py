"""A dataset as the audit sees it: its records, its boxes as arrays, and what they amount to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog

from dre_ssod.data.audit.files import FileCheck
from dre_ssod.data.records import BoxTable, make_table
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import ensure_registered, load_one_labeled, load_unlabeled
from dre_ssod.data.splits.pools import without_known
from dre_ssod.errors import SourceError

ROLES = ("labeled", "unlabeled", "test")
COCO_AREAS = (32.0**2, 96.0**2)
"""Square pixels of the original image: below the first a box is small, from the second on large."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class AuditedSet:
    """One dataset in one role.

    Attributes:
        label: short name in the report, such as "labeled 1".
        role: of ``ROLES``.
        name: registered name or URI.
        error: why the set cannot be used as its role demands; "" if it can.
        records: in Detectron2's format; without annotations for an unlabeled set, and if only the
            images of a labeled set could be read.
        classes: names in the order of their indices; empty where there are no annotations.
        boxes: of all the records.
        remarks: what was left out or is odd, by kind.
    """

    label: str
    role: str
    name: str
    error: str
    records: list[dict[str, Any]]
    classes: list[str]
    boxes: BoxTable
    remarks: Mapping[str, Sequence[str]]

    @property
    def annotated(self) -> bool:
        """Whether the annotations were read."""
        return self.role != "unlabeled" and not self.error

    def without(self, known: Sequence[dict[str, Any]]) -> AuditedSet:
        """An unlabeled set as it is trained on: without images that other sets have as well."""
        rest = list(without_known(self.records, known))
        left_out = len(self.records) - len(rest)
        more = {"known-image": [f"{left_out} of {len(self.records)} images"]} if left_out else {}
        return replace(self, records=rest, remarks={**self.remarks, **more})


@dataclass(frozen=True)
class SetSummary:
    """The figures of one set.

    Attributes:
        images, boxes, crowd_regions, dropped_boxes: counts. ``boxes`` are those that are trained
            on: neither crowd regions nor those that :mod:`dre_ssod.data.usable` leaves out.
        boxes_an_image: "mean", "min", "median", "max"; empty without annotations.
        images_without_boxes: count.
        class_histogram: boxes by class, in the order of the classes.
        box_areas: boxes that are "small", "medium", "large" in COCO's terms, by box area.
        side_quantiles: square root of the box area in pixels by quantile ("0.05" ...).
        relative_side_quantiles: the same, divided by the square root of the image's area.
        modes: images by Pillow's pixel format.
        image_sizes: "smallest" and "largest" file, by area, as (width, height) in pixels.
        rotated: images that their EXIF orientation turns or mirrors.
    """

    label: str
    role: str
    name: str
    images: int
    boxes: int
    crowd_regions: int
    dropped_boxes: int
    boxes_an_image: dict[str, float]
    images_without_boxes: int
    class_histogram: dict[str, int]
    box_areas: dict[str, int]
    side_quantiles: dict[str, float]
    relative_side_quantiles: dict[str, float]
    modes: dict[str, int]
    image_sizes: dict[str, tuple[int, int]]
    rotated: int


def load_set(role: str, number: int, name: str) -> AuditedSet:
    """Read a set; what a source refuses becomes the set's error.

    Args:
        role: of ``ROLES``; the annotations of an unlabeled set are not read, as in training.
        number: of the set in its role, from 1.
        name: registered name or URI.
    """
    records: list[dict[str, Any]] = []
    error, classes, table = "", [], make_table([])
    remarks = Remarks()
    try:
        if role == "unlabeled":
            records = list(load_unlabeled([name], remarks))
        else:
            records = load_one_labeled(name, remarks)
            classes = list(MetadataCatalog.get(ensure_registered(name)).get("thing_classes", []))
            table = make_table(records)
        if not all(map(_is_named, records)):
            raise SourceError(f"{name}: a record has no 'file_name' or no 'image_id'")
    except SourceError as refusal:
        error = str(refusal)
    except Exception as refusal:  # Sets that others register raise errors of any type.
        error = f"{name}: {type(refusal).__name__}: {refusal}"
    if error:
        records = _images_alone(name) if role != "unlabeled" else []
    label = f"{role} {number}"
    return AuditedSet(label, role, name, error, records, classes, table, remarks.items)


def summarize(
    dataset: AuditedSet, checks: Mapping[str, FileCheck], sizes: npt.NDArray[np.float64]
) -> SetSummary:
    """Count and measure one set.

    Args:
        checks: by ``file_name`` of the records.
        sizes: (N, 2) width and height of each record's image, NaN if unknown.
    """
    table = dataset.boxes
    used = ~table.crowd
    counts = np.bincount(table.record[used], minlength=len(dataset.records))
    classes = np.bincount(table.category[used], minlength=len(dataset.classes))
    corners = table.corners[used]
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    sides = np.sqrt(areas)
    shares = sides / np.sqrt(sizes[table.record[used]].prod(axis=1))
    files = [checks[record["file_name"]] for record in dataset.records]
    known = sorted(
        ((check.width, check.height) for check in files if check.width),
        key=lambda size: size[0] * size[1],
    )
    bins = np.searchsorted(COCO_AREAS, areas, side="right")
    return SetSummary(
        label=dataset.label,
        role=dataset.role,
        name=dataset.name,
        images=len(dataset.records),
        boxes=int(used.sum()),
        crowd_regions=int(table.crowd.sum()),
        dropped_boxes=sum(len(record.get("dropped_boxes", ())) for record in dataset.records),
        boxes_an_image=_spread(counts) if dataset.annotated else {},
        images_without_boxes=int((counts == 0).sum()) if dataset.annotated else 0,
        class_histogram={
            name: int(count) for name, count in zip(dataset.classes, classes, strict=False)
        },
        box_areas={
            kind: int((bins == index).sum())
            for index, kind in enumerate(("small", "medium", "large"))
        },
        side_quantiles=_quantiles(sides),
        relative_side_quantiles=_quantiles(shares),
        modes=dict(Counter(check.mode for check in files if check.mode).most_common()),
        image_sizes={"smallest": known[0], "largest": known[-1]} if known else {},
        rotated=sum(check.orientation != 1 for check in files),
    )


def _images_alone(name: str) -> list[dict[str, Any]]:
    """Records without annotations, or none: their files are worth checking all the same."""
    try:
        return [record for record in load_unlabeled([name], Remarks()) if _is_named(record)]
    except Exception:  # The set's error is known already.
        return []


def _is_named(record: dict[str, Any]) -> bool:
    return "file_name" in record and "image_id" in record


def _spread(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    if not len(counts):
        return {}
    return {
        "mean": float(counts.mean()),
        "min": float(counts.min()),
        "median": float(np.median(counts)),
        "max": float(counts.max()),
    }


def _quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """By quantile; values that are unknown or beyond all numbers are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES)
    return {str(share): float(value) for share, value in zip(QUANTILES, found, strict=True)}
