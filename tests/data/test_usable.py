"""The one rule on which objects count, by hand-made cases, and that all readers obey it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import BoxMode

from dre_ssod.data.mappers import instances_in_view
from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.usable import usable_records, why_no_boxes
from dre_ssod.errors import SourceError
from dre_ssod.structures import View

pytestmark = pytest.mark.usefixtures("heard_loggers")

Writer = Callable[..., Path]
WIDTH, HEIGHT = 20, 10


def record(
    *boxes: tuple[float, ...], mode: BoxMode = BoxMode.XYXY_ABS, **changes: Any
) -> dict[str, Any]:
    """An image of 20 x 10 pixels."""
    items = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0} for box in boxes]
    size = {"width": WIDTH, "height": HEIGHT}
    return {"file_name": "a.png", "image_id": 1, **size, "annotations": items, **changes}


def used(*records: dict[str, Any]) -> tuple[list[list[Any]], dict[str, list[str]]]:
    """The boxes that count, by image, and what is said of the others."""
    before = copy.deepcopy(records)
    remarks = Remarks()
    found = usable_records("the set", records, remarks)
    assert records == before
    return [[i["bbox"] for i in r["annotations"]] for r in found], dict(remarks.items)


INSIDE = [(0, 0, 20, 10), (-5, -5, 2, 2), (19, 9, 40, 40), (-5, -5, 40, 40), (3, 4, 5, 6)]
NAN, INF, FAR = float("nan"), float("inf"), 2**24
LEFT_OUT: dict[str, list[tuple[float, ...]]] = {
    "nan-box": [(NAN, 0, 5, 5), (0, 0, INF, 5), (-INF, 0, 5, 5), (0, 0, 1e39, 5), (0, 0, FAR, 5)],
    "empty-box": [(3, 3, 3, 5), (3, 3, 5, 3), (5, 3, 3, 5), (3, 5, 5, 3), (19, 3, 19 + 1e-9, 5)],
    "box-off-image": [
        (20, 0, 30, 10),
        (0, 10, 20, 12),
        (-9, 0, 0, 5),
        (0, -9, 5, 0),
        (50, 5, 60, 6),
    ],
    "fraction-box": [(0.2, 0.3, 0.7, 0.9), (0, 0, 1, 1), (-0.8, -0.7, 0.3, 0.2)],
    "duplicate-box": [INSIDE[4]],
}


def test_boxes_that_meet_their_image_count() -> None:
    assert used(record(*INSIDE)) == ([list(map(list, INSIDE))], {})


@pytest.mark.parametrize(
    ("kind", "box"), [(kind, box) for kind, boxes in LEFT_OUT.items() for box in boxes]
)
def test_what_does_not_count_is_left_out_and_named(kind: str, box: tuple[float, ...]) -> None:
    numbers = ", ".join(f"{value:g}" for value in box)
    found, said = used(record(INSIDE[4]), record(INSIDE[4], box, INSIDE[0], file_name="b.png"))
    assert found == [[list(INSIDE[4])], [list(INSIDE[4]), list(INSIDE[0])]]
    assert said == {kind: [f"b.png [{numbers}]"]}


def test_training_and_evaluation_leave_out_nothing_more() -> None:
    """The mapper drops what has nothing in the view: after the rule, that is nothing."""
    boxes = [*INSIDE, *(box for boxes in LEFT_OUT.values() for box in boxes)]
    remarks = Remarks()
    [found] = usable_records("the set", [record(*boxes)], remarks)
    image = torch.zeros((3, HEIGHT, WIDTH), dtype=torch.uint8)
    turned = [[-1.0, 0, WIDTH], [0, -1, HEIGHT], [0, 0, 1]]
    for matrix in (torch.eye(3, dtype=torch.float64), torch.tensor(turned, dtype=torch.float64)):
        instances = instances_in_view(found["annotations"], View(image, matrix))
        assert len(instances) == len(INSIDE)
    assert len(found["dropped_boxes"]) == len(boxes) - len(INSIDE)


def test_a_crowd_region_obeys_the_rule_and_is_no_dropped_object() -> None:
    crowd = record((3, 3, 3, 5), (50, 50, 60, 60), (1, 1, 9, 9))
    for item in crowd["annotations"]:
        item["iscrowd"] = 1
    remarks = Remarks()
    [found] = usable_records("the set", [crowd, record(INSIDE[0])], remarks)[:1]
    assert [item["bbox"] for item in found["annotations"]] == [[1, 1, 9, 9]]
    assert "dropped_boxes" not in found
    assert list(remarks.items) == ["empty-box", "box-off-image", "many-crowds"]


def test_the_same_box_of_another_class_or_of_a_crowd_is_another_object() -> None:
    twice = record(INSIDE[0], INSIDE[0], INSIDE[0])
    twice["annotations"][1]["category_id"] = 1
    twice["annotations"][2]["iscrowd"] = 1
    found, said = used(twice)
    assert len(found[0]) == 3
    assert list(said) == ["many-crowds"]


def test_width_and_height_count_as_such() -> None:
    found, _ = used(record((15, 5, 30, 30), (21, 5, 3, 3), mode=BoxMode.XYWH_ABS))
    assert found == [[[15, 5, 30, 30]]]


def test_of_an_image_of_unknown_size_no_box_is_outside() -> None:
    image = record((50, 50, 60, 60))
    del image["width"], image["height"]
    assert used(image) == ([[[50, 50, 60, 60]]], {})


def test_the_first_pixel_is_all_of_an_image_of_one() -> None:
    assert used(record((0, 0, 1, 1), width=1, height=1))[1] == {}


@pytest.mark.parametrize("others", [(), ((3, 3, 3, 5),)])
def test_a_set_of_fractions_is_refused(others: tuple[tuple[float, ...], ...]) -> None:
    message = r"the set: the boxes lie within the first pixel .* The first of 2: a\.png \[0\.1, "
    with pytest.raises(SourceError, match=message):
        used(record((0.1, 0.2, 0.5, 0.6), *others), record((0.1, 0.1, 0.2, 0.2)))


def test_boxes_below_a_pixel_count_and_are_named() -> None:
    found, said = used(record((3, 3, 3.5, 6), (5, 5, 6, 6)))
    assert len(found[0]) == 2
    assert said == {"tiny-box": ["a.png [3, 3, 3.5, 6]"]}


def test_many_crowds_are_named() -> None:
    crowds = record(*[(0, 0, 10, 2 + n) for n in range(8)])
    for item in crowds["annotations"][:2]:
        item["iscrowd"] = 1
    assert used(crowds)[1] == {"many-crowds": ["2 of 8 objects"]}
    del crowds["annotations"][0]["iscrowd"], crowds["annotations"][2:]
    assert used(record(*INSIDE, *[(0, 0, 9, 2 + n) for n in range(5)]), crowds)[1] == {}


def test_why_there_is_no_box() -> None:
    assert why_no_boxes([record()]) == ""
    crowd = record(INSIDE[0])
    crowd["annotations"][0]["iscrowd"] = 1
    text = why_no_boxes([crowd, record(dropped_boxes=[[0, 0, 0, 0]])])
    assert text.startswith(": 1 objects are crowd regions (set 'iscrowd' to 0 where")
    assert text.endswith(": 1 objects were left out, for reasons that the log names")


def test_the_log_says_once_how_many_and_which_first(
    tmp_path: Path, write_coco: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = {1: [(1, (0, 0, 0, 4)), (1, (0, 0, 4, -1)), (1, (1, 1, 4, 4)), (1, (1, 1, 4, 4))]}
    path = write_coco(tmp_path / "a.json", boxes, {1: "cat "})
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        del item["area"]
    path.write_text(json.dumps(content))
    uri = f"coco://{path}?images={tmp_path}"
    for _ in range(2):
        assert len(load_one_labeled(uri)[0]["annotations"]) == 1
    messages = [r.getMessage() for r in caplog.records if r.name == "dre_ssod.data.remarks"]
    assert [message.removeprefix(f"{uri}: ")[:20] for message in messages] == [
        "odd-name (the name o",
        "2 x empty-box (a box",
        "duplicate-box (an ob",
    ]
    assert messages[1].endswith(f"; the first: {tmp_path / '1.png'} [0, 0, 0, 4]")
    assert messages[2].endswith(f"): {tmp_path / '1.png'} [1, 1, 5, 5]")
