"""Labels that come back: joined by file, contradictions named, changes counted."""

from __future__ import annotations

import json
import os
import re
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
from tests.voc_folder import write_voc_folder

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
    assert [category["name"] for category in joined.categories] == ["a", "b"]
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


def test_a_flag_that_was_corrected_is_a_correction(tmp_path: Path) -> None:
    """Crowd regions, where both sets speak of them."""
    ordinary, crowd = {"iscrowd": 0}, {"iscrowd": 1}
    for name, flags in (("old", [ordinary] * 2), ("new", [crowd, ordinary])):
        _with_entries(write(tmp_path, name, {"1": [A, B]}), tmp_path / f"{name}.json", *flags)
    old, new = (
        f"coco://{tmp_path}/{name}.json?images={tmp_path}/photos" for name in ("old", "new")
    )
    differ = r"2 objects on it, .* 2 objects, and they differ in 'iscrowd' or 'difficult'\. Take"
    with pytest.raises(SourceError, match=differ):
        join([old], [new], replace=False)
    joined = join([old], [new], replace=True)
    assert [item["iscrowd"] for item in joined.records[0]["annotations"]] == [1, 0]
    assert joined.corrected == 1
    # Sets that have no word for it: a COCO file without any flag, and other forms.
    bare = write(tmp_path, "bare", {"1": [A, B]})
    lines = ("0 0.2 0.25 0.2 0.25", "1 0.65 0.6875 0.3 0.375")
    for folder in ("images", "labels"):
        (tmp_path / "yolo" / folder / "train").mkdir(parents=True)
    (tmp_path / "yolo" / "labels" / "train" / "1.txt").write_text("\n".join(lines))
    os.link(tmp_path / "photos" / "1.png", tmp_path / "yolo" / "images" / "train" / "1.png")
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nnames: [a, b]\n")
    for without in (bare, f"yolo://{tmp_path}/yolo?split=train"):
        for sets in ((new, without), (without, new)):
            joined = join(sets[:1], sets[1:], replace=True)
            assert (len(joined.records), joined.corrected) == (1, 0)


def test_difficult_that_was_corrected_is_a_correction(tmp_path: Path) -> None:
    sets = []
    for value in (False, True):
        folder = write_voc_folder(tmp_path / f"{value}", {"1": [("a", (11, 11, 30, 30), value)]})
        words = f"annotations={folder}/Annotations&classes=a,b"
        sets.append(f"voc://{tmp_path}/False/JPEGImages?{words}")
    with pytest.raises(SourceError, match="differ in 'iscrowd' or 'difficult'"):
        join(sets[:1], sets[1:], replace=False)
    joined = join(sets[:1], sets[1:], replace=True)
    assert [item["difficult"] for item in joined.records[0]["annotations"]] == [1]
    assert joined.corrected == 1
    # A COCO file is not read for it.
    other = write(tmp_path, "coco", {"1": [A]})
    (tmp_path / "photos" / "1.png").unlink()
    os.link(tmp_path / "False" / "JPEGImages" / "1.jpg", tmp_path / "photos" / "1.png")
    assert join(sets[1:], [other], replace=True).corrected == 0


def _renumbered(name: str, path: Path, categories: dict[int, int], first_image: int) -> str:
    """The same set with other ids."""
    content = json.loads(path.read_text())
    for entry in content["categories"]:
        entry["id"] = categories[entry["id"]]
    for image in content["images"]:
        image["id"] += first_image
    for item in content["annotations"]:
        item["category_id"] = categories[item["category_id"]]
        item["image_id"] += first_image
    path.write_text(json.dumps(content))
    return name


def test_ids_of_coco_files_stay(tmp_path: Path) -> None:
    """Those of classes by the first set, and of images if all can keep theirs."""
    old, new = (
        write(tmp_path, "old", {"1": [A], "2": [B]}),
        write(tmp_path, "new", {"2": [A], "3": [B, A]}),
    )
    _renumbered(old, tmp_path / "old.json", {0: 44, 1: 3}, 501)
    _renumbered(new, tmp_path / "new.json", {0: 1, 1: 2}, 7)
    joined = join([old], [new], replace=True)
    # In the order of their ids; of the image that both have, the first one counts.
    assert joined.categories == [{"id": 3, "name": "b"}, {"id": 44, "name": "a"}]
    assert joined.image_ids == [501, 502, 8]
    written = content_of(joined.records, joined.categories, joined.image_ids)
    content = written.content
    assert content["categories"] == [{"id": 3, "name": "b"}, {"id": 44, "name": "a"}]
    names = [(image["id"], Path(image["file_name"]).stem) for image in content["images"]]
    assert names == [(8, "3"), (501, "1"), (502, "2")]
    assert written.source_ids == ("8", "501", "502")
    labels = [(item["image_id"], item["category_id"]) for item in content["annotations"]]
    assert labels == [(8, 3), (8, 44), (501, 44), (502, 44)]


def test_image_ids_that_cannot_all_stay_are_new(tmp_path: Path) -> None:
    old = write(tmp_path, "old", {"1": [A], "2": [A]})
    new = write(tmp_path, "new", {"3": [A]})
    joined = join([old], [new], replace=False)
    assert [category["id"] for category in joined.categories] == [0, 1]
    assert joined.image_ids == []
    assert joined.ids_lost == f"{tmp_path}/photos/1.png and {tmp_path}/photos/3.png both have 0"
    root = write_voc_folder(tmp_path / "voc", {"9": [("a", (11, 11, 30, 30), False)]})
    voc = f"voc://{root}?split=test&classes=a,b"
    joined = join([old], [voc], replace=False)
    assert joined.image_ids == []
    assert re.fullmatch(r".*9\.jpg is of a set that is no COCO file.*", joined.ids_lost)
    # Nothing is lost where none has any.
    joined = join([voc], [voc], replace=False)
    assert [category["id"] for category in joined.categories] == [1, 2]
    assert (joined.image_ids, joined.ids_lost) == ([], "")


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
    written = content_of(joined.records, joined.categories)
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
