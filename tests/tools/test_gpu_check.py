"""tools/gpu_check.py: the dry run of a step, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest


def test_a_dry_run_of_one_step(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "check" / "report.json"
    words = ["--device", "cpu", "--small", "--steps", "pooling,nccl", "--json", str(path)]
    code = tool.run(words)
    pooling, nccl = json.loads(path.read_text())["steps"]
    assert nccl["state"] == "left out"
    assert code == int(pooling["state"] != "passed")
    formats = {goal["name"].partition(":")[0] for goal in pooling["goals"]}
    assert formats == {"float32", "float16", "bfloat16"}
    assert "-- pooling: " in capsys.readouterr().out


def test_a_step_that_is_not_known(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.run(["--steps", "pooling,spead"]) == 2
    assert "--steps spead: choose from environment, tests" in capsys.readouterr().err
