"""Finds what is wrong in a dataset, and between the datasets of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dre_ssod.data.audit.files import FileCheck
from dre_ssod.data.audit.kinds import KINDS, OUTSIDE_TOLERANCE, Finding
from dre_ssod.data.audit.sets import AuditedSet


def find_in_set(
    dataset: AuditedSet, checks: Mapping[str, FileCheck], sizes: npt.NDArray[np.float64]
) -> list[Finding]:
    """Problems of one set by itself.

    Args:
        checks: by ``file_name`` of the records.
        sizes: (N, 2) width and height of each record's image, NaN if unknown.
    """
    found: dict[str, list[str]] = defaultdict(list)
    if dataset.error:
        found["unusable-set"].append(dataset.error)
    elif dataset.annotated and not (dataset.boxes.valid & ~dataset.boxes.crowd).any():
        found["no-boxes"].append(dataset.name)
    seen: set[object] = set()
    for record in dataset.records:
        if record["image_id"] in seen:
            found["duplicate-id"].append(f"id {record['image_id']!r}: {record['file_name']}")
        seen.add(record["image_id"])
    for name in dict.fromkeys(record["file_name"] for record in dataset.records):
        for kind, note in _file_problems(checks[name], dataset.annotated):
            found[kind].append(f"{name}{note}")
    if dataset.annotated:
        for kind, item in _size_problems(dataset, checks):
            found[kind].append(item)
        for kind, item in _box_problems(dataset, sizes):
            found[kind].append(item)
    return [Finding(kind, (dataset.label,), tuple(found[kind])) for kind in KINDS if kind in found]


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
    datasets: Sequence[AuditedSet], equal: Sequence[Sequence[str]]
) -> list[Finding]:
    """Equal images within a set and between sets.

    Args:
        equal: groups of different paths whose bytes are equal.
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


def _file_problems(check: FileCheck, annotated: bool) -> Iterator[tuple[str, str]]:
    """Kinds, each with what to say behind the file's name."""
    if check.status != "ok":
        note = "" if check.status in ("missing", "empty") else f": {check.reason}"
        yield f"{check.status}-file", note
        return
    if check.odd_end:
        yield "odd-end", ""
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


def _box_problems(dataset: AuditedSet, sizes: npt.NDArray[np.float64]) -> Iterator[tuple[str, str]]:
    table = dataset.boxes
    own = sizes[table.record]
    finite = table.finite
    low, high = table.corners[:, :2], table.corners[:, 2:]
    # Comparisons with NaN, an unknown size, are false: nothing can be said then.
    off = table.valid & ((high <= 0).any(axis=1) | (low >= own).any(axis=1))
    over = np.maximum(-low, high - own).max(axis=1, initial=-np.inf)
    known = (table.category >= 0) & (table.category < len(dataset.classes))

    def name(row: int) -> str:
        return _box_item(dataset, int(table.record[row]), table.corners[row].tolist())

    def each(mask: npt.NDArray[np.bool_], text: Callable[[int], str] = name) -> Iterator[str]:
        return (text(row) for row in np.flatnonzero(mask).tolist())

    for index, record in enumerate(dataset.records):
        for corners in record.get("dropped_boxes", ()):
            kind = "empty-box" if np.isfinite(corners).all() else "nan-box"
            yield kind, _box_item(dataset, index, corners)
    for item in each(~finite & ~table.crowd):
        yield "nan-box", item
    for item in each(finite & ~table.valid & ~table.crowd):
        yield "empty-box", item
    for item in each(off):
        yield "box-off-image", item
    outside = table.valid & ~off & (over > OUTSIDE_TOLERANCE)
    for item in each(outside, lambda row: f"{name(row)} by {over[row]:.1f} px"):
        yield "box-outside", item
    for item in each(~known, lambda row: f"{name(row)} class {table.category[row]}"):
        yield "unknown-class", item


def _box_item(dataset: AuditedSet, record: int, corners: Sequence[float]) -> str:
    numbers = ", ".join(f"{value:g}" for value in corners)
    return f"{dataset.records[record]['file_name']} [{numbers}]"


def _class_difference(first: AuditedSet, other: AuditedSet) -> str:
    parts = []
    for one, two in ((first, other), (other, first)):
        alone = [name for name in one.classes if name not in two.classes]
        if alone:
            parts.append(f"only {one.label} has {', '.join(alone)}")
    if not parts:
        parts = [f"{part.label} has the order {', '.join(part.classes)}" for part in (first, other)]
    return "; ".join(parts)
