"""The tool, from sources to a file that trains as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import train_net
from dre_ssod.errors import ConfigError
from tests.tiny_dataset import TinyDataset

# Shortened alone.
MOMENT = """
    SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SSOD.BURN_IN_ITERS 1 TEST.EVAL_PERIOD 0
    INPUT.MIN_SIZE_TRAIN (64,64) INPUT.MIN_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0
"""


def arguments(data: TinyDataset, output: Path) -> list[str]:
    words = ["--labeled", data.labeled, "--unlabeled", data.unlabeled, "--test", data.labeled]
    return [*words, "--device", "cpu", "--output", str(output)]


def test_what_is_written_trains(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "mine.yaml"
    assert tool.run(arguments(data, file)) == 0
    shown = capsys.readouterr().out
    assert file.read_text(encoding="utf-8") in shown
    assert f"python train_net.py --config-file {file}" in shown
    run = tmp_path / "run"
    words = ["--config-file", str(file), *MOMENT.split(), "OUTPUT_DIR", str(run)]
    assert train_net.run(words) == 0
    metrics = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    last = {key: value for line in metrics for key, value in line.items()}
    assert "teacher/bbox/AP" in last
    assert "loss_box_reg_unsup" in last


def test_nothing_is_overwritten_and_no_labels_are_told(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert tool.run(arguments(data, file)) == 2
    assert "is there already" in " ".join(capsys.readouterr().err.split())
    assert file.read_text() == "mine"
    words = ["--labeled", data.labeled, "--output", str(tmp_path / "other.yaml")]
    assert tool.run(words) == 2
    assert "there are no unlabeled images" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other.yaml").exists()


def test_a_config_that_is_refused_does_not_stay(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cfg: object, world_size: int) -> None:
        raise ConfigError("a key cannot be used")

    with monkeypatch.context() as patched:
        patched.setattr("dre_ssod.config.checks.check_config", refuse)
        assert tool.run(arguments(data, tmp_path / "mine.yaml")) == 2
    assert not (tmp_path / "mine.yaml").exists()
