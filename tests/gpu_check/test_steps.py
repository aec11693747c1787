"""The dry run: every step that has something to do on a CPU, in this process, meets its goals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dre_ssod.benchmark.report import Goal
from dre_ssod.gpu_check.findings import Setting
from dre_ssod.gpu_check.steps import STEPS
from tests import ROOT
from tests.tiny_dataset import loggers_kept

# The others need a GPU, or start programs that have tests of their own.
IN_PROCESS = (
    *("environment", "losses", "waits", "speed", "sizes", "loading", "training"),
    *("evaluating", "resuming"),
    # A minute of imports and starts.
    pytest.param("processes", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder: Path = tmp_path_factory.mktemp("dry_run")
    return Setting("cpu", True, ROOT, folder, folder)


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_dry_run_meets_its_goals(
    name: str, setting: Setting, datasets_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets_root))
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    (step,) = (step for step in STEPS if step.name == name)
    assert not step.needs_gpu
    with loggers_kept():
        findings = list(step.run(setting))
    assert findings
    goals = [finding for finding in findings if isinstance(finding, Goal)]
    assert [goal for goal in goals if not goal.met] == []
    # Times are no goals of a dry run.
    assert bool(goals) == (name not in ("environment", "speed", "sizes", "loading"))
