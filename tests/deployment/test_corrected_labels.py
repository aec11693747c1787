"""Labels that come back: joined by file, contradictions named, changes counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dre_ssod.data.conversion.coco_content import SHAPES, content_of
from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.deployment.labeling.corrected_labels import Changes, compare, join
from dre_ssod.errors import SourceError
from tests.data.written_sets import boxes_of

Box = tuple[int, float, float, float, float]
"""Class, x, y, width, height."""
ENTRIES = ("segmentation", "area", "keypoints", "iscrowd")


def write(root: Path, name: str, boxes: dict[str, Sequence[Box]], classes: str = "ab") -> str:
    """A COCO file with boxes by image; the URI."""
    (root / "photos").mkdir(exist_ok=True)
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    for number, (image, entries) in enumerate(boxes.items()):
        Image.new("RGB", (100, 80)).save(root / "photos" / f"{image}.png")
        size = {"width": 100, "height": 80}
        content["images"].append({"id": number, "file_name": f"{image}.png", **size})
        for label, *box in entries:
            known = {"id": len(content["annotations"]) + 1, "image_id": number}
            content["annotations"].append({**known, "category_id": label, "bbox": box})
    content["categories"] = [{"id": n, "name": text} for n, text in enumerate(classes)]
    (root / f"{name}.json").write_text(json.dumps(content))
    return f"coco://{root}/{name}.json?images={root}/photos"


A, B = (0, 10.0, 10.0, 20.0, 20.0), (1, 50.0, 40.0, 30.0, 30.0)


def test_sets_are_joined_by_file_in_the_classes_of_the_first(tmp_path: Path) -> None:
    old = write(tmp_path, "old", {"1": [A], "2": [B]})
    # The same classes in another order, one image that both have, within what rounding does.
    again = (1, 10.25, 10.0, 20.0, 20.0)
    new = write(tmp_path, "new", {"1": [again], "3": [(0, *B[1:]), again]}, classes="ba")
    joined = join([old], [new], replace=False)
    assert joined.classes == ["a", "b"]
    assert [Path(record["file_name"]).stem for record in joined.records] == ["1", "2", "3"]
    assert boxes_of(joined.records)[2] == [
        (1, (50, 40, 80, 70)),
        (0, (10.25, 10, 30.25, 30)),
    ]
    assert joined.corrected == 1


def test_boxes_that_rounding_brings_together_are_the_same(tmp_path: Path) -> None:
    """In any order, each for one of the other set."""
    boxes = [(0, 10.2, 10.0, 20.0, 20.0), (0, 9.8, 30.0, 20.0, 20.0), B]
    rounded = [(0, 10.0, 10.0, 20.0, 20.0), (0, 10.0, 30.0, 20.0, 20.0), B]
    old = write(tmp_path, "old", {"1": boxes, "2": []})
    for name, again in (("new", rounded), ("turned", rounded[::-1])):
        new = write(tmp_path, name, {"1": again, "2": []})
        assert join([old], [new], replace=False).corrected == 0
    # The first alone could have either.
    chain = write(tmp_path, "chain", {"1": [(0, 10.4, *A[2:]), (0, 10.8, *A[2:])]})
    other = write(tmp_path, "other", {"1": [(0, 10.6, *A[2:]), (0, 10.1, *A[2:])]})
    assert join([chain], [other], replace=False).corrected == 0
    twice = write(tmp_path, "twice", {"1": [rounded[0], (0, 10.3, *A[2:]), B]})
    renamed = write(tmp_path, "renamed", {"1": [*rounded[:2], (0, *B[1:])]})
    for wrong in (twice, renamed):
        with pytest.raises(SourceError, match=r"3 objects on it, .* 3 objects, and they differ"):
            join([old], [wrong], replace=False)


def test_contradictions_are_named(tmp_path: Path) -> None:
    old = write(tmp_path, "old", {"1": [A]})
    new = write(tmp_path, "new", {"1": [A, B]})
    other = write(tmp_path, "other", {"1": []})
    with pytest.raises(SourceError, match=r"1\.png: .*old\.json.* has 1 object on it, .*new\.json"):
        join([old], [new], replace=False)
    joined = join([old], [new], replace=True)
    assert (len(joined.records[0]["annotations"]), joined.corrected) == (2, 1)
    with pytest.raises(SourceError, match=r"has 2 objects on it, .*other\.json.* 0 objects"):
        join([old], [new, other], replace=True)
    with pytest.raises(SourceError, match=r"differ\. Take the image out of one of them$"):
        join([old, other], [new], replace=True)
    strange = write(tmp_path, "strange", {"2": [A]}, classes="ac")
    with pytest.raises(SourceError, match=r"strange.*: the classes 'c' are not among 'a', 'b'"):
        join([old], [strange], replace=False)


def test_what_became_of_a_models_boxes(tmp_path: Path) -> None:
    gone, renamed = (0, 0.0, 0.0, 5.0, 5.0), (0, 70.0, 0.0, 20.0, 20.0)
    model = write(tmp_path, "model", {"1": [A, B, gone, renamed], "2": [A]})
    moved, added = (1, 53.0, 40.0, 27.0, 30.0), (0, 0.0, 60.0, 10.0, 10.0)
    new = write(tmp_path, "new", {"1": [A, moved, (1, *renamed[1:]), added], "3": [A]})
    changes = compare(model, [new])
    assert changes == Changes(images=1, kept=1, moved=1, renamed=1, removed=1, added=1)
    assert (changes.precision, changes.recall) == (0.5, 0.5)
    empty = compare(model, [write(tmp_path, "none", {"3": []})])
    assert empty == Changes()
    assert empty.precision != empty.precision
    assert empty.recall != empty.recall


def test_masks_and_key_points_of_coco_files_stay(tmp_path: Path) -> None:
    """Those of other boxes, and of the labels that were not replaced."""
    crowd = {"counts": [0, 4], "size": [80, 100]}
    mask = {"segmentation": [[10, 10, 30, 10, 10, 30]], "area": 200.0, "iscrowd": 0}
    more: list[dict[str, object]] = [
        {**mask, "keypoints": [1, 2, 2]},
        {"segmentation": crowd, "area": 300.0, "iscrowd": 1},
        # Without a mask, readers take the box's.
        {"area": 5.0, "iscrowd": 0},
    ]
    boxes = [A, B, (0, 1.0, 1.0, 5.0, 5.0)]
    old = write(tmp_path, "old", {"1": [*boxes, A], "2": [A]})
    path = tmp_path / "old.json"
    content = json.loads(path.read_text())
    # The first and the fourth are equal: the first one counts.
    for item, entries in zip(content["annotations"], [*more, {}, more[0]], strict=True):
        item.update(entries)
    path.write_text(json.dumps(content))
    again = write(tmp_path, "again", {"1": boxes, "2": [(1, *A[1:])]}, classes="ab")
    joined = join([old], [again], replace=True)
    # Of the image whose label was replaced.
    assert joined.shapes_lost == 1
    written = content_of(joined.records, joined.classes)
    found = written.content["annotations"]
    kept = [{key: item[key] for key in ENTRIES if key in item} for item in found]
    assert kept == [*more[:2], {"area": 25.0, "iscrowd": 0}, {"area": 400.0, "iscrowd": 0}]
    (tmp_path / "joined.json").write_text(json.dumps(written.content))
    [first, _] = load_one_labeled(f"coco://{tmp_path}/joined.json?images={tmp_path}/photos")
    assert [item.get("area") for item in first["annotations"]] == [200.0, 300.0, None]


def _with_entries(name: str, path: Path, *entries: dict[str, object]) -> str:
    """The same set, whose first annotations have these entries more."""
    content = json.loads(path.read_text())
    for item, more in zip(content["annotations"], entries, strict=False):
        item.update(more)
    path.write_text(json.dumps(content))
    return name


@pytest.mark.parametrize("replace", [False, True])
def test_masks_that_a_correction_adds_to_equal_boxes_are_taken_or_counted(
    tmp_path: Path, replace: bool
) -> None:
    first, second = ({"segmentation": [[10, 10, 30, x, 10, 30]]} for x in (10, 12))
    old = write(tmp_path, "old", {"1": [A, B], "2": [A]})
    new = write(tmp_path, "new", {"1": [A, B], "2": [A]})
    old = _with_entries(old, tmp_path / "old.json", first)
    new = _with_entries(new, tmp_path / "new.json", second, first)
    joined = join([old], [new], replace)
    found = [item.get(SHAPES) for record in joined.records for item in record["annotations"]]
    assert found == ([second, first, None] if replace else [first, None, None])
    assert joined.corrected == (1 if replace else 0)
    # The mask that was replaced, or the one that was not taken.
    assert joined.shapes_lost == 1


def test_key_points_of_a_box_that_was_turned_stay(tmp_path: Path) -> None:
    points = {"keypoints": [1, 2, 2], "attributes": {"rotation": 30.0}}
    old = _with_entries(write(tmp_path, "old", {"1": [A]}), tmp_path / "old.json", points)
    joined = join([old], [old], replace=False)
    [[item]] = [record["annotations"] for record in joined.records]
    assert (item[SHAPES], joined.shapes_lost) == ({"keypoints": [1, 2, 2]}, 0)


def test_masks_of_a_set_that_is_no_coco_file_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "old", {"1": [A]})
    name = f"test_masks_{tmp_path.name}"
    item = {"bbox": [1, 1, 9, 9], "bbox_mode": 0, "category_id": 0, "segmentation": [[1] * 6]}
    record = {"file_name": f"{tmp_path}/photos/1.png", "image_id": 1, "height": 80, "width": 100}
    DatasetCatalog.register(name, lambda: [{**record, "annotations": [item]}])
    MetadataCatalog.get(name).set(thing_classes=["a"])
    try:
        assert join([name], [name], replace=False).shapes_lost == 1
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
