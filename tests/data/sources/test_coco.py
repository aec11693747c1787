"""COCO files: what their records become, and what is left out and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.errors import SourceError
from tests.data.written_sets import read_usable

Writer = Callable[..., Path]
BOXES = {2: [(7, (1, 2, 3, 4))], 1: [(3, (0, 0, 8, 6)), (7, (1.5, 1, 2, 2))], 5: []}
CLASSES = {7: "cat", 3: "dog"}


def source_of(path: Path) -> CocoSource:
    return CocoSource(f"coco://{path}", path, path.parent / "images")


def test_ids_become_contiguous_and_metadata_serves_the_evaluator(
    tmp_path: Path, write_coco: Writer
) -> None:
    source = source_of(write_coco(tmp_path / "a.json", BOXES, CLASSES))
    assert source.metadata() == {
        "thing_classes": ["dog", "cat"],
        "thing_dataset_id_to_contiguous_id": {3: 0, 7: 1},
        "image_root": str(tmp_path / "images"),
        "evaluator_type": "coco",
    }
    records = source.labeled(Remarks())
    assert [record["image_id"] for record in records] == [1, 2, 5]
    assert records[0]["file_name"] == str(tmp_path / "images" / "1.png")
    assert (records[0]["height"], records[0]["width"]) == (6, 8)
    first, second = records[0]["annotations"]
    assert (first["category_id"], first["bbox"]) == (0, [0, 0, 8, 6])
    assert (second["category_id"], second["bbox"]) == (1, [1.5, 1, 2, 2])
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    assert records[2]["annotations"] == []


def test_boxes_without_area_are_left_out(tmp_path: Path, write_coco: Writer) -> None:
    boxes = {
        1: [(1, (0, 0, 0, 4)), (1, (0, 0, 4, -1)), (1, (0, 0, 2, 2))],
        2: [(1, (float("nan"), 0, 1, 1)), (1, (0, 0, float("inf"), 1))],
    }
    source = source_of(write_coco(tmp_path / "a.json", boxes, {1: "cat"}))
    records, remarks = read_usable(source)
    assert [len(record["annotations"]) for record in records] == [1, 0]
    assert records[0]["dropped_boxes"] == [[0, 0, 0, 4], [0, 0, 4, -1]]
    assert {kind: len(items) for kind, items in remarks.items()} == {
        "placeholder-area": 1,
        "nan-box": 2,
        "empty-box": 2,
    }


RECTANGLE = [1, 1, 3, 1, 3, 3, 1, 3]
MASKS = {
    "two points": ([[1, 1, 3, 3]], False),
    "an empty polygon": ([[]], False),
    "a flat list": (RECTANGLE, False),
    "nothing": (None, None),
    "an empty list": ([], None),
    "a polygon": ([RECTANGLE], True),
    "two polygons, one of them bad": ([[1, 1, 3, 3], RECTANGLE], True),
    "run lengths": ({"size": [6, 8], "counts": [0, 48]}, True),
}


@pytest.mark.parametrize(("mask", "valid"), MASKS.values(), ids=MASKS)
def test_a_valid_box_counts_whatever_its_mask_is(
    tmp_path: Path, write_coco: Writer, mask: Any, valid: bool | None
) -> None:
    """Masks are not read; a sound one says whose area the file states."""
    path = write_coco(tmp_path / "a.json", {1: [(1, (1, 1, 2, 2)), (1, (0, 0, 4, 4))]}, {1: "cat"})
    content = json.loads(path.read_text())
    content["annotations"][0].update(segmentation=mask, area=3.0)
    path.write_text(json.dumps(content))
    records, remarks = read_usable(source_of(path))
    first, second = records[0]["annotations"]
    assert first["bbox"] == [1, 1, 2, 2]
    assert first.get("area") == (3.0 if valid else None)
    assert "area" not in second
    assert remarks == ({"bad-mask": ["annotation 1 in image 1"]} if valid is False else {})


@pytest.mark.parametrize(
    ("more", "box"),
    [
        # About its center, (4, 3): 4 x 2 becomes 2 x 4.
        ({"attributes": {"rotation": 90.0}}, [3, 1, 2, 4]),
        ({"attributes": {"rotation": 0.0, "occluded": False}}, [2, 2, 4, 2]),
        ({"attributes": {"rotation": "left"}}, [2, 2, 4, 2]),
        ({"attributes": {"rotation": float("inf")}}, [2, 2, 4, 2]),
        # The file has the box around a mask itself.
        ({"attributes": {"rotation": 90}, "segmentation": [RECTANGLE]}, [2, 2, 4, 2]),
        ({"attributes": {"rotation": 90}, "segmentation": []}, [3, 1, 2, 4]),
    ],
)
def test_a_box_that_cvat_turned_becomes_the_one_around_it(
    tmp_path: Path, write_coco: Writer, more: dict[str, Any], box: list[float]
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (2, 2, 4, 2))]}, {1: "cat"})
    content = json.loads(path.read_text())
    content["annotations"][0].update(more)
    path.write_text(json.dumps(content))
    [annotation] = source_of(path).labeled(Remarks())[0]["annotations"]
    assert annotation["bbox"] == pytest.approx(box)


@pytest.mark.parametrize(
    ("areas", "kept", "remark"),
    [
        ([3.0, 15.0], [3.0, 15.0], []),
        ([4.04, 16.1], [4.04, 16.1], []),
        ([0, 15.0], [None, 15.0], ["annotation 1 in image 1: 0"]),
        ([-4, 15.0], [None, 15.0], ["annotation 1 in image 1: -4"]),
        ([float("nan"), 15.0], [None, 15.0], ["annotation 1 in image 1: nan"]),
        # That of the image.
        ([48, 15.0], [None, 15.0], ["annotation 1 in image 1: 48"]),
        ([1.0, 1.0], [None, None], ["all are 1"]),
        ([None, 15.0], [None, 15.0], []),
    ],
)
def test_an_area_that_only_fills_the_place_of_one_is_not_used(
    tmp_path: Path,
    write_coco: Writer,
    areas: list[float | None],
    kept: list[float | None],
    remark: list[str],
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (1, 1, 2, 2)), (1, (0, 0, 4, 4))]}, {1: "cat"})
    content = json.loads(path.read_text())
    for item, area in zip(content["annotations"], areas, strict=True):
        item.update(segmentation=[RECTANGLE], area=area)
    path.write_text(json.dumps(content))
    records, remarks = read_usable(source_of(path))
    assert [item.get("area") for item in records[0]["annotations"]] == kept
    assert remarks == ({"placeholder-area": remark} if remark else {})


def test_ids_from_0_and_absent_entries_are_taken(tmp_path: Path, write_coco: Writer) -> None:
    path = write_coco(tmp_path / "a.json", {0: [(0, (0, 0, 2, 2))]}, {0: "cat"})
    content = json.loads(path.read_text())
    content["annotations"][0].update(id=0, iscrowd=None, area=None)
    path.write_text(json.dumps(content))
    records, remarks = read_usable(source_of(path))
    assert records[0]["annotations"][0]["iscrowd"] == 0
    assert remarks == {"zero-id": ["annotation 0 in image 0"]}


def test_annotations_of_images_that_are_not_listed_are_named(
    tmp_path: Path, write_coco: Writer
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (0, 0, 2, 2))], 2: []}, {1: "cat"})
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 7
    path.write_text(json.dumps(content))
    records, remarks = read_usable(source_of(path))
    assert [record["annotations"] for record in records] == [[], []]
    assert remarks == {"stray-annotation": ["annotation 1 in image 7"]}


def test_of_two_categories_of_one_name_the_unused_is_left_out(
    tmp_path: Path, write_coco: Writer
) -> None:
    """Roboflow's category 0 is the project, whose name may be that of its only class."""
    boxes = {1: [(1, (0, 0, 2, 2))]}
    path = write_coco(tmp_path / "a.json", boxes, {0: "cat", 1: "cat", 2: "dog"})
    source = source_of(path)
    assert source.metadata()["thing_classes"] == ["cat", "dog"]
    records, remarks = read_usable(source)
    assert records[0]["annotations"][0]["category_id"] == 0
    assert remarks == {"unused-category": ["category 0, 'cat'"]}
    # A part of the set without objects has the same classes.
    write_coco(path, {1: []}, {0: "cat", 1: "cat", 2: "dog"})
    assert source.metadata()["thing_dataset_id_to_contiguous_id"] == {1: 0, 2: 1}
    write_coco(path, {1: [(0, (0, 0, 2, 2)), *boxes[1]]}, {0: "cat", 1: "cat"})
    with pytest.raises(SourceError, match="two categories are called 'cat'; rename or merge them"):
        source.metadata()


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path, write_coco: Writer) -> None:
    path = write_coco(tmp_path / "a.json", BOXES, CLASSES)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert source_of(path).metadata()["thing_classes"] == ["dog", "cat"]


def test_unlabeled_images_need_neither_annotations_nor_categories_nor_sizes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": 4, "file_name": "b.jpg"},
                    {"id": 2, "file_name": "a.jpg", "height": 3, "width": 5},
                ],
                "annotations": "never looked at",
            }
        )
    )
    assert source_of(path).images(Remarks()) == [
        {"file_name": str(tmp_path / "images/a.jpg"), "image_id": 2, "height": 3, "width": 5},
        {"file_name": str(tmp_path / "images/b.jpg"), "image_id": 4},
    ]


SIDES = st.floats(0.01, 1e4, allow_nan=False)
ENTRIES = st.dictionaries(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.sampled_from(sorted(CLASSES)), st.tuples(*[SIDES] * 4)), max_size=3),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(boxes=ENTRIES)
def test_what_is_written_is_read_back(
    write_coco: Writer, boxes: dict[int, list[tuple[int, tuple[float, ...]]]]
) -> None:
    with TemporaryDirectory() as folder:
        source = source_of(write_coco(Path(folder) / "a.json", boxes, CLASSES))
        metadata, records = source.metadata(), source.labeled(Remarks())
    read = {
        record["image_id"]: [
            (metadata["thing_classes"][item["category_id"]], tuple(item["bbox"]))
            for item in record["annotations"]
        ]
        for record in records
    }
    assert read == {
        image_id: [(CLASSES[category], box) for category, box in entries]
        for image_id, entries in boxes.items()
    }
