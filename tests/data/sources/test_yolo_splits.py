"""YOLO datasets: which images and classes a split has, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.catalog import (
    class_names,
    ensure_registered,
    load_one_labeled,
    load_unlabeled,
)
from dre_ssod.errors import SourceError
from tests.data.conftest import YOLO_CONFIG, YOLO_NAMES
from tests.data.sources.test_yolo import Writer, source_of


def test_images_opens_neither_labels_nor_images_nor_class_files(
    tmp_path: Path, write_yolo: Writer
) -> None:
    root = write_yolo(tmp_path, {"a.png": "nonsense"}, config=None)
    (root / "images" / "train" / "a.png").write_bytes(b"no image")
    (root / "classes.txt").write_bytes(b"\xff")
    expected = {
        "file_name": str(root / "images" / "train" / "a.png"),
        "image_id": "images/train/a.png",
    }
    assert source_of(root).images(Remarks()) == [expected]
    assert load_unlabeled([f"yolo://{quote(str(root))}?split=train"]) == [expected]


def test_without_a_yaml_file_folders_and_class_file_are_enough(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    root = write_yolo(tmp_path / "a", {"a.png": "1 0.5 0.5 0.5 0.5"}, config=None)
    assert source_of(root, "train", "cat", "dog").metadata()["thing_classes"] == ["cat", "dog"]
    with pytest.raises(SourceError, match=r"classes\.txt: gives no class names; .* classes=A,B,C"):
        source_of(root).metadata()
    (root / "classes.txt").write_text("\ufeffcat\nbig dog\n\n", encoding="utf-8")
    uri = f"yolo://{quote(str(root))}?split=train"
    assert class_names([uri]) == ["cat", "big dog"]
    assert load_one_labeled(uri)[0]["annotations"][0]["category_id"] == 1
    with pytest.raises(SourceError, match="'cat', 'big dog', but classes= says 'dog'"):
        source_of(root, "train", "dog").metadata()
    # The form in which the split is the outer folder.
    write_image(root / "valid" / "images" / "b.png")
    (root / "valid" / "labels").mkdir()
    (root / "valid" / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert len(source_of(root, "valid").labeled(Remarks())[0]["annotations"]) == 1
    write_image(root / "train" / "images" / "a.png")
    with pytest.raises(SourceError, match="for the split 'train' both exist; remove one"):
        source_of(root).images(Remarks())
    with pytest.raises(SourceError, match="for the split 'test' neither exists"):
        source_of(root, "test").metadata()


def test_a_list_of_classes_beside_the_labels_must_agree_with_the_yaml_file(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    root = write_yolo(tmp_path, {"a.png": "1 0.5 0.5 0.5 0.5"})
    names = "".join(f"class {number}\n" for number in range(9))
    for name in ("labels/train", "labels", "."):
        path = root / name / "classes.txt"
        # As LabelImg leaves it; also longer or shorter, which contradicts nothing.
        for agreeing in ("cat\ndog\n", "cat\n", "cat\ndog\nbird\n", ""):
            path.write_text(agreeing, encoding="utf-8")
            assert len(source_of(root).labeled(Remarks())) == 1
        path.write_text("dog\ncat\n", encoding="utf-8")
        message = f"{path}: class 0 is 'dog', but 'cat' by {root / 'data.yaml'}; the first lists "
        with pytest.raises(SourceError, match=message):
            source_of(root).labeled(Remarks())
        path.write_text(names, encoding="utf-8")
        with pytest.raises(
            SourceError, match=r"lists 'class 0', .*'class 4', \.\.\., the second 'ca"
        ):
            source_of(root).labeled(Remarks())
        path.unlink()
    # Names that are made of a count are nobody's.
    named = (root / "data.yaml").read_text(encoding="utf-8")
    counted = named.replace(YOLO_NAMES, "nc: 2\n")
    assert counted != named
    (root / "data.yaml").write_text(counted, encoding="utf-8")
    (root / "labels" / "train" / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    assert source_of(root).labeled(Remarks())
    (root / "data.yaml").unlink()
    (root / "labels" / "train" / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(SourceError, match="class 0 is 'cat', but 'dog' by classes= of the URI"):
        source_of(root, "train", "dog", "cat").labeled(Remarks())
    # Other splits are not this one's matter.
    (root / "labels" / "val").mkdir()
    (root / "labels" / "val" / "classes.txt").write_text("dog\n", encoding="utf-8")
    assert len(source_of(root, "train", "cat", "dog").labeled(Remarks())) == 1
    # These are labels.
    write_image(root / "images" / "train" / "classes.png")
    (root / "labels" / "train" / "classes.txt").write_text("0 0.5 0.5 1 1\n", encoding="utf-8")
    assert len(source_of(root, "train", "cat", "dog").labeled(Remarks())) == 2


def test_label_files_without_an_image_are_named(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    line = "0 0.5 0.5 0.5 0.5\n"
    root = write_yolo(tmp_path, {"a.png": line, "sub/b.png": line})
    labels = root / "labels" / "train"
    for name in ("gone.txt", "sub/gone.txt", "void.txt", "._a.txt"):
        (labels / name).write_text("" if name == "void.txt" else line, encoding="utf-8")
    (labels / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    (labels / "README.txt").write_text("80 classes of 5 kinds\n", encoding="utf-8")
    # Those of another split are.
    (root / "labels" / "val").mkdir()
    (root / "labels" / "val" / "c.txt").write_text(line, encoding="utf-8")
    remarks = Remarks()
    assert len(source_of(root).labeled(remarks)) == 2
    alone = ["gone.txt", "sub/gone.txt", "void.txt"]
    assert remarks.items == {"labels-alone": [str(labels / name) for name in alone]}
    # A list of images is a choice among them.
    (root / "list.txt").write_text("images/train/a.png\n", encoding="utf-8")
    (root / "data.yaml").write_text(f"train: list.txt\n{YOLO_NAMES}", encoding="utf-8")
    remarks = Remarks()
    assert len(source_of(root).labeled(remarks)) == 1
    assert not remarks.items
    # Of two folders, of which one has no labels at all, and labels beside the images.
    write_image(root / "more" / "images" / "d.png")
    write_image(root / "flat" / "e.png")
    (root / "flat" / "lost.txt").write_text(line, encoding="utf-8")
    folders = "[images/train, more/images, flat]"
    (root / "data.yaml").write_text(f"train: {folders}\n{YOLO_NAMES}", encoding="utf-8")
    remarks = Remarks()
    source_of(root).labeled(remarks)
    assert remarks.items["labels-alone"] == [
        *(str(labels / name) for name in alone),
        str(root / "flat" / "lost.txt"),
    ]


@pytest.mark.parametrize(
    "train", ["images/train", "../images/train", "[images/train]", "list.txt", "./list.txt"]
)
def test_a_split_is_a_folder_or_a_list_or_several(
    tmp_path: Path, write_yolo: Writer, train: str
) -> None:
    root = write_yolo(tmp_path / "set", {"b.png": None, "a.png": "0 0.5 0.5 1 1"})
    (root / "data.yaml").write_text(f"path: .\ntrain: {train}\n{YOLO_NAMES}")
    (root / "list.txt").write_text("./images/train/a.png\n\nimages/train/../train/b.png\n")
    names = [record["image_id"] for record in source_of(root).labeled(Remarks())]
    assert names == ["images/train/a.png", "images/train/b.png"]


def test_several_folders_keep_their_order_and_lists_may_lie_deeper(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    root = write_yolo(tmp_path, {"b.png": "0 0.5 0.5 1 1"})
    write_image(root / "images" / "more" / "a.png")
    (root / "lists").mkdir()
    (root / "lists" / "one.txt").write_text("../images/train/b.png\n")
    (root / "data.yaml").write_text(f"train: [lists/one.txt, images/more]\n{YOLO_NAMES}")
    names = [record["image_id"] for record in source_of(root).images(Remarks())]
    assert names == ["images/train/b.png", "images/more/a.png"]
    (root / "data.yaml").write_text(f"train: [lists/one.txt, images/train]\n{YOLO_NAMES}")
    with pytest.raises(SourceError, match=r"b\.png is in the split 'train' twice"):
        source_of(root).images(Remarks())


def test_the_root_may_be_the_yaml_file(tmp_path: Path, write_yolo: Writer) -> None:
    root = write_yolo(tmp_path, {"a.png": "1 0.5 0.5 1 1"}, config=None)
    for name in ("one.yaml", "two.yml"):
        (root / name).write_text(YOLO_CONFIG)
    with pytest.raises(SourceError, match=r"which of one\.yaml, two\.yml .* yolo://.*one\.yaml"):
        source_of(root).metadata()
    uri = f"yolo://{quote(str(root / 'two.yml'))}?split=train"
    assert ensure_registered(uri) == uri
    assert load_one_labeled(uri)[0]["annotations"][0]["category_id"] == 1
    (root / "one.yaml").unlink()
    assert len(source_of(root).labeled(Remarks())) == 1


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("names: [a, b]\nnc: 2", ["a", "b"]),
        ("names: {1: b, 0: a}", ["a", "b"]),
        ("nc: 2", ["class_0", "class_1"]),
        ("names: [7, 'no']", ["7", "no"]),
    ],
)
def test_class_names(tmp_path: Path, write_yolo: Writer, config: str, names: list[str]) -> None:
    root = write_yolo(tmp_path, {"a.png": "1 0.5 0.5 1 1"}, f"train: images/train\n{config}\n")
    assert source_of(root).metadata()["thing_classes"] == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("- a\n", r"holds \['a'\]; expected 'train'"),
        ("train: [\n", "cannot be read as YAML"),
        ("names:\n  0: cat\n  1: dog\n  1: bird\n", "the key '1' is given twice"),
        ("train: &a images/train\nval: *a\n", "aliases"),
        ("names: !!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
        (f"train: 3\n{YOLO_NAMES}", "'train': must be a folder or a list of images, is 3"),
        (f"train: images/nowhere\n{YOLO_NAMES}", "'train': there is no folder or list .*nowhere"),
        (
            f"train: data.yaml\n{YOLO_NAMES}",
            r"data\.yaml: must be a folder of images, or a \.txt file",
        ),
        (f"val: images/train\n{YOLO_NAMES}", "has no split 'train'; valid: val"),
        (f"path: 3\ntrain: a\n{YOLO_NAMES}", "'path' must be a folder's name, is 3"),
        (f"path: nowhere\ntrain: a\n{YOLO_NAMES}", "'path' .* there is no folder .*nowhere"),
        (f"path: ../elsewhere\ntrain: a\n{YOLO_NAMES}", "'path' .*'../elsewhere' is outside"),
        ("train: images/train\n", "gives no class names"),
        ("train: images/train\nnc: 0\n", "'nc' must be a positive integer, is 0"),
        ("train: images/train\nnc: 3\nnames: [a]\n", "'nc' is 3, but 'names' has 1 entries"),
        ("train: images/train\nnames: [a, a]\n", "two classes are called 'a'"),
        (
            "train: images/train\nnames: [yes, no]\n",
            "class 0 needs a name, has True; write it",
        ),
        ("train: images/train\nnames: {0: a, 2: b}\n", r"must be 0, 1, 2, \.\.\. without gaps"),
        ("train: images/train\nnames: cat\n", "'names' must be a list, is 'cat'"),
    ],
)
def test_what_is_wrong_in_the_yaml_file_is_named(
    tmp_path: Path, write_yolo: Writer, config: str, message: str
) -> None:
    root = write_yolo(tmp_path / "set", {"a.png": "0 0.5 0.5 1 1"}, config)
    with pytest.raises(SourceError, match=message) as caught:
        (source_of(root).metadata(), source_of(root).images(Remarks()))
    assert str(root / "data.yaml") in str(caught.value)


def test_missing_and_doubled_files_are_named(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    root = write_yolo(tmp_path, {"a.png": None, "b.png": None})
    with pytest.raises(SourceError, match=r"none of the 2 images .*labels/train/a\.txt\. A set wi"):
        source_of(root).labeled(Remarks())
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 1 1")
    write_image(root / "images" / "train" / "a.jpg")
    with pytest.raises(SourceError, match=r"a\.txt: belongs to two images, .*a\.jpg and .*a\.png"):
        source_of(root).labeled(Remarks())
    (root / "images" / "train" / "a.jpg").unlink()
    for name in "ab":
        (root / "images" / "train" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"boxes of 2 of 2 images .*a\.png: .*damaged.*b\.png: "):
        source_of(root).labeled(Remarks())
    (root / "list.txt").write_text("images/train/a.png\nimages/train/z.png\n")
    (root / "data.yaml").write_text(f"train: list.txt\n{YOLO_NAMES}")
    with pytest.raises(SourceError, match=r"list\.txt, line 2: there is no image .*z\.png"):
        source_of(root).images(Remarks())
    (root / "list.txt").write_text("\n")
    with pytest.raises(SourceError, match=r"list\.txt: no image for the split 'train'"):
        source_of(root).images(Remarks())
