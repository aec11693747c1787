"""Finds what is wrong in a dataset, and between the datasets of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dre_ssod.data.audit.files import FileCheck
from dre_ssod.data.audit.sets import AuditedSet
from dre_ssod.data.images import ImageError, check_shape
from dre_ssod.data.kinds import KINDS, OUTSIDE_TOLERANCE
from dre_ssod.data.records import objects_of
from dre_ssod.data.sources.names import show_names
from dre_ssod.data.usable import describe_box, why_no_boxes

DETECTIONS = 100
"""Per image, as in COCO's protocol and by default in Detectron2."""
LONGEST = 1333
"""Pixels of the longest side after resizing, by default in Detectron2."""


@dataclass(frozen=True)
class Finding:
    """All problems of one kind in one set, or between the same sets.

    Attributes:
        kind: key of ``KINDS``.
        sets: labels of the sets.
        items: what is concerned, one text each.
    """

    kind: str
    sets: tuple[str, ...]
    items: tuple[str, ...]

    @property
    def severity(self) -> str:
        """One of ``kinds.SEVERITIES``."""
        return KINDS[self.kind].severity


def find_in_set(
    dataset: AuditedSet,
    checks: Mapping[str, FileCheck],
    sizes: npt.NDArray[np.float64],
    detections: int = DETECTIONS,
    longest: int = LONGEST,
) -> list[Finding]:
    """Problems of one set by itself.

    Args:
        checks: by ``file_name`` of the records.
        sizes: (N, 2) width and height of each record's image, NaN if unknown.
        detections: that a model may give per image (``TEST.DETECTIONS_PER_IMAGE``).
        longest: side after resizing, in pixels (``INPUT.MAX_SIZE_TRAIN`` or ``_TEST``).
    """
    found: dict[str, list[str]] = defaultdict(list)
    for kind, items in dataset.remarks.items():
        # Which images EXIF turns is asked of the files below, in all layouts.
        if kind != "exif-rotation":
            found[kind] += items
    if dataset.error:
        found["unusable-set"].append(dataset.error)
    elif dataset.annotated and not (~dataset.boxes.crowd).any():
        found["no-boxes"].append(f"{dataset.name}{why_no_boxes(dataset.records)}")
    seen: set[object] = set()
    for record in dataset.records:
        if record["image_id"] in seen:
            found["duplicate-id"].append(f"id {record['image_id']!r}: {record['file_name']}")
        seen.add(record["image_id"])
    for name in dict.fromkeys(record["file_name"] for record in dataset.records):
        for kind, note in _file_problems(name, checks[name], dataset.annotated, longest):
            found[kind].append(f"{name}{note}")
    if dataset.annotated:
        for kind, item in _size_problems(dataset, checks):
            found[kind].append(item)
        found["box-outside"] += _boxes_outside(dataset, sizes)
        if dataset.role == "test":
            found["crowded-image"] += _crowded_images(dataset, detections)
    return [Finding(kind, (dataset.label,), tuple(found[kind])) for kind in KINDS if found[kind]]


def find_class_problems(
    datasets: Sequence[AuditedSet], histograms: Mapping[str, Mapping[str, int]]
) -> list[Finding]:
    """Labeled and test sets with other classes than the first one, and classes without labels.

    Args:
        histograms: boxes by class, by label of the set.
    """
    annotated = [dataset for dataset in datasets if dataset.annotated]
    findings = []
    for other in annotated[1:]:
        first = annotated[0]
        if first.classes != other.classes:
            pair = (first.label, other.label)
            item = _class_difference(first, other)
            findings.append(Finding("class-mismatch", pair, (item,)))
    labeled = [dataset for dataset in annotated if dataset.role == "labeled"]
    names = dict.fromkeys(name for dataset in annotated for name in dataset.classes)
    items = []
    for name in names if labeled else ():
        if not any(histograms[dataset.label].get(name) for dataset in labeled):
            tested = sum(
                histograms[dataset.label].get(name, 0)
                for dataset in annotated
                if dataset.role == "test"
            )
            items.append(f"{name!r} ({tested} boxes in the test sets)")
    if items:
        sets = tuple(dataset.label for dataset in labeled)
        findings.append(Finding("untrained-class", sets, tuple(items)))
    return findings


def find_duplicates(
    datasets: Sequence[AuditedSet], equal: Sequence[Sequence[str]], overlap: bool = False
) -> list[Finding]:
    """Equal images within a set and between sets.

    Args:
        equal: groups of different paths whose bytes are equal.
        overlap: whether images are meant to be labeled and unlabeled at once.
    """
    content = {path: group[0] for group in equal for path in group}
    places: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for index, dataset in enumerate(datasets):
        for record in dataset.records:
            name = record["file_name"]
            places[content.get(name, name)].append((index, name))
    found: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for group in places.values():
        for sets, names in _by_sets(group):
            roles = {datasets[index].role for index in sets}
            if overlap and roles == {"labeled", "unlabeled"}:
                continue
            kind = "leakage" if len(roles) == 2 and "test" in roles else "duplicate-file"
            found[kind, sets].append(" = ".join(names))
    return [
        Finding(kind, tuple(datasets[index].label for index in sets), tuple(items))
        for (kind, sets), items in sorted(found.items(), key=lambda entry: entry[0][1])
    ]


def _by_sets(group: Sequence[tuple[int, str]]) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """Of equal images at (set, path): those within each set, and one of each for every two sets."""
    by_set: dict[int, list[str]] = defaultdict(list)
    for index, name in group:
        by_set[index].append(name)
    for index, names in by_set.items():
        if len(names) > 1:
            yield (index,), names
    indices = sorted(by_set)
    for position, first in enumerate(indices):
        for second in indices[position + 1 :]:
            yield (first, second), [by_set[first][0], by_set[second][0]]


def _file_problems(
    name: str, check: FileCheck, annotated: bool, longest: int
) -> Iterator[tuple[str, str]]:
    """Kinds, each with what to say behind the file's name."""
    if check.status != "ok":
        note = "" if check.status in ("missing", "empty") else f": {check.reason}"
        yield f"{check.status}-file", note
        return
    try:
        check_shape(name, (check.height, check.width), longest)
    except ImageError as error:
        yield "thin-image", str(error).removeprefix(name)
    if check.odd_end:
        yield "odd-end", ""
    if check.several:
        yield "several-pictures", ""
    if annotated and check.orientation != 1:
        yield "exif-rotation", f": orientation {check.orientation}"


def _size_problems(
    dataset: AuditedSet, checks: Mapping[str, FileCheck]
) -> Iterator[tuple[str, str]]:
    for record in dataset.records:
        check = checks[record["file_name"]]
        actual = (check.width, check.height)
        stated = (record.get("width", check.width), record.get("height", check.height))
        if check.status == "ok" and stated != actual:
            turned = check.orientation >= 5 and stated == actual[::-1]
            note = f", before EXIF orientation {check.orientation} turns it" if turned else ""
            yield (
                "size-mismatch",
                f"{record['file_name']}: annotation {stated[0]} x {stated[1]}{note}, "
                f"file {actual[0]} x {actual[1]}",
            )


def _boxes_outside(dataset: AuditedSet, sizes: npt.NDArray[np.float64]) -> Iterator[str]:
    table = dataset.boxes
    low, high = table.corners[:, :2], table.corners[:, 2:]
    # Comparisons with NaN, an unknown size, are false: nothing can be said then.
    over = np.maximum(-low, high - sizes[table.record]).max(axis=1, initial=-np.inf)
    for row in np.flatnonzero(over > OUTSIDE_TOLERANCE).tolist():
        yield f"{describe_box(dataset.records, table, row)} by {over[row]:.1f} px"


def _crowded_images(dataset: AuditedSet, detections: int) -> Iterator[str]:
    for record in dataset.records:
        count = len(objects_of(record))
        if count > detections:
            yield f"{record['file_name']}: {count} objects, {detections} detections"


def _class_difference(first: AuditedSet, other: AuditedSet) -> str:
    parts = []
    for one, two in ((first, other), (other, first)):
        alone = [name for name in one.classes if name not in two.classes]
        if alone:
            parts.append(f"only {one.label} has {show_names(alone)}")
    if not parts:
        parts = [
            f"{part.label} has the order {show_names(part.classes)}" for part in (first, other)
        ]
    return "; ".join(parts)
