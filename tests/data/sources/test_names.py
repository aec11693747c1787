from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dre_ssod.data.sources.catalog import class_names
from dre_ssod.data.sources.names import check_class_name, looks_like_another, show_names
from dre_ssod.errors import SourceError, printable

Writer = Callable[..., Path]
GOOD = ["cat", "b & <c>", "é,ü %", "日本", "👨\u200d👩\u200d👧", "می\u200cخواهم", "7"]


@pytest.mark.parametrize("name", GOOD)
def test_names_of_all_languages_are_taken_as_they_are(name: str) -> None:
    assert check_class_name(name, "here") == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "here needs a name, has None$"),
        ("", "here needs a name, has ''$"),
        (" \t", "needs a name"),
        (True, "has True; write it in quotes"),
        ("a\x1b[31mb", r"the control character '\\x1b'; rename it"),
        ("a\nb", r"the control character '\\n'"),
        ("a\x9bb", r"the control character '\\x9b'"),
        ("a\u2028b", r"the control character '\\u2028'"),
        ("a\u202eb", r"the control character '\\u202e'"),
        ("a\ud800", r"the control character '\\ud800'"),
    ],
)
def test_what_is_no_name_is_refused(name: object, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        check_class_name(name, "here")


@pytest.mark.parametrize("name", ["cat ", " cat", "c\u200bat", "c\xa0at", "cat\ufeff"])
def test_names_that_look_like_another_are_told_apart_in_quotes(name: str) -> None:
    assert looks_like_another(name)
    assert show_names([name, "cat"]) == f"{name!r}, 'cat'"
    assert not looks_like_another("big cat")


def test_a_name_that_steers_a_terminal_is_refused_in_every_layout(
    tmp_path: Path, write_coco: Writer, write_voc: Writer, write_image: Writer
) -> None:
    name = "cat\u202egod"
    path = write_coco(tmp_path / "a.json", {1: []}, {1: name})
    root = write_voc(tmp_path / "voc", {"a": [(name, (1, 1, 4, 4), 0)]})
    write_image(tmp_path / "yolo" / "images" / "train" / "a.png")
    (tmp_path / "yolo" / "data.yaml").write_text(f'train: images/train\nnames: ["{name}"]\n')
    for uri in (
        f"coco://{path}?images={tmp_path}",
        f"voc://{root}?split=train",
        f"voc://{root}?split=train&classes=cat%E2%80%AEgod",
        f"yolo://{tmp_path / 'yolo'}?split=train",
    ):
        with pytest.raises(SourceError, match=r"the control character '\\u202e'"):
            class_names([uri])


def test_text_for_a_terminal_keeps_what_is_shown() -> None:
    assert printable("é 日本 'a'\n\tb") == "é 日本 'a'\n\tb"
    assert printable("a\x1b[2J\r\x9b\u202e") == "a\\x1b[2J\\r\\x9b\\u202e"
