"""What LabelImg and CVAT make of the files that are written for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from defusedxml.ElementTree import parse

from dre_ssod.data.conversion.convert import convert
from dre_ssod.data.sources.catalog import load_one_labeled
from tests.data.written_sets import boxes_of

Writer = Callable[..., Path]


def test_no_image_takes_the_place_of_labelimgs_list_of_classes(
    tmp_path: Path, write_voc: Writer
) -> None:
    objects = {"Classes": [("cat", (1, 1, 4, 4), 0)], "other": []}
    voc = f"voc://{write_voc(tmp_path / 'voc', objects)}?split=train"
    [result] = convert({"train": voc}, "yolo", tmp_path / "new")
    assert boxes_of(load_one_labeled(result.uri)) == boxes_of(load_one_labeled(voc))
    labels = tmp_path / "new" / "labels" / "train"
    names = sorted(path.name for path in labels.iterdir())
    assert names == ["1_Classes.txt", "2_other.txt", "classes.txt"]
    assert (labels / "classes.txt").read_text(encoding="utf-8") == "cat\n"


def test_ids_for_cvat_are_no_numbers_of_frames(tmp_path: Path, write_voc: Writer) -> None:
    """It takes an id for one where it does not know the name, and would draw on another image."""
    objects = {name: [("cat", (1, 1, 4, 4), 0)] for name in "abc"}
    voc = f"voc://{write_voc(tmp_path / 'voc', objects)}?split=train"
    convert({"train": voc}, "cvat", tmp_path / "new")
    images = parse(tmp_path / "new" / "train.xml").findall("image")
    assert [image.get("id") for image in images] == ["1000000", "1000001", "1000002"]
