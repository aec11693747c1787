"""Whether two names are of one image file."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dre_ssod.data.records import identify_files
from dre_ssod.data.splits.pools import without_known
from dre_ssod.stores import Piece


def test_a_file_is_the_same_by_every_name_that_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"a")
    os.link(tmp_path / "a.png", tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to("hard.png")
    (tmp_path / "folder").symlink_to(".")
    identify = identify_files()
    names = ("a.png", "hard.png", "soft.png", "folder/a.png", "b.png")
    first, *others, other = (identify(f"{tmp_path}/{name}") for name in names)
    assert others == [first] * 3
    assert other != first
    # Of a member of a tar file, the file is told in the same way.
    pieces = [Piece(f"{tmp_path}/{name}", 512, 3, "x.png") for name in ("a.png", "hard.png")]
    assert len({identify(str(piece)) for piece in pieces}) == 1
    record = {"file_name": f"{tmp_path}/a.png"}
    assert without_known([{"file_name": f"{tmp_path}/hard.png"}, record], [record]) == []


def test_a_file_without_an_inode_or_that_is_not_there_is_told_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    names = [f"{tmp_path}/{name}" for name in ("a.png", "folder/a.png", "gone.png", "nowhere.png")]
    expected = [f"{os.path.realpath(tmp_path)}/{name}" for name in ("a.png", "nowhere.png")]
    assert list(dict.fromkeys(map(identify_files(), names))) == expected
    assert identify_files()("s3://bucket/a.png") == "s3://bucket/a.png"
    (tmp_path / "a.png").touch()
    identify = identify_files()
    monkeypatch.setattr("os.stat", lambda name: SimpleNamespace(st_dev=1, st_ino=0))
    found = [identify(name) for name in names[:2]]
    monkeypatch.undo()
    assert found == [expected[0]] * 2
