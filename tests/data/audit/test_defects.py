"""Each defect of a file or box, planted in a sound set, is found and named, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dre_ssod.data.audit.audit import audit
from dre_ssod.data.kinds import KINDS
from tests.planted_sets import Planted, by_kind, draw, write_planted


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return write_planted(tmp_path)


def test_files_that_are_lost(planted: Planted) -> None:
    planted.image("labeled/1.jpg").unlink()
    planted.image("unlabeled/1.jpg").write_bytes(b"")
    planted.image("unlabeled/2.jpg").write_text("no image")
    path = planted.image("test/3.jpg")
    path.write_bytes(path.read_bytes()[:-100])
    found = planted.found()
    assert list(found) == [
        "missing-file: labeled 1",
        "empty-file: unlabeled 1",
        "unreadable-file: unlabeled 1",
        "truncated-file: test 1",
    ]
    assert found["missing-file: labeled 1"] == [str(planted.image("labeled/1.jpg"))]
    assert found["empty-file: unlabeled 1"] == [str(planted.image("unlabeled/1.jpg"))]
    assert found["truncated-file: test 1"][0].startswith(f"{path}: ")


def test_damage_inside_a_file_is_found_by_decoding(planted: Planted) -> None:
    path = planted.image("unlabeled/1.png")
    draw(path, seed=77)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert planted.found("header") == {}
    assert list(planted.found("full")) == ["unreadable-file: unlabeled 1"]


def test_bytes_behind_the_end(planted: Planted) -> None:
    path = planted.image("unlabeled/1.jpg")
    path.write_bytes(path.read_bytes() + b"more")
    report = audit(planted.names)
    assert by_kind(report) == {"odd-end: unlabeled 1": [str(path)]}
    assert not report.failed


def test_copies_in_hidden_folders(planted: Planted) -> None:
    """Beside the images they are no data; where a list names them, they are."""
    copy = ".ipynb_checkpoints/1-checkpoint.jpg"
    draw(planted.image(f"unlabeled/{copy}"), seed=98)
    folder = planted.image("unlabeled/.ipynb_checkpoints")
    draw(planted.image(f"test/{copy}"), seed=99)
    entry = {"id": 4, "file_name": copy, "width": 40, "height": 30}
    planted.change("test", lambda content: content["images"].append(entry))
    box = {"id": 99, "image_id": 4, "category_id": 1, "bbox": [2, 3, 4, 9]}
    planted.change("test", lambda content: content["annotations"].append(box))
    report = audit(planted.names)
    assert by_kind(report) == {
        "hidden-image: test 1": [f"{planted.root}/test.json: image 4: {copy!r}"],
        "hidden-file: unlabeled 1": [str(folder)],
    }
    assert [summary.images for summary in report.summaries] == [3, 3, 4]
    assert not report.failed


def test_a_wrong_size(planted: Planted) -> None:
    planted.change("labeled", lambda content: content["images"][0].update(width=41))
    assert planted.found() == {
        "size-mismatch: labeled 1": [
            f"{planted.image('labeled/1.jpg')}: annotation 41 x 30, file 40 x 30"
        ]
    }


def test_images_too_thin_and_files_of_several_pictures(planted: Planted) -> None:
    thin, pages = planted.image("unlabeled/thin.png"), planted.image("test/1.jpg")
    Image.new("RGB", (3000, 1)).save(thin)
    pages.unlink()
    pictures = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    pages = pages.with_suffix(".tif")
    pictures[0].save(pages, save_all=True, append_images=pictures[1:])
    planted.change("test", lambda content: content["images"][0].update(file_name=pages.name))
    found = planted.found()
    assert found == {
        "thin-image: unlabeled 1": [
            f"{thin}: 3000 x 1 pixels are too long and thin: with a longest side of 1333, less "
            "than half a pixel is left of the other; cut the image into pieces or remove it"
        ],
        "several-pictures: test 1": [str(pages)],
    }
    report = audit(planted.names, longest={"unlabeled": 1500, "test": 100})
    assert list(by_kind(report)) == ["several-pictures: test 1"]


def test_a_turned_image_is_named_once_where_its_size_is_read(
    tmp_path: Path, write_yolo: Callable[..., Path]
) -> None:
    root = write_yolo(tmp_path, {"a.png": "0 0.5 0.5 1 1"})
    path, exif = root / "images" / "train" / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(path, exif=exif)
    report = audit({"labeled": [f"yolo://{root}?split=train"]})
    assert by_kind(report)["exif-rotation: labeled 1"] == [f"{path}: orientation 6"]


def test_a_turned_image_is_compared_as_training_sees_it(planted: Planted) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = planted.image("labeled/1.jpg")
    draw(path, seed=50, exif=exif)
    draw(planted.image("unlabeled/1.jpg"), seed=51, exif=exif)
    rotated = {"exif-rotation: labeled 1": [f"{path}: orientation 6"]}
    note = "annotation 40 x 30, before EXIF orientation 6 turns it, file 30 x 40"
    assert planted.found() == {"size-mismatch: labeled 1": [f"{path}: {note}"], **rotated}
    planted.change("labeled", lambda content: content["images"][0].update(width=30, height=40))
    report = audit(planted.names)
    assert by_kind(report) == rotated
    assert [summary.rotated for summary in report.summaries] == [1, 1, 0]


@pytest.mark.parametrize(
    ("box", "kind", "shown"),
    [
        ([5, 5, 0, 4], "empty-box", "[5, 5, 5, 9]"),
        ([5, 5, 3, -1], "empty-box", "[5, 5, 8, 4]"),
        ([5, float("nan"), 3, 4], "nan-box", "[5, nan, 8, nan]"),
        ([40, 2, 3, 4], "box-off-image", "[40, 2, 43, 6]"),
        ([-5, 2, 5, 4], "box-off-image", "[-5, 2, 0, 6]"),
        ([30, 2, 12.5, 4], "box-outside", "[30, 2, 42.5, 6] by 2.5 px"),
        ([-1.25, 2, 9.25, 4], "box-outside", "[-1.25, 2, 8, 6] by 1.2 px"),
    ],
)
def test_boxes_that_cannot_be_right(
    planted: Planted, box: list[float], kind: str, shown: str
) -> None:
    planted.add_box(box)
    item = f"{planted.image('labeled/1.jpg')} {shown}"
    report = audit(planted.names)
    assert by_kind(report) == {f"{kind}: labeled 1": [item]}
    assert report.failed == (KINDS[kind].severity == "error")
    kept = kind == "box-outside"
    assert (report.summaries[0].boxes, report.summaries[0].dropped_boxes) == (3 + kept, 1 - kept)


def test_rounding_over_the_edge_is_no_finding(planted: Planted) -> None:
    planted.add_box([-1, -1, 42, 32])
    assert planted.found() == {}


def test_what_people_meet_is_found_before_any_training(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    """Faults of files by other programs, in one COCO file and one YOLO folder."""
    names = [write_image(tmp_path / "images" / f"{number}.png", (60, 40)).name for number in (1, 2)]
    (tmp_path / "images" / "._1.png").write_bytes(b"macOS")
    boxes: list[tuple[list[float], dict[str, Any]]] = [
        ([5, 5, 20, 20], {}),
        ([5, 5, 20, 20], {}),
        ([5, 5, 0, 20], {}),
        ([0.1, 0.1, 0.4, 0.5], {}),
        ([5, 5, 0.5, 20], {"area": 0}),
        ([5, 9, 20, 20], {"segmentation": [[5, 9, 25, 29]]}),
        *(([number / 4, 2, 20, 20], {"iscrowd": int(number < 20)}) for number in range(130)),
    ]
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 60, "height": 40}
            for number, name in enumerate(names)
        ],
        "annotations": [
            {"id": number, "image_id": 0, "category_id": 0, "bbox": box, **changes}
            for number, (box, changes) in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8")
    for name, label in (("a", "a.txt"), ("b", "b.TXT")):
        write_image(tmp_path / "yolo" / "images" / "val" / f"{name}.png")
        path = tmp_path / "yolo" / "labels" / "val" / label
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0 0.5 0.5 0.5 0.5", encoding="utf-8")
    (tmp_path / "yolo" / "data.yaml").write_text("val: images/val\nnames: [cat]")
    sets = [
        f"coco://{tmp_path}/a.json?images={tmp_path}/images",
        f"yolo://{tmp_path}/yolo?split=val",
    ]
    report = audit({"test": sets, "unlabeled": [f"folder://{tmp_path}/images"]})
    assert report.failed
    # The images are all gray.
    assert {
        (finding.kind, finding.sets[0]): len(finding.items)
        for finding in report.findings
        if finding.kind not in ("leakage", "duplicate-file")
    } == {
        ("zero-id", "test 1"): 1,
        ("duplicate-box", "test 1"): 1,
        ("empty-box", "test 1"): 1,
        ("fraction-box", "test 1"): 1,
        ("tiny-box", "test 1"): 1,
        ("placeholder-area", "test 1"): 1,
        ("bad-mask", "test 1"): 1,
        ("many-crowds", "test 1"): 1,
        ("many-empty", "test 1"): 1,
        ("crowded-image", "test 1"): 1,
        ("lost-label", "test 2"): 1,
        ("no-label-file", "test 2"): 1,
        ("hidden-file", "unlabeled 1"): 1,
        ("known-image", "unlabeled 1"): 1,
    }
