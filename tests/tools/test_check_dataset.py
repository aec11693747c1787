"""The tool on real files: exit codes, JSON, config, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from PIL import Image

from dre_ssod.data.kinds import KINDS
from tests import ROOT
from tests.tiny_dataset import TinyDataset, write_tiny_dataset

TOOL = ROOT / "tools" / "check_dataset.py"


@pytest.fixture
def data(tmp_path: Path) -> TinyDataset:
    return write_tiny_dataset(tmp_path)


def test_a_sound_set_passes(
    tool: ModuleType, data: TinyDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--labeled", data.labeled, "--unlabeled", data.unlabeled]
    assert tool.run([*arguments, "--level", "full", "--workers", "1"]) == 0
    output = capsys.readouterr().out
    assert "Nothing to complain about." in output
    assert "12 files checked at level full" in output


def test_an_error_fails_and_stands_in_the_json(
    tool: ModuleType, data: TinyDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    report = data.root / "report.json"
    (data.root / "more" / "u0.png").write_bytes(b"")
    arguments = ["--labeled", data.labeled, "--unlabeled", data.unlabeled, "--json", str(report)]
    assert tool.run(arguments) == 1
    assert "ERROR empty-file: 1 in unlabeled 1" in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert content["failed"] is True
    (finding,) = content["findings"]
    assert finding["kind"] == "empty-file"
    assert finding["items"] == [str(data.root / "more" / "u0.png")]


def test_a_warning_passes(
    tool: ModuleType, data: TinyDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("u0.png", "u1.png"):
        (data.root / "more" / name).write_bytes((data.root / "more" / "u2.png").read_bytes())
    assert tool.run(["--unlabeled", data.unlabeled, "--examples", "0"]) == 0
    assert "WARNING duplicate-file: 1 in unlabeled 1" in capsys.readouterr().out


def test_the_sets_of_a_config(
    tool: ModuleType, data: TinyDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    config = data.root / "config.yaml"
    datasets = {"TRAIN": [data.labeled], "UNLABELED": [data.unlabeled], "TEST": [data.labeled]}
    config.write_text(yaml.safe_dump({"DATASETS": datasets}))
    assert tool.run(["--config-file", str(config)]) == 1
    assert "ERROR leakage: 8 in labeled 1, test 1" in capsys.readouterr().out
    assert tool.run(["--config-file", str(config), "DATASETS.TEST", "()"]) == 0
    # Labeled images that are used both ways stay where they are; those that are tested on do not.
    both = ["--config-file", str(config), "DATASETS.UNLABELED", str((data.labeled,))]
    both += ["DATASETS.UNLABELED_OVERLAP", "True", "DATASETS.TEST"]
    capsys.readouterr()
    assert tool.run([*both, "()"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing to complain about." in printed
    assert tool.run([*both, str((data.labeled,))]) == 1
    assert "known-image" in capsys.readouterr().out
    # Images that the run itself would refuse, at the size that it has.
    Image.new("RGB", (40, 1)).save(data.root / "more" / "thin.png")
    plain = ["--config-file", str(config), "DATASETS.TEST", "()"]
    assert tool.run(plain) == 0
    assert tool.run([*plain, "INPUT.MAX_SIZE_TRAIN", "15"]) == 1
    assert "ERROR thin-image: 1 in unlabeled 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no set to check"),
        (["--config-file", "gone.yaml"], "there is no such file"),
        (["DATASETS.TRIAN", "('a',)"], "DATASETS.TRAIN"),
        (["--labeled", "a", "--config-file", "b.yaml"], "not by both"),
        (["--labeled", "a", "--workers", "0"], "--workers: 0 is less than 1"),
        (["--labeled", "a", "--level", "deep"], "invalid choice"),
        (["--labeled", "a", "--json", str(TOOL)], "exists;"),
        (["--labeled", "a", "--json", "no/such/folder/a.json"], "no folder"),
    ],
)
def test_a_wrong_command_is_explained(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = tool.run(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_as_such(
    tool: ModuleType,
    data: TinyDataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("os.fsync", fail)
    words = ["--labeled", data.labeled, "--json", str(data.root / "report.json")]
    assert tool.run(words) == 2
    output = capsys.readouterr()
    assert "Nothing to complain about." in output.out
    said = " ".join(output.err.split())
    assert f"{data.root}/report.json cannot be written: the disk is gone" in said


def test_the_tool_and_the_manual_explain_every_finding(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.run(["--explain"]) == 0
    shown = capsys.readouterr().out
    manual = (ROOT / "docs" / "check_dataset.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"{kind.severity:<10}  {name} " in shown
        assert f"| `{name}` | {kind.severity} | {kind.meaning} | {kind.advice} |" in manual
