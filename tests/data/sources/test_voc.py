from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from detectron2.data.datasets.pascal_voc import load_voc_instances
from hypothesis import given, settings
from hypothesis import strategies as st

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.voc import VocSource
from dre_ssod.errors import SourceError
from tests.data.written_sets import read_usable

Writer = Callable[..., Path]
OBJECTS = {
    "b": [("dog", (1, 1, 8, 6), 0), ("cat", (2, 3, 5, 6), 1)],
    "a": [],
    "c": [("bird", (1.5, 2, 4, 5), 0)],
}


def source_of(root: Path, split: str = "train", *classes: str) -> VocSource:
    return VocSource(f"voc://{root}?split={split}", root, split, classes)


def test_one_based_inclusive_corners_become_continuous(tmp_path: Path, write_voc: Writer) -> None:
    records = source_of(write_voc(tmp_path, OBJECTS)).labeled(Remarks())
    assert [record["image_id"] for record in records] == ["b", "a", "c"]
    assert (records[0]["height"], records[0]["width"]) == (6, 8)
    dog, cat = records[0]["annotations"]
    # (1, 1, 8, 6) inclusive is the whole image of 8 x 6 pixels, hence [0, 8] x [0, 6].
    assert (dog["bbox"], dog["category_id"], dog["difficult"]) == ([0, 0, 8, 6], 2, 0)
    assert (cat["bbox"], cat["category_id"], cat["difficult"]) == ([1, 2, 5, 6], 1, 1)
    assert records[1]["annotations"] == []


@pytest.mark.parametrize(
    ("angle", "first_pixel", "box"),
    [
        # About its center: 4 x 2 becomes 2 x 4; counted from 1 it has 5 x 3 pixels from (1, 1) on.
        ("90.0", 0, [3, 1, 5, 5]),
        ("90.0", 1, [2, 0, 5, 5]),
        ("0.0", 0, [2, 2, 6, 4]),
        ("left", 0, [2, 2, 6, 4]),
    ],
)
def test_a_box_that_cvat_turned_becomes_the_one_around_it(
    tmp_path: Path, write_voc: Writer, angle: str, first_pixel: int, box: list[float]
) -> None:
    root = write_voc(tmp_path, {"a": [("x", (2, 2, 6, 4), 0)]})
    path = root / "Annotations" / "a.xml"
    attribute = f"<attribute><name>rotation</name><value>{angle}</value></attribute>"
    text = path.read_text()
    path.write_text(text.replace("</object>", f"<attributes>{attribute}</attributes></object>"))
    [record] = VocSource("voc://", root, "train", first_pixel=first_pixel).labeled(Remarks())
    assert record["annotations"][0]["bbox"] == pytest.approx(box, abs=1e-6)


def test_records_are_those_of_detectron2(tmp_path: Path, write_voc: Writer) -> None:
    root = write_voc(tmp_path, OBJECTS)
    theirs = load_voc_instances(str(root), "train", ["bird", "cat", "dog"])
    for mine, other in zip(source_of(root).labeled(Remarks()), theirs, strict=True):
        assert mine["file_name"] == other["file_name"].replace(".jpg", ".png")
        for key in ("image_id", "height", "width"):
            assert mine[key] == other[key]
        for item in mine["annotations"]:
            del item["difficult"], item["iscrowd"]
        assert mine["annotations"] == other["annotations"]


def test_every_split_of_a_root_has_the_same_classes(tmp_path: Path, write_voc: Writer) -> None:
    root = write_voc(tmp_path / "VOC2007", OBJECTS, {"train": ["b"], "test": ["a", "c"]})
    for split in ("train", "test"):
        metadata = source_of(root, split).metadata()
        assert metadata == {
            "thing_classes": ["bird", "cat", "dog"],
            "dirname": str(root),
            "split": split,
            "year": 2007,
            "evaluator_type": "coco",
        }


def test_named_classes_set_the_order_and_must_be_complete(
    tmp_path: Path, write_voc: Writer
) -> None:
    root = write_voc(tmp_path, OBJECTS)
    source = source_of(root, "train", "dog", "cat", "bird")
    assert source.metadata()["thing_classes"] == ["dog", "cat", "bird"]
    assert source.labeled(Remarks())[0]["annotations"][0]["category_id"] == 0
    with pytest.raises(SourceError, match=r"b\.xml: unknown class 'cat'; valid: 'dog', 'bird'"):
        source_of(root, "train", "dog", "bird").labeled(Remarks())


def test_a_box_without_area_in_vocs_terms_has_none(tmp_path: Path, write_voc: Writer) -> None:
    objects = {
        "a": [("x", (3, 3, 3, 5), 0), ("x", (3, 3, 4, 5), 1)],
        "b": [("x", (3, 5, 4, 2), 0), ("x", (float("nan"), 1, 4, 2), 0), ("x", (1, 1, 1e39, 9), 0)],
    }
    records, remarks = read_usable(source_of(write_voc(tmp_path, objects)))
    assert [len(record["annotations"]) for record in records] == [1, 0]
    first, second = (record["file_name"] for record in records)
    assert remarks == {
        "nan-box": [f"{second} [nan, 1, 4, 2]", f"{second} [0, 0, 1e+39, 9]"],
        "empty-box": [f"{first} [3, 3, 3, 5]", f"{second} [3, 5, 4, 2]"],
    }


@pytest.mark.parametrize("name", ["._a.xml", "._a.png"])
def test_copies_that_macos_leaves_are_no_annotations_and_no_images(
    tmp_path: Path, write_voc: Writer, name: str
) -> None:
    root = write_voc(tmp_path, OBJECTS)
    folder = "Annotations" if name.endswith("xml") else "JPEGImages"
    (root / folder / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    (root / "ImageSets" / "Main" / "._train.txt").write_bytes(b"\0\5\x16\7 Mac OS X")
    assert source_of(root).classes() == ["bird", "cat", "dog"]
    assert len(source_of(root).labeled(Remarks())) == 3
    with pytest.raises(SourceError, match=r"valid: train$"):
        source_of(root, "test").metadata()


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(
    tmp_path: Path, write_voc: Writer, size: str
) -> None:
    source = source_of(write_voc(tmp_path, {"a": []}, size=size))
    record = source.labeled(Remarks())[0]
    assert (record["height"], record["width"]) == (6, 8)
    (tmp_path / "JPEGImages" / "a.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"a\.xml: gives no image size; nor does .*a\.png"):
        source.labeled(Remarks())


def test_unlabeled_images_need_no_annotations(tmp_path: Path, write_voc: Writer) -> None:
    root = write_voc(tmp_path, OBJECTS)
    for path in (root / "Annotations").iterdir():
        path.write_text("not XML at all")
    assert source_of(root).images(Remarks()) == [
        {"file_name": str(root / "JPEGImages" / f"{name}.png"), "image_id": name} for name in "bac"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as XML"),
        ("<annotation>", "cannot be read as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "cannot be read as XML"),
        ("<annotation><object/></annotation>", "an object needs a name, has ''"),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            "<bndbox/xmin> must be a number, is None",
        ),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>one</xmin></bndbox></object></annotation>",
            "<bndbox/xmin> must be a number, is 'one'",
        ),
        (
            "<annotation><size><height>tall</height></size></annotation>",
            "<size/height> must be a number",
        ),
        (
            "<annotation><size><height>6</height><width>7.5</width></size></annotation>",
            r"<size> must have whole numbers, has 7\.5 x 6",
        ),
        (
            "<annotation><size><height>1_0</height></size></annotation>",
            "<size/height> must be a number, is '1_0'",
        ),
        ("<html/>", "holds no <annotation>"),
    ],
)
def test_what_is_wrong_in_an_annotation_is_named_with_the_file(
    tmp_path: Path, write_voc: Writer, content: str, message: str
) -> None:
    root = write_voc(tmp_path, {"a": []})
    path = root / "Annotations" / "a.xml"
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        source_of(root).labeled(Remarks())
    assert str(path) in str(caught.value)


def test_missing_and_doubled_files_are_named(
    tmp_path: Path, write_voc: Writer, write_image: Writer
) -> None:
    root = write_voc(tmp_path, OBJECTS)
    with pytest.raises(SourceError, match=r"no split 'val': .*val\.txt is missing; valid: train"):
        source_of(root, "val").metadata()
    split = root / "ImageSets" / "Main" / "train.txt"
    for content, message in [
        ("\n", "lists no image"),
        ("a\nb\na\n", "'a' is listed twice"),
        ("a\nz\n", r"no image for 'z', which train\.txt lists"),
    ]:
        split.write_text(content)
        with pytest.raises(SourceError, match=message):
            source_of(root).labeled(Remarks())
    split.write_text("a\n")
    (root / "Annotations" / "a.xml").unlink()
    with pytest.raises(SourceError, match=r"a\.xml: the annotation file is missing"):
        source_of(root).labeled(Remarks())
    write_image(root / "JPEGImages" / "a.jpg")
    with pytest.raises(SourceError, match=r"two images for 'a': a\.jpg and a\.png"):
        source_of(root).labeled(Remarks())


NAMES = st.text("abc <&>é", min_size=1, max_size=6).map(str.strip).filter(bool)
CORNERS = st.tuples(*[st.integers(0, 9)] * 4)
ROOTS = st.dictionaries(
    st.text("abcd09-_", min_size=1, max_size=4).map("i".__add__),
    st.lists(st.tuples(NAMES, CORNERS, st.integers(0, 1)), max_size=3),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(objects=ROOTS)
def test_what_is_written_is_read_back(
    write_voc: Writer, objects: dict[str, list[tuple[str, tuple[int, ...], int]]]
) -> None:
    with TemporaryDirectory() as folder:
        source = source_of(write_voc(Path(folder), objects))
        classes, records = source.classes(), source.labeled(Remarks())
    assert classes == sorted({entry[0] for entries in objects.values() for entry in entries})
    read = {
        record["image_id"]: [
            (classes[item["category_id"]], item["bbox"], item["difficult"])
            for item in record["annotations"]
        ]
        for record in records
    }
    assert read == {
        image_id: [
            (name, [x1 - has_area, y1 - has_area, x2, y2], difficult)
            for name, (x1, y1, x2, y2), difficult in entries
            for has_area in [x1 < x2 and y1 < y2]
        ]
        for image_id, entries in objects.items()
    }
