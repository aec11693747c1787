from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import EvalHook, TrainerBase
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from dre_ssod.engine.hooks import BestModelCheckpointer


class Run(TrainerBase):
    """Evaluates to the given values, one after each iteration."""

    def __init__(self, folder: Path, values: list[float], metric: str = "teacher/bbox/AP") -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder), trainer=self)
        self.values = values
        self.best = BestModelCheckpointer(1, self.checkpointer, metric)
        self.register_hooks([EvalHook(1, self.evaluate), self.best])

    def evaluate(self) -> dict[str, Any]:
        return {"teacher": {"bbox": {"AP": self.values[min(self.iter, self.max_iter - 1)]}}}

    def run_step(self) -> None:
        nn.init.constant_(self.model.weight, float(self.iter))

    def stop_after(self, iterations: int) -> None:
        """Train as a run of all the values does that is killed on the way."""

        def step() -> None:
            if self.iter == iterations:
                raise InterruptedError
            Run.run_step(self)

        self.run_step = step  # type: ignore[method-assign]
        with pytest.raises(InterruptedError):
            self.train(0, len(self.values))


def best_weight(folder: Path) -> float:
    checkpoint = torch.load(folder / "model_best.pth", weights_only=True)
    return float(checkpoint["model"]["weight"])


def test_the_best_checkpoint_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 20.0, 30.0])
    run.train(0, 4)
    assert (run.best.best_metric, run.best.best_iter) == (30.0, 1)
    assert best_weight(tmp_path) == 1.0


def test_the_last_evaluation_counts(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 40.0])
    run.train(0, 3)
    assert run.best.best_metric == 40.0
    assert best_weight(tmp_path) == 2.0
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 2


def test_a_resume_remembers_how_good_the_best_was(tmp_path: Path) -> None:
    values = [10.0, 30.0, 20.0]
    Run(tmp_path, values).stop_after(2)
    resumed = Run(tmp_path, values)
    resumed.checkpointer.resume_or_load("", resume=True)
    # The checkpoint that was saved because 30 is the best knows that 30 is the best.
    assert (resumed.best.best_metric, resumed.best.best_iter) == (30.0, 1)
    resumed.train(resumed.iter + 1, len(values))
    assert best_weight(tmp_path) == 1.0


def test_nan_is_no_best(tmp_path: Path) -> None:
    run = Run(tmp_path, [math.nan, 5.0, math.nan])
    run.train(0, 3)
    assert run.best.best_metric == 5.0
    assert best_weight(tmp_path) == 1.0


def test_a_metric_that_is_missing_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        Run(tmp_path, [1.0], metric="student/bbox/AP").train(0, 1)
    assert "student/bbox/AP was not evaluated" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()
