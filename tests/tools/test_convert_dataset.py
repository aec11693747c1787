"""The tool, from a dataset's URI and a command line to a dataset, its table and its messages."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import ModuleType

import pytest

from dre_ssod.data.sources.catalog import load_one_labeled
from tests.tiny_dataset import TinyDataset


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio", "cvat"])
def test_what_it_prints_reads_what_it_wrote(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    output = tmp_path / "a b"
    command = [data.labeled, "--test", data.labeled, "--to", form, "--output", str(output)]
    assert tool.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    if form == "labelstudio":
        folder = output / "images"
        assert f"ROOT='{output}', and the project has a source storage" in lines[-1]
        assert f"of the type Local Files with the path {folder}." in lines.pop()
    assert lines[::2] == [
        f"{part}: 8 images with 24 boxes, to be read as" for part in ("train", "test")
    ]
    for line in lines[1::2]:
        [uri] = shlex.split(line)
        records = load_one_labeled(uri)
        assert [len(record["annotations"]) for record in records] == [3] * 8


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio", "cvat"])
def test_the_working_folder_is_a_folder_to_write_to(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tool.run([data.labeled, "--to", form, "--output", "."]) == 0
    [uri] = shlex.split(capsys.readouterr().out.splitlines()[1])
    assert len(load_one_labeled(uri)) == 8


def test_what_is_lost_is_printed(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "voc"
    tool.run([data.labeled, "--to", "voc", "--output", str(source)])
    path = source / "Annotations" / "3.xml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<difficult>0", "<difficult>1", 2), encoding="utf-8")
    uri = f"voc://{source}?split=train"
    capsys.readouterr()
    assert tool.run([uri, "--to", "yolo", "--output", str(tmp_path / "yolo")]) == 0
    assert "  2 'difficult' flags left out" in capsys.readouterr().out


def test_errors_are_explained(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        ([data.unlabeled, "--to", "coco"], "has no classes"),
        (["voc://nowhere?split=train", "--to", "coco"], "no folder 'nowhere'"),
        ([data.labeled, "--to", "yolo", "--images", "reference"], "choose copy or link"),
    ):
        assert tool.run([*command, "--output", str(tmp_path / "out")]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        tool.run([data.labeled, "--to", "pascal", "--output", str(tmp_path / "out")])
    assert "invalid choice: 'pascal'" in capsys.readouterr().err
