from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.structures import BoxMode

from dre_ssod.data.records import drop_boxes_outside
from tests.tiny_dataset import loggers_kept


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    with loggers_kept():
        logging.getLogger("dre_ssod").propagate = True
        yield


def record(*boxes: tuple[float, ...], mode: BoxMode = BoxMode.XYXY_ABS) -> dict[str, Any]:
    """An image of 20 x 10 pixels."""
    items = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0} for box in boxes]
    return {"file_name": "a.png", "width": 20, "height": 10, "annotations": items}


INSIDE = [(0, 0, 20, 10), (-5, -5, 1, 1), (19, 9, 40, 40), (-5, -5, 40, 40), (3, 4, 5, 6)]
OUTSIDE = [(20, 0, 30, 10), (0, 10, 20, 12), (-9, 0, 0, 5), (0, -9, 5, 0), (50, 50, 60, 60)]


def test_a_box_that_shares_a_point_with_its_image_stays(caplog: pytest.LogCaptureFixture) -> None:
    whole = record(*INSIDE)
    assert drop_boxes_outside([whole]) == [whole]
    assert not caplog.records


@pytest.mark.parametrize("box", OUTSIDE)
def test_a_box_outside_is_dropped_and_counted(
    box: tuple[float, ...], caplog: pytest.LogCaptureFixture
) -> None:
    given = [record(INSIDE[0], box), record(box), record(INSIDE[4])]
    before = copy.deepcopy(given)
    found = drop_boxes_outside(given)
    assert [[item["bbox"] for item in image["annotations"]] for image in found] == [
        [list(INSIDE[0])],
        [],
        [list(INSIDE[4])],
    ]
    assert given == before
    assert len(caplog.records) == 1
    assert "Dropped 2 boxes" in caplog.text
    assert "a.png" in caplog.text


def test_width_and_height_count_as_such() -> None:
    boxes = [(15, 5, 30, 30), (21, 5, 3, 3)]
    [found] = drop_boxes_outside([record(*boxes, mode=BoxMode.XYWH_ABS)])
    assert [item["bbox"] for item in found["annotations"]] == [[15, 5, 30, 30]]


def test_an_image_of_unknown_size_stays_as_it_is() -> None:
    image = record(OUTSIDE[0])
    del image["width"]
    assert drop_boxes_outside([image]) == [image]
