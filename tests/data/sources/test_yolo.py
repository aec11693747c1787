"""YOLO datasets: where labels are found, what a line means, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.structures import BoxMode
from PIL import Image

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.yolo import YoloSource
from dre_ssod.errors import SourceError
from tests.data.conftest import YOLO_CONFIG, YOLO_NAMES
from tests.data.written_sets import read_usable

Writer = Callable[..., Path]


def source_of(place: Path, split: str = "train", *classes: str) -> YoloSource:
    return YoloSource(f"yolo://{place}?split={split}", place, split, classes)


def test_fractions_become_pixels_of_the_image(tmp_path: Path, write_yolo: Writer) -> None:
    # The images are 8 x 6 pixels: centre (4, 3), 4 wide, 3 high.
    labels = {"b.png": "1 0.5 0.5 0.5 0.5\n\n0 0.5 0.5 1 1\n", "a.png": "", "c.png": None}
    source = source_of(write_yolo(tmp_path, labels))
    records = source.labeled(Remarks())
    assert [record["image_id"] for record in records] == [
        f"images/train/{name}.png" for name in "abc"
    ]
    assert records[1]["file_name"] == str(tmp_path / "images" / "train" / "b.png")
    assert all((record["height"], record["width"]) == (6, 8) for record in records)
    assert [record["annotations"] for record in (records[0], records[2])] == [[], []]
    mode = {"bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
    assert records[1]["annotations"] == [
        {"bbox": [2.0, 1.5, 6.0, 4.5], "category_id": 1, **mode},
        {"bbox": [0.0, 0.0, 8.0, 6.0], "category_id": 0, **mode},
    ]
    assert source.metadata() == {"thing_classes": ["cat", "dog"], "evaluator_type": "coco"}


def test_the_size_is_that_of_the_turned_image(tmp_path: Path, write_yolo: Writer) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 1 1"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(root / "images" / "train" / "a.png", exif=exif)
    remarks = Remarks()
    record = source_of(root).labeled(remarks)[0]
    assert remarks.items == {"exif-rotation": [f"{record['file_name']}: orientation 6"]}
    assert (record["height"], record["width"]) == (8, 6)
    assert record["annotations"][0]["bbox"] == [0.0, 0.0, 6.0, 8.0]


def test_of_a_polygon_the_box_around_it_is_taken(tmp_path: Path, write_yolo: Writer) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.25 0.5 0.5 0.25 0.75 1\n1 0.5 0.5 0.5 0.5"})
    boxes = [item["bbox"] for item in source_of(root).labeled(Remarks())[0]["annotations"]]
    assert boxes == [[2.0, 1.5, 6.0, 6.0], [2.0, 1.5, 6.0, 4.5]]


def test_key_points_are_passed_over(tmp_path: Path, write_yolo: Writer) -> None:
    # The points may be anywhere, and their number would make the line a polygon.
    line = "0 0.5 0.5 0.5 0.5 1.5 0.1 2 0 0 0\n"
    root = write_yolo(tmp_path, {"a.png": line}, YOLO_CONFIG + "kpt_shape: [2, 3]\n")
    assert source_of(root).labeled(Remarks())[0]["annotations"][0]["bbox"] == [2.0, 1.5, 6.0, 4.5]
    (root / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(SourceError, match=r"a\.txt, line 1: has 5 numbers; .* has 11 \(see"):
        source_of(root).labeled(Remarks())
    (root / "data.yaml").write_text(YOLO_CONFIG + "kpt_shape: 17\n")
    with pytest.raises(SourceError, match=r"'kpt_shape' must be \[points, 2 or 3\], is 17"):
        source_of(root).labeled(Remarks())


@pytest.mark.parametrize(
    ("line", "is_named"),
    [
        # Key points in the box of 0.4 x 0.6 around (0.5, 0.4): two, three with one not seen.
        ("0 0.5 0.4 0.4 0.6 0.35 0.15 0.65 0.6", True),
        ("0 0.5 0.4 0.4 0.6 0.35 0.15 0 0 0.65 0.6", True),
        # The same with a visibility each.
        ("0 0.5 0.4 0.4 0.6 0.35 0.15 1 0.65 0.6 1", True),
        # One is outside; they fill a corner; a small polygon in a large box; a polygon of one more.
        ("0 0.5 0.4 0.4 0.6 0.35 0.15 0.75 0.6", False),
        ("0 0.5 0.4 0.4 0.6 0.35 0.15 0.4 0.2", False),
        ("0 0.5 0.5 0.52 0.5 0.52 0.53 0.5 0.53", False),
        ("0 0.5 0.4 0.4 0.6 0.35 0.15", False),
    ],
)
def test_lines_that_read_as_a_box_with_key_points_are_named(
    tmp_path: Path, write_yolo: Writer, line: str, is_named: bool
) -> None:
    root, remarks = write_yolo(tmp_path, {"a.png": line}), Remarks()
    source_of(root).labeled(remarks)
    where = f"{root / 'labels' / 'train' / 'a.txt'}, line 1"
    assert remarks.items == ({"pose-line": [where]} if is_named else {})


def test_boxes_without_area_are_left_out(tmp_path: Path, write_yolo: Writer) -> None:
    lines = "0 0.5 0.5 0 0.5\n0 0.5 0.5 0.5 0\n1 0.2 0.2 0.2 0.9 0.2 0.5\n1 0.5 0.5 0.5 0.5\n"
    records, remarks = read_usable(source_of(write_yolo(tmp_path, {"a.png": lines, "b.png": ""})))
    assert len(records[0]["annotations"]) == 1
    assert records[0]["dropped_boxes"][0] == [4.0, 1.5, 4.0, 4.5]
    assert len(remarks.pop("empty-box")) == 3
    assert not remarks


HAIR = [
    ("0 0.9 0.5 0.2000001 0.5", None, [6.4, 1.5, 8.0, 4.5]),
    ("0 0.5 0.5002812 0.5 1.0004374", "cut-box", [2.0, 0.000375, 6.0, 6.0]),
    ("0 0 0 0.5 -0.0011254 1.0001915 1 0.0032 1", "cut-box", [0.0, 0.0, 8.0, 6.0]),
    ("0 -0.01 0.5 0.5 1.01", "cut-box", [0.0, 0.0, 1.92, 6.0]),
]


@pytest.mark.parametrize(("line", "kind", "box"), HAIR)
def test_what_a_program_draws_a_hair_beyond_the_image_is_cut(
    tmp_path: Path, write_yolo: Writer, line: str, kind: str | None, box: list[float]
) -> None:
    root = write_yolo(tmp_path, {"a.png": f"1 0.5 0.5 0.5 0.5\n{line}\n"})
    records, remarks = read_usable(source_of(root))
    assert records[0]["annotations"][1]["bbox"] == pytest.approx(box, abs=1e-5)
    where = f"{root / 'labels' / 'train' / 'a.txt'}, line 2"
    assert remarks == ({kind: [where]} if kind else {})


# What a label file is called, and where it lies.
LOST = {
    "upper case": "labels/train/b.TXT",
    "the image's extension": "labels/train/b.jpg.txt",
    "beside the image": "images/train/b.txt",
    "a folder too high": "labels/b.txt",
}


@pytest.mark.parametrize("place", LOST.values(), ids=LOST)
def test_label_files_that_are_nearly_found_are_named(
    tmp_path: Path, write_yolo: Writer, write_image: Writer, place: str
) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 0.5 0.5"})
    image = write_image(root / "images" / "train" / "b.jpg")
    lost = root / place
    lost.write_text("1 0.5 0.5 0.5 0.5")
    records, remarks = read_usable(source_of(root))
    expected = root / "labels" / "train" / "b.txt"
    assert [len(record["annotations"]) for record in records] == [1, 0]
    assert remarks == {
        "lost-label": [f"{lost}: should be {expected}"],
        "no-label-file": [f"{image}: no {expected}"],
    }
    (root / "labels" / "train" / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"none of the 2 images .*; is .*b.*meant\? Rename such"):
        read_usable(source_of(root))


def test_accents_may_be_written_in_two_ways(
    tmp_path: Path, write_yolo: Writer, write_image: Writer
) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 0.5 0.5"})
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_image(root / "images" / "train" / f"{composed}.png")
    lost = root / "labels" / "train" / f"{decomposed}.txt"
    lost.write_text("1 0.5 0.5 0.5 0.5")
    if (root / "labels" / "train" / f"{composed}.txt").exists():
        pytest.skip("this file system takes both for one name")
    _, remarks = read_usable(source_of(root))
    assert remarks["lost-label"][0].startswith(f"{lost}: should be ")


def test_an_image_that_is_simply_empty_is_counted(tmp_path: Path, write_yolo: Writer) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 0.5 0.5", "b.png": None, "c.png": ""})
    _, remarks = read_usable(source_of(root))
    assert list(remarks) == ["no-label-file"]
    assert "b.png" in remarks["no-label-file"][0]


def test_hidden_copies_are_no_data(tmp_path: Path, write_yolo: Writer, write_image: Writer) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 0.5 0.5"}, config=None)
    (root / "animals.yaml").write_text(YOLO_CONFIG)
    for name in ("._animals.yaml", "labels/train/._a.txt", "images/train/._a.png"):
        (root / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        write_image(root / "images" / "train" / folder / "a-checkpoint.png")
    records, remarks = read_usable(source_of(root))
    assert [record["image_id"] for record in records] == ["images/train/a.png"]
    hidden = ("._a.png", ".ipynb_checkpoints", "@eaDir", "__MACOSX")
    assert remarks == {"hidden-file": [f"{root}/images/train/{name}" for name in hidden]}


def test_windows_paths_are_taken_in_lists_and_refused_in_the_yaml_file(
    tmp_path: Path, write_yolo: Writer
) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 0.5 0.5"})
    (root / "list.txt").write_text(".\\images\\train\\a.png\r\n")
    (root / "data.yaml").write_text(f"train: list.txt\nval: .\\images\\train\n{YOLO_NAMES}")
    assert [r["image_id"] for r in source_of(root).images(Remarks())] == ["images/train/a.png"]
    with pytest.raises(SourceError, match=r"'val': '\.\\\\images\\\\train' has backslashes"):
        source_of(root, "val").images(Remarks())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.5 0.5", "the class must be an integer from 0 to 1, is 2"),
        ("-1 0.5 0.5 0.5 0.5", "the class must be an integer from 0 to 1, is -1"),
        ("0.5 0.5 0.5 0.5 0.5", "the class must be an integer"),
        ("cat 0.5 0.5 0.5 0.5", "must be a finite number, is 'cat'"),
        ("0 nan 0.5 0.5 0.5", "must be a finite number, is 'nan'"),
        ("0 0.5 inf 0.5 0.5", "must be a finite number, is 'inf'"),
        ("0 0.5 0.5 0_1 0.5", "must be a finite number, is '0_1'"),
        ("0 1.2 0.5 0.5 0.5", r"1\.2 is no fraction of the image's size in \[0, 1\]"),
        ("0 0.5 0.5 -0.5 0.5", r"-0\.5 is no fraction"),
        ("0 0.1 0.1 0.5 0.5 0.2 1.5", r"1\.5 is no fraction"),
        ("0 0.5 0.5 0.5", "has 4 numbers; a box has 5"),
        ("0 0.5 0.5 0.5 0.5 0.9", "has 6 numbers; a box has 5 .* without a score"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers"),
    ],
)
def test_what_is_wrong_in_a_line_is_named_with_file_and_number(
    tmp_path: Path, write_yolo: Writer, line: str, message: str
) -> None:
    root = write_yolo(tmp_path, {"a.png": f"0 0.5 0.5 0.5 0.5\n\n{line}\n"})
    with pytest.raises(SourceError, match=message) as caught:
        source_of(root).labeled(Remarks())
    assert f"{root / 'labels' / 'train' / 'a.txt'}, line 3: " in str(caught.value)
