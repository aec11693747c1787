"""Datasets as COCO content, and splits written as two COCO files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from dre_ssod.data.conversion.coco_content import (
    CocoContent,
    as_coco,
    coco_uri,
    write_split,
)
from dre_ssod.data.conversion.convert import convert
from dre_ssod.data.sources.catalog import load_named, load_one_labeled, load_unlabeled
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.data.splits.split import draw_split
from dre_ssod.errors import FileError, SourceError

Writer = Callable[..., Path]
OBJECTS = {
    "c": [("dog", (1, 1, 4, 5), 0), ("cat", (2, 2, 8, 6), 1)],
    "a": [("cat", (1, 1, 3, 3), 0)],
    "b": [],
    "d": [("dog", (3, 1, 8, 2), 0)],
}


@pytest.fixture
def voc(tmp_path: Path, write_voc: Writer) -> str:
    return f"voc://{write_voc(tmp_path / 'set', OBJECTS)}?split=train"


def content_of(name: str) -> CocoContent:
    return as_coco(name, load_one_labeled(name))


def test_records_become_coco_entries_in_their_order(voc: str, tmp_path: Path) -> None:
    found = content_of(voc)
    assert found.image_root == tmp_path / "set" / "JPEGImages"
    assert found.source_ids == ("c", "a", "b", "d")
    assert found.content["images"] == [
        {"id": number, "file_name": f"{name}.png", "width": 8, "height": 6}
        for number, name in enumerate("cabd", start=1)
    ]
    assert found.content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    # VOC's corners are pixels that belong to the box: (2, 2, 8, 6) covers 7 x 5 pixels.
    assert found.content["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 1, 7, 5],
        "area": 35,
        "iscrowd": 0,
        "difficult": 1,
    }


def test_a_coco_file_stays_as_it_is(tmp_path: Path, write_coco: Writer) -> None:
    extra = {"licenses": [{"id": 1}], "info": {"year": 2026}}
    boxes = {9: [(30, (0, 0, 2, 2))], 4: [(20, (0, 0, 0, 2))]}
    path = write_coco(tmp_path / "a.json", boxes, {30: "cat", 20: "dog"}, replaced=extra)
    found = content_of(f"coco://{path}?images={tmp_path}")
    expected = json.loads(path.read_text(encoding="utf-8"))
    expected["images"].reverse()
    assert found == CocoContent(expected, tmp_path, ("4", "9"))


def test_a_registered_coco_set_stays_as_it_is(tmp_path: Path, write_coco: Writer) -> None:
    path = write_coco(tmp_path / "a.json", {7: [(5, (0, 0, 2, 2))]}, {5: "cat"})
    name = f"test_coco_content_{tmp_path.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    try:
        found = content_of(name)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert found.content == json.loads(path.read_text(encoding="utf-8"))


def test_names_that_leave_the_image_folder_start_above_it(
    tmp_path: Path, write_coco: Writer
) -> None:
    images = [
        {"id": 1, "file_name": "../other/1.png", "height": 6, "width": 8},
        {"id": 2, "file_name": "x/../2.png", "height": 6, "width": 8},
    ]
    boxes = {1: [(1, (0, 0, 2, 2))], 2: []}
    path = write_coco(tmp_path / "a.json", boxes, {1: "cat"}, replaced={"images": images})
    (tmp_path / "images").mkdir()
    found = content_of(f"coco://{path}?images={tmp_path / 'images'}&outside=allow")
    assert found.image_root == tmp_path
    names = [image["file_name"] for image in found.content["images"]]
    assert names == ["other/1.png", "images/2.png"]


def test_a_part_keeps_its_images_and_their_annotations(voc: str) -> None:
    whole = content_of(voc)
    part = whole.only({"d", "c"}, annotated=True)
    assert part.source_ids == ("c", "d")
    assert [image["id"] for image in part.content["images"]] == [1, 4]
    assert [item["image_id"] for item in part.content["annotations"]] == [1, 1, 4]
    bare = whole.only({"a"}, annotated=False)
    assert [image["id"] for image in bare.content["images"]] == [2]
    assert bare.content["annotations"] == []
    assert bare.content["categories"] == whole.content["categories"]
    assert len(whole.content["annotations"]) == 4


def test_a_written_split_trains_on_the_images_that_the_draw_would(voc: str, tmp_path: Path) -> None:
    records = load_named([voc])
    split = draw_split([name for name, _ in records], 50.0, 0)
    root = write_split(voc, records, split, tmp_path / "out")
    labeled = coco_uri(tmp_path / "out" / "labeled.json", root)
    unlabeled = coco_uri(tmp_path / "out" / "unlabeled.json", root)
    drawn = build_pools([voc], [], 50.0, 0, filter_empty=False)
    written = build_pools([labeled], [unlabeled], filter_empty=False)
    assert written.classes == drawn.classes
    for found, expected in (
        (written.labeled, drawn.labeled),
        (written.unlabeled, drawn.unlabeled),
        (load_unlabeled([unlabeled]), drawn.unlabeled),
    ):
        names = [record["file_name"] for record in found]
        assert names == [record["file_name"] for record in expected]
    counts = [len(record["annotations"]) for record in written.labeled]
    assert counts == [len(record["annotations"]) for record in drawn.labeled]
    again = build_pools([voc], [], filter_empty=False, split_file=str(tmp_path / "out/split.json"))
    assert again == drawn


def test_images_without_annotations_stay_what_the_uri_says(
    tmp_path: Path, write_coco: Writer, write_image: Writer
) -> None:
    path = write_coco(tmp_path / "a.json", {1: [(1, (0, 0, 2, 2))], 2: [], 3: []}, {1: "cat"})
    for number in (1, 2, 3):
        write_image(tmp_path / "images" / f"{number}.png")
    source = f"coco://{path}?images={tmp_path}/images"
    for said, images in (("", 3), ("unlabeled", 1), ("labeled", 3)):
        more = f"&empty={said}" if said else ""
        [result] = convert({"train": source + more}, "coco", tmp_path / f"out_{said}")
        assert result.images == len(load_one_labeled(result.uri)) == images
        assert result.uri.endswith("&empty=labeled") == (said == "labeled")
        assert len(content_of(source + more).content["images"]) == images


@pytest.mark.parametrize("name", ["labeled.json", "unlabeled.json", "split.json"])
def test_nothing_is_overwritten(voc: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    records = load_named([voc])
    split = draw_split([name for name, _ in records], 50.0, 0)
    with pytest.raises(SourceError, match=f"{name} exists; choose another folder"):
        write_split(voc, records, split, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text(encoding="utf-8") == "mine"


def test_a_split_that_is_not_written_to_its_end_leaves_no_half_file(
    voc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load_named([voc])
    split = draw_split([name for name, _ in records], 50.0, 0)
    monkeypatch.setattr(
        "dre_ssod.files.os.fsync", Mock(side_effect=[None, None, OSError(28, "no")])
    )
    with pytest.raises(FileError, match=r"unlabeled\.json cannot be written"):
        write_split(voc, records, split, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labeled.json"]
    assert json.loads((tmp_path / "out" / "labeled.json").read_text())["images"]


def test_a_split_needs_unlabeled_images(voc: str, tmp_path: Path) -> None:
    records = load_named([voc])
    split = draw_split([name for name, _ in records], 100.0, 0)
    with pytest.raises(SourceError, match="all 4 images would be labeled, and none unlabeled"):
        write_split(voc, records, split, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_of_unknown_size_is_named(voc: str) -> None:
    records = load_one_labeled(voc)
    del records[1]["height"]
    with pytest.raises(SourceError, match=r"a\.png: .* does not say the image's height"):
        as_coco(voc, records)
