from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image


def test_a_picture_and_a_table(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ap in (("one", 12.345), ("two", 23.456)):
        (tmp_path / name).mkdir()
        line = {"iteration": 9, "teacher/bbox/AP": ap, "loss_cls": 0.5}
        (tmp_path / name / "metrics.json").write_text(json.dumps(line) + "\n")
    folders = [str(tmp_path / name) for name in ("one", "two")]
    assert tool.run([*folders, "--output", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "runs.md").read_text()
    assert table in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2][:4] == ["one", "teacher", "10", "12.35"]
    assert rows[3][3:6] == ["23.46", "", ""]
    with Image.open(tmp_path / "out" / "runs.png") as picture:
        assert len(picture.convert("L").getcolors() or []) > 20
    assert tool.run([*folders, "--output", str(tmp_path / "out"), "--found", "1"]) == 2
    assert "one/run.json: there is no such file" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "found.jpg").exists()


def test_runs_that_cannot_be_compared_are_named(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two", "three", "four"):
        (tmp_path / name).mkdir()
        line = {"iteration": 9, "teacher/bbox/AP": 12.0}
        (tmp_path / name / "metrics.json").write_text(json.dumps(line) + "\n")
    for name in ("one", "two"):
        row = {"role": "test", "name": f"set_{name}", "content": name}
        record = {"runs": [{"kind": "training", "datasets": [row]}]}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    (tmp_path / "three" / "run.json").write_text("{")
    folders = [str(tmp_path / name) for name in ("one", "two", "three", "four")]
    assert tool.run([*folders, "--output", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "runs.md").read_text()
    assert written in capsys.readouterr().out
    *_, different, unknown = filter(None, written.splitlines())
    assert different.startswith("Notice: one and two were tested on different data: their AP")
    assert "one: set_one; two: set_two" in different
    assert unknown.startswith("Notice: three: its data could not be compared")
    assert tool.run([*folders[1:], "--output", str(tmp_path / "other")]) == 0
    assert "different data" not in capsys.readouterr().out


def test_what_is_no_run_is_refused_in_words(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.run([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "name the OUTPUT_DIR of a run" in " ".join(capsys.readouterr().err.split())
