from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.sources.coco import CocoSource
from dre_ssod.errors import SourceError

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
        "json_file": str(tmp_path / "a.json"),
        "image_root": str(tmp_path / "images"),
        "evaluator_type": "coco",
    }
    records = source.labeled()
    assert [record["image_id"] for record in records] == [1, 2, 5]
    assert records[0]["file_name"] == str(tmp_path / "images" / "1.png")
    assert (records[0]["height"], records[0]["width"]) == (6, 8)
    first, second = records[0]["annotations"]
    assert (first["category_id"], first["bbox"]) == (0, [0, 0, 8, 6])
    assert (second["category_id"], second["bbox"]) == (1, [1.5, 1, 2, 2])
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    assert records[2]["annotations"] == []


def test_boxes_without_area_are_dropped_with_one_counted_warning(
    tmp_path: Path, write_coco: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = {
        1: [(1, (0, 0, 0, 4)), (1, (0, 0, 4, -1)), (1, (0, 0, 1, 1))],
        2: [(1, (float("nan"), 0, 1, 1)), (1, (0, 0, float("inf"), 1))],
    }
    source = source_of(write_coco(tmp_path / "a.json", boxes, {1: "cat"}))
    with caplog.at_level(logging.WARNING):
        records = source.labeled()
    assert [len(record["annotations"]) for record in records] == [1, 0]
    messages = [r.getMessage() for r in caplog.records if r.name == "dre_ssod.data.sources.coco"]
    assert len(messages) == 1
    assert "dropped 4 boxes" in messages[0]
    assert "in image 1" in messages[0]


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
    assert source_of(path).images() == [
        {"file_name": str(tmp_path / "images/a.jpg"), "image_id": 2, "height": 3, "width": 5},
        {"file_name": str(tmp_path / "images/b.jpg"), "image_id": 4},
    ]


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_a_file_that_pycocotools_cannot_evaluate_is_left_to_conversion(
    tmp_path: Path, write_coco: Writer, key: str
) -> None:
    path = write_coco(tmp_path / "a.json", BOXES, CLASSES)
    content = json.loads(path.read_text())
    del content["annotations"][-1][key]
    path.write_text(json.dumps(content))
    metadata = source_of(path).metadata()
    assert "json_file" not in metadata
    assert metadata["thing_classes"] == ["dog", "cat"]


def image(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "1.png", "height": 6, "width": 8, **changed}


def annotation(**changed: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], **changed}


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"images": None}, "'images' must be a list; it is NoneType"),
        ({"images": []}, "'images' is empty"),
        ({"images": [3]}, r"images\[0\] must be an object, is 3"),
        ({"images": [image(id="1")]}, r"images\[0\] needs an integer 'id', has '1'"),
        ({"images": [image(), image()]}, "images: the id 1 is used twice"),
        ({"images": [image(file_name="")]}, "image 1 needs a 'file_name'"),
        ({"images": [image(height=None)]}, "image 1 needs a positive integer 'height', has None"),
        ({"images": [image(width=0)]}, "image 1 needs a positive integer 'width', has 0"),
        ({"categories": [{"id": 1}]}, "category 1 needs a 'name', has None"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
            "two categories are called 'a'",
        ),
        ({"annotations": [annotation(id=None)]}, r"annotations\[0\] needs an integer 'id'"),
        ({"annotations": [annotation(category_id=9)]}, r"category_id 9; 'categories' names \[1\]"),
        ({"annotations": [annotation(image_id="x")]}, "needs an integer 'image_id', has 'x'"),
        ({"annotations": [annotation(bbox=[1, 2, 3])]}, r"needs 'bbox' as \[x, y, width, height\]"),
        ({"annotations": [annotation(bbox=[1, 2, 3, "4"])]}, "annotation 1 needs 'bbox'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(
    tmp_path: Path, write_coco: Writer, replaced: dict[str, Any], message: str
) -> None:
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced=replaced)
    with pytest.raises(SourceError, match=message) as caught:
        source_of(path).metadata()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"images": [', "not valid JSON"),
        (b"[]", "holds a list; a COCO file is an object"),
        (b"\xff\xfe{}", "cannot be read"),
    ],
)
def test_files_that_are_no_json_objects(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        source_of(path).metadata()
    assert str(path) in str(caught.value)


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
        metadata, records = source.metadata(), source.labeled()
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
