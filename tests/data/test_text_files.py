"""Text files of others: what is no text, never ends, or is nested beyond all measure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.data.text_files import is_integer, is_number, read_json, read_lines, read_text
from dre_ssod.errors import SourceError

Writer = Callable[..., Path]


def test_byte_order_marks_and_line_ends_of_all_systems(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa9\r\nb\rc\n")
    assert read_text(path) == "é\nb\nc\n"
    assert read_lines(path) == ["é", "b", "c", ""]
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, NaN]}')
    assert read_json(path)["a"][0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "cannot be read: 'utf-8' codec"),
        (b"[" * 100_000, "cannot be read: it is nested too deep"),
        (b"9" * 5000, "cannot be read: Exceeds the limit"),
        (b"[1", "not valid JSON: "),
        (b"", "not valid JSON: "),
    ],
)
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"^{path}: {message}"):
        read_json(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (Path.mkdir, "it is no regular file"),
        (lambda path: path.symlink_to(path), "cannot be read: "),
        (lambda path: None, "cannot be read: .*No such file"),
    ],
)
def test_a_file_that_never_ends_is_not_waited_for(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(SourceError, match=message):
        read_json(path)


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_an_annotation_is_named_in_every_layout(
    tmp_path: Path, write_coco: Writer, write_voc: Writer, write_image: Writer
) -> None:
    coco = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"})
    voc = write_voc(tmp_path / "voc", {"a": [("cat", (1, 1, 4, 4), 0)]})
    write_image(tmp_path / "yolo" / "images" / "train" / "a.png")
    labels = tmp_path / "yolo" / "labels" / "train"
    labels.mkdir(parents=True)
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    for path, uri in (
        (coco, f"coco://{coco}?images={tmp_path}"),
        (voc / "Annotations" / "a.xml", f"voc://{voc}?split=train&classes=cat"),
        (labels / "a.txt", f"yolo://{tmp_path / 'yolo'}?split=train"),
        (tmp_path / "yolo" / "data.yaml", f"yolo://{tmp_path / 'yolo'}?split=train"),
    ):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises(SourceError, match=r"no regular file|is not a file"):
            load_one_labeled(uri)


def test_numbers_of_json() -> None:
    assert [is_integer(value) for value in (1, -1, True, 1.0, "1", None, 2**63)] == [
        *(True, True, False, False, False, False, False)
    ]
    assert [is_number(value) for value in (1, 1.5, float("nan"), True, "1", None, 2**63)] == [
        *(True, True, True, False, False, False, False)
    ]
