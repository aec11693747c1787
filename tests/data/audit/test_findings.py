"""The array arithmetic and the grouping, against the same rules written out one by one."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.audit.files import FileCheck
from dre_ssod.data.audit.findings import find_duplicates, find_in_set
from dre_ssod.data.audit.sets import AuditedSet
from dre_ssod.data.records import BoxTable, make_table
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.usable import usable_records

WIDTH, HEIGHT = 20, 10
ROLES = st.sampled_from(["labeled", "unlabeled", "test"])
COORDINATES = st.integers(-4, 24) | st.sampled_from([math.nan, math.inf, -math.inf])
BOXES = st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), max_size=8)


def dataset(
    role: str,
    label: str,
    names: list[str],
    boxes: list[tuple[float, ...]],
    size: tuple[int, int] | None = None,
) -> AuditedSet:
    """Images called ``names``, all boxes in the first one, each of a class of its own."""
    records: list[dict[str, Any]] = [
        {"file_name": name, "image_id": n, "annotations": []} for n, name in enumerate(names)
    ]
    for index, box in enumerate(boxes):
        entry = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": index}
        records[0]["annotations"].append(entry)
    if size is not None:
        records[0].update(width=size[0], height=size[1])
    remarks = Remarks()
    records = usable_records(label, records, remarks)
    classes = [f"class{index}" for index in range(len(boxes))]
    table = make_table(records)
    return AuditedSet(label, role, label, "", records, classes, table, remarks.items)


def expected_kind(x1: float, y1: float, x2: float, y2: float) -> str | None:
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return "nan-box"
    if x2 <= x1 or y2 <= y1:
        return "empty-box"
    if x2 <= 0 or y2 <= 0 or x1 >= WIDTH or y1 >= HEIGHT:
        return "box-off-image"
    if x2 <= 1 and y2 <= 1 and x1 >= -1 and y1 >= -1:
        return "fraction-box"
    if x1 < -1 or y1 < -1 or x2 > WIDTH + 1 or y2 > HEIGHT + 1:
        return "box-outside"
    return None


@settings(max_examples=200, deadline=None)
@given(BOXES)
def test_every_box_gets_the_one_kind_that_fits(boxes: list[tuple[float, ...]]) -> None:
    sound = (1.0, 1.0, 3.0, 3.0)
    one = dataset("labeled", "labeled 1", ["a"], [*boxes, sound], (WIDTH, HEIGHT))
    check = FileCheck("ok", width=WIDTH, height=HEIGHT, bytes=1)
    findings = find_in_set(one, {"a": check}, np.array([[WIDTH, HEIGHT]], dtype=np.float64))
    expected = Counter(kind for kind in (expected_kind(*box) for box in boxes) if kind)
    assert {finding.kind: len(finding.items) for finding in findings} == expected


def test_nothing_is_said_about_the_edges_of_an_image_of_unknown_size() -> None:
    one = dataset("test", "test 1", ["a"], [(-5.0, 0.0, 900.0, 5.0)])
    missing = FileCheck("missing")
    findings = find_in_set(one, {"a": missing}, np.full((1, 2), np.nan))
    assert [finding.kind for finding in findings] == ["missing-file"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(ROLES, st.lists(st.sampled_from("abcdef"), max_size=6)), max_size=4),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_every_pair_of_equal_images_is_covered(
    sets: list[tuple[str, list[str]]], contents: list[int]
) -> None:
    content = dict(zip("abcdef", contents, strict=True))
    groups = [[name for name in content if content[name] == value] for value in range(3)]
    datasets = [
        dataset(role, f"set {number}", names, []) for number, (role, names) in enumerate(sets)
    ]
    findings = find_duplicates(datasets, [group for group in groups if len(group) > 1])
    expected: Counter[tuple[str, ...]] = Counter()
    for one, (_, names) in zip(datasets, sets, strict=True):
        counts = Counter(content[name] for name in names)
        expected["duplicate-file", one.label] = sum(count > 1 for count in counts.values())
    for (first, (role, names)), (second, (other, more)) in combinations(
        zip(datasets, sets, strict=True), 2
    ):
        kind = "leakage" if role != other and "test" in (role, other) else "duplicate-file"
        shared = {content[name] for name in names} & {content[name] for name in more}
        expected[kind, first.label, second.label] = len(shared)
    found = {(finding.kind, *finding.sets): len(finding.items) for finding in findings}
    assert found == +expected


def test_boxes_of_every_mode_come_to_corners() -> None:
    records = [
        {"annotations": [{"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]},
        {"annotations": []},
        {
            "annotations": [
                {
                    "bbox": [1, 2, 3, 4],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 0,
                    "iscrowd": 1,
                }
            ]
        },
    ]
    table: BoxTable = make_table(records)
    assert table.corners.tolist() == [[1, 2, 4, 6], [1, 2, 3, 4]]
    assert table.record.tolist() == [0, 2]
    assert table.category.tolist() == [1, 0]
    assert table.crowd.tolist() == [False, True]
