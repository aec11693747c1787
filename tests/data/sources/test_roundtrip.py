"""Random datasets in every layout, with odd names, are read back as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from tests.data.written_sets import Example, write_coco, write_voc, write_yolo

# No control characters, line separators or slashes: VOC's lists have one name a line.
LETTERS = st.sampled_from("abcXYZ019-_.,+&%#?=@!'()[]{}~ éßø中文日本🐈")
NAMES = st.text(LETTERS, min_size=1, max_size=8).map(str.strip).filter(lambda n: n.strip(" ."))
# Names that differ in case only are the same on some file systems.
DIFFERENT = {"unique_by": str.lower, "min_size": 1, "max_size": 3}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    classes = draw(st.lists(NAMES, **DIFFERENT))
    images = {}
    for name in draw(st.lists(NAMES, **DIFFERENT)):
        size = draw(st.tuples(st.integers(4, 700), st.integers(4, 700)))
        boxes = []
        for _ in range(draw(st.integers(0, 3))):
            x1, x2 = _interval(draw, size[0])
            y1, y2 = _interval(draw, size[1])
            box = (draw(st.integers(0, len(classes) - 1)), x1, y1, x2, y2)
            # The same box twice counts once.
            boxes += [box] * (box not in boxes)
        images["i" + name] = (size, boxes)
    return Example(draw(NAMES), classes, images)


def _interval(draw: st.DrawFn, length: int) -> tuple[float, float]:
    """In sixteenths of a pixel, at least two pixels long."""
    start = draw(st.integers(0, 16 * (length - 2)))
    return start / 16, draw(st.integers(start + 32, 16 * length)) / 16


@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(example=examples())
def test_what_is_written_is_read_back(
    write: Callable[[Path, Example], str], example: Example
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / example.folder
        root.mkdir()
        uri = write(root, example)
        classes, records, unlabeled = (
            class_names([uri]),
            load_one_labeled(uri),
            load_unlabeled([uri]),
        )
        assert all(Path(record["file_name"]).is_file() for record in records)
    assert classes == example.classes
    read = {
        Path(record["file_name"]).stem: (
            (record["width"], record["height"]),
            [(item["category_id"], *_corners(item)) for item in record["annotations"]],
        )
        for record in records
    }
    # YOLO's folder is read by the names of its files: "a!.png" comes before "a.png".
    extension = ".png" if write is write_yolo else ""
    assert list(read) == sorted(example.images, key=lambda name: name + extension)
    assert read == example.images
    shared = ("file_name", "image_id")
    assert [[record[key] for key in shared] for record in records] == [
        [record[key] for key in shared] for record in unlabeled
    ]
    assert all("annotations" not in record for record in unlabeled)


def _corners(item: dict[str, Any]) -> list[float]:
    return list(BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS))
