"""How COCO files name images: paths of other systems, hidden ones, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dre_ssod.data.remarks import Remarks
from dre_ssod.errors import SourceError
from tests.data.sources.test_coco import Writer, source_of


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("sub\\1.png", "images/sub/1.png"),
        ("sub\\x/..\\1.png", "images/sub/1.png"),
        ("..\\images\\1.png", "images/1.png"),
        (".\\1.png", "images/1.png"),
    ],
)
def test_paths_of_windows_are_taken(
    tmp_path: Path, write_coco: Writer, name: str, place: str
) -> None:
    entry = {"id": 1, "file_name": name, "height": 6, "width": 8}
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced={"images": [entry]})
    remarks = Remarks()
    assert source_of(path).images(remarks)[0]["file_name"] == str(tmp_path / place)
    assert remarks.items == {"windows-path": [f"{path}: image 1: {name!r}"]}


def test_a_hidden_image_that_is_listed_counts_and_is_named(
    tmp_path: Path, write_coco: Writer
) -> None:
    """Programs that list a folder without looking put Jupyter's copies into the file."""
    names = ("1.png", "./sub/../2.png", "sub/.ipynb_checkpoints/1-checkpoint.png", "._1.png")
    entries = [
        {"id": number, "file_name": name, "height": 6, "width": 8}
        for number, name in enumerate(names, start=1)
    ]
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced={"images": entries})
    remarks = Remarks()
    assert len(source_of(path).images(remarks)) == 4
    hidden = [f"{path}: image {number}: {names[number - 1]!r}" for number in (3, 4)]
    assert remarks.items == {"hidden-image": hidden}


def test_a_file_whose_name_has_a_backslash_is_itself(tmp_path: Path, write_coco: Writer) -> None:
    entry = {"id": 1, "file_name": "a\\1.png", "height": 6, "width": 8}
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced={"images": [entry]})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a\\1.png").touch()
    assert source_of(path).images(Remarks())[0]["file_name"] == str(
        tmp_path / "images" / "a\\1.png"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("C:\\data\\1.png", r"is a path of a Windows machine \(backslashes and a drive\)"),
        ("\\\\server\\share\\1.png", "is a path of a Windows machine"),
        ("..\\secret\\1.png", "'../secret/1.png' is outside"),
    ],
)
def test_paths_of_other_machines_are_refused(
    tmp_path: Path, write_coco: Writer, name: str, message: str
) -> None:
    entry = {"id": 1, "file_name": name, "height": 6, "width": 8}
    path = write_coco(tmp_path / "a.json", {1: []}, {1: "cat"}, replaced={"images": [entry]})
    with pytest.raises(SourceError, match=message):
        source_of(path).images(Remarks())
