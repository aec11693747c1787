"""YOLO's label files without splits, in the folders of the programs that write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from dre_ssod.errors import SourceError
from tests.data.written_sets import boxes_of

Writer = Callable[..., Path]

LINE = "1 0.5 0.5 0.5 0.25\n"
"""(50, 37.5, 150, 62.5) on an image of 200 x 100 pixels."""
BOX = (1, (50.0, 37.5, 150.0, 62.5))


def write(root: Path, write_image: Writer, *images: str, **texts: str) -> None:
    """Images, and text files by their names with "__" for "/" and "_" for "."."""
    for name in images:
        write_image(root / f"{name}.png", (200, 100))
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read(uri: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    remarks = Remarks()
    return load_one_labeled(uri, remarks), dict(remarks.items)


@pytest.mark.parametrize("where", ["", "labels__"])
def test_images_without_a_label_file_are_unlabeled(
    tmp_path: Path, write_image: Writer, where: str
) -> None:
    folder = "images/" if where else ""
    texts = {f"{where}a_txt": LINE, f"{where}b_txt": "", f"{where}classes_txt": "cat\ndog\n"}
    write(tmp_path, write_image, *(f"{folder}{name}" for name in "abc"), **texts)
    records, remarks = read(f"yolo://{tmp_path}")
    assert class_names([f"yolo://{tmp_path}"]) == ["cat", "dog"]
    assert [record["image_id"] for record in records] == [f"{folder}{n}.png" for n in "ab"]
    assert boxes_of(records) == [[BOX], []]
    assert remarks == {"unlabeled-image": [f"{folder}c.png"]}
    assert len(load_unlabeled([f"yolo://{tmp_path}"])) == 3


def test_darknet_lists_every_image(tmp_path: Path, write_image: Writer) -> None:
    data = "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n"
    files = {"obj_data": data, "obj_names": "cat\ndog\n", "train_txt": "data/obj/a.png\n"}
    write(tmp_path, write_image, "obj/a", "obj/b", **files, obj__a_txt=LINE, obj__b_txt="")
    records, remarks = read(f"yolo://{tmp_path}")
    assert boxes_of(records) == [[BOX]]
    assert remarks["undrawn-image"] == [f"{tmp_path}/obj/b.txt"]
    looked_at, remarks = read(f"yolo://{tmp_path}?empty=labeled")
    assert boxes_of(looked_at) == [[BOX], []]
    assert not remarks


def test_a_yaml_file_without_splits_gives_the_classes(tmp_path: Path, write_image: Writer) -> None:
    texts = {"data_yaml": "names: [cat, dog]\nnc: 2\n", "labels__a_txt": LINE}
    write(tmp_path, write_image, "images/a", **texts, labels__gone_txt=LINE)
    records, remarks = read(f"yolo://{tmp_path}")
    assert boxes_of(records) == [[BOX]]
    assert remarks == {"labels-alone": [str(tmp_path / "labels" / "gone.txt")]}


@pytest.mark.parametrize("other", ["data_yaml", "b_yaml"])
def test_of_several_yaml_files_the_named_one_counts(
    tmp_path: Path, write_image: Writer, other: str
) -> None:
    texts = {other: "names: [cat, dog]\n", "mine_yaml": "names: [dog, cat]\n", "a_txt": LINE}
    write(tmp_path, write_image, "a", **texts)
    uri = f"yolo://{tmp_path}/mine.yaml"
    assert class_names([uri]) == ["dog", "cat"]
    records, remarks = read(uri)
    assert (boxes_of(records), remarks) == ([[BOX]], {})
    assert [record["image_id"] for record in records] == ["a.png"]


def test_subsets_of_darknet_count_together_and_are_named(
    tmp_path: Path, write_image: Writer
) -> None:
    data = "names = data/obj.names\ntrain = data/train.txt\nvalid = {}\n"
    lists = {"train_txt": "data/x/a.png\n", "valid_txt": "data/y/b.png\ndata/y/c.png\n"}
    texts = {"obj_names": "cat\ndog\n", "val_txt": "\n", "x__a_txt": LINE, "y__b_txt": LINE}
    for valid, said in (
        ("data/valid.txt", "2 subsets: train (1), valid (2)"),
        ("/home/me/valid.txt", "2 subsets: train (1), valid (its list cannot be read)"),
        # Many name one list for both; an empty one names no image.
        ("data/train.txt", ""),
        ("data/val.txt", ""),
    ):
        write(tmp_path, write_image, "x/a", "y/b", **lists, **texts, obj_data=data.format(valid))
        records, remarks = read(f"yolo://{tmp_path}")
        assert boxes_of(records) == [[BOX], [BOX]]
        assert remarks == ({"joined-subsets": [f"{tmp_path}/obj.data: {said}"]} if said else {})


def test_a_label_file_of_two_images_is_refused(tmp_path: Path, write_image: Writer) -> None:
    write(tmp_path, write_image, "a", "b", b_txt=LINE, classes_txt="cat\ndog\n")
    write_image(tmp_path / "a.jpg", (200, 100))
    assert len(read(f"yolo://{tmp_path}")[0]) == 1
    write(tmp_path, write_image, a_txt=LINE)
    with pytest.raises(SourceError, match=r"a\.txt: belongs to two images, a\.jpg and a\.png; ren"):
        read(f"yolo://{tmp_path}")


def test_texts_that_are_no_labels_are_no_labels_of_a_lost_image(
    tmp_path: Path, write_image: Writer
) -> None:
    texts = {"README_txt": "\n80 classes of 5 kinds\n", "list_txt": "a.png\n", "gone_txt": LINE}
    more = {"void_txt": "", "shape_txt": "read me\n0 0.1 0.1 .5 5e-1 0.2 0.3\n"}
    write(tmp_path, write_image, "a", a_txt=LINE, classes_txt="cat\ndog\n", **texts, **more)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    _, remarks = read(f"yolo://{tmp_path}")
    names = ("bytes", "gone", "shape", "void")
    assert remarks == {"labels-alone": [str(tmp_path / f"{name}.txt") for name in names]}


def test_lists_of_classes_must_agree(tmp_path: Path, write_image: Writer) -> None:
    """LabelImg writes one into each folder of labels."""
    texts = {"labels__a_txt": LINE, "labels__sub__b_txt": LINE, "classes_txt": "cat\ndog\n"}
    write(tmp_path, write_image, "images/a", "images/sub/b", **texts)
    for name in ("labels", "labels/sub"):
        listing = tmp_path / name / "classes.txt"
        listing.write_text("dog\ncat\n", encoding="utf-8")
        message = f"{listing}: class 0 is 'dog', but 'cat' by {tmp_path}/classes.txt; the first li"
        with pytest.raises(SourceError, match=message):
            read(f"yolo://{tmp_path}")
        # Neither a number nor a name is changed by a part of the list.
        listing.write_text("cat\n", encoding="utf-8")
        assert boxes_of(read(f"yolo://{tmp_path}")[0]) == [[BOX], [BOX]]
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "labels" / "classes.txt").unlink()
    with pytest.raises(SourceError, match="class 0 is 'cat', but 'dog' by classes= of the URI"):
        read(f"yolo://{tmp_path}?classes=dog,cat")
    assert boxes_of(read(f"yolo://{tmp_path}?classes=cat,dog")[0]) == [[BOX], [BOX]]


def test_what_is_missing_is_named(tmp_path: Path, write_image: Writer) -> None:
    write(tmp_path, write_image, "a", a_txt=LINE)
    with pytest.raises(SourceError, match=r"classes\.txt: gives no class names"):
        read(f"yolo://{tmp_path}")
    records, _ = read(f"yolo://{tmp_path}?classes=cat,dog")
    assert boxes_of(records) == [[BOX]]
    write(tmp_path, write_image, classes_txt="cat\ndog\n")
    with pytest.raises(SourceError, match="the classes are 'cat', 'dog', but classes= says 'dog'"):
        read(f"yolo://{tmp_path}?classes=dog")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"none of its 1 images has a label file, beside it or"):
        read(f"yolo://{tmp_path}")
    write(tmp_path, write_image, obj_data="names = ../obj.names\n")
    with pytest.raises(SourceError, match=r"obj\.data: names: '\.\./obj\.names' is outside"):
        read(f"yolo://{tmp_path}")


def test_a_set_with_splits_needs_one(tmp_path: Path, write_image: Writer) -> None:
    for name, content in (("x", "images/train/a"), ("y", "val/images/a")):
        write(tmp_path / name, write_image, content)
        with pytest.raises(SourceError, match="the key 'split' is missing"):
            read(f"yolo://{tmp_path / name}")
    write(tmp_path / "z", write_image, data_yaml="train: images\nnames: [cat]\n")
    with pytest.raises(SourceError, match="the key 'split' is missing"):
        read(f"yolo://{tmp_path / 'z'}/data.yaml")
