"""The command line; what the benchmarks measure is tested in tests/benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from dre_ssod.launch.program import USER_ERROR_CODE
from tests.tiny_dataset import TinyDataset, tiny_run


def test_evaluation_without_a_config_writes_its_report(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    words = ["eval", "--images", "20", "--rounds", "2", "--json", str(path)]
    assert tool.run(words) == 0
    report = json.loads(path.read_text())
    assert report["settings"]["images"] == 20
    assert report["settings"]["rounds"] == 2
    assert capsys.readouterr().out.startswith("benchmark eval\n")


def test_evaluation_and_inference_of_a_config(
    tool: ModuleType, data: TinyDataset, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(tiny_run(data, tmp_path / "run").dump())
    options = ["--config-file", str(config), "--images", "3", "--rounds", "1"]
    path = tmp_path / "report.json"
    assert tool.run(["eval", *options, "--json", str(path)]) == 0
    assert json.loads(path.read_text())["settings"]["objects"] == 9
    words = ["--batch", "2", "--json", str(path), "MODEL.CHANNELS_LAST", "True"]
    assert tool.run(["inference", *options, *words]) == 0
    settings = json.loads(path.read_text())["settings"]
    assert (settings["images"], settings["batch"], settings["channels_last"]) == (3, 2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["eval", "inference", "step"])
def test_a_key_without_effect_is_refused(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert tool.run([what, "TEST.VARIANCE_VOTING.SIGMA_T", "0.2"]) == USER_ERROR_CODE
    assert "ENABLED is False" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inference", "--batch", "0"], "0 is less than 1"),
        (["eval", "--images", "-3"], "-3 is less than 1"),
        (["step", "--rounds", "many"], "invalid count value"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.run(words)
    assert message in capsys.readouterr().err
