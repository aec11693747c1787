from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from dre_ssod.checkpoints.checkpointer import SafeCheckpointer
from dre_ssod.engine.hooks.checkpoints import Checkpoints, SaveBeforeEvaluation
from dre_ssod.engine.hooks.evaluation import BestModel, Evaluation
from dre_ssod.launch.signals import SIGNALS, SignalRequests

METRIC = "teacher/bbox/AP"


class Run(TrainerBase):
    """Evaluates to the given values, one after each evaluated iteration."""

    def __init__(
        self,
        folder: Path,
        values: list[float],
        *,
        eval_period: int = 1,
        save_period: int = 100,
        kept: int = 100,
        metric: str = METRIC,
        test: str = "",
    ) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.checkpointer = SafeCheckpointer(
            self.model, str(folder), student=nn.Linear(1, 1), trainer=self
        )
        self.values = values
        self.signals = SignalRequests()
        evaluation = Evaluation(eval_period, self.evaluate, self.signals)
        self.best = BestModel(evaluation, metric, test)
        self.checkpoints = Checkpoints(
            self.checkpointer, evaluation, self.best, self.signals, period=save_period, kept=kept
        )
        before = SaveBeforeEvaluation(evaluation, self.checkpoints)
        self.register_hooks([before, evaluation, self.best, self.checkpoints])

    def evaluate(self) -> dict[str, Any]:
        return {"teacher": {"bbox": {"AP": self.values[self.iter]}}}

    def run_step(self) -> None:
        nn.init.constant_(self.model.weight, float(self.iter))

    def resumed(self) -> int:
        """Load the last checkpoint; returns the iteration to go on with."""
        last = self.checkpointer.find_last()
        assert last is not None
        self.checkpointer.load(last)
        return self.iter + 1


def weight(folder: Path, name: str = "model_best") -> float:
    checkpoint = torch.load(folder / f"{name}.pth", weights_only=True)
    return float(checkpoint["model"]["weight"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_best_and_final_are_further_names_of_numbered_checkpoints(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 20.0, 30.0])
    run.train(0, 4)
    assert (run.best.best_metric, run.best.best_iter) == (30.0, 1)
    assert weight(tmp_path) == 1.0
    assert (tmp_path / "model_best.pth").samefile(tmp_path / "model_0000001.pth")
    assert (tmp_path / "model_final.pth").samefile(tmp_path / "model_0000003.pth")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_the_last_evaluation_counts(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 40.0])
    run.train(0, 3)
    assert run.best.best_metric == 40.0
    assert weight(tmp_path) == 2.0
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 2


def test_the_newest_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    values = [5.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    Run(tmp_path, values, kept=2).train(0, 7)
    assert names(tmp_path) == [
        "last_checkpoint",
        "model_0000005.pth",
        "model_0000006.pth",
        "model_best.pth",
        "model_final.pth",
    ]
    assert weight(tmp_path) == 1.0


def test_checkpoints_come_by_period_and_with_evaluations(tmp_path: Path) -> None:
    Run(tmp_path, [1.0] * 8, eval_period=3, save_period=4).train(0, 8)
    numbers = [name for name in names(tmp_path) if name.startswith("model_0")]
    assert numbers == [f"model_000000{n}.pth" for n in (2, 3, 5, 7)]


def test_a_run_that_dies_in_an_evaluation_resumes_with_it(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 20.0])

    def evaluate() -> dict[str, Any]:
        if run.iter == 1:
            raise InterruptedError
        return Run.evaluate(run)

    run.checkpoints._evaluation._func = evaluate
    with pytest.raises(InterruptedError):
        run.train(0, 3)
    resumed = Run(tmp_path, run.values)
    assert resumed.resumed() == 2
    assert resumed.checkpoints.evaluation_pending
    # The best is that of the evaluations so far.
    assert resumed.best.best_metric == 10.0


def test_a_run_that_dies_later_knows_what_the_evaluation_said(tmp_path: Path) -> None:
    run = Run(tmp_path, [10.0, 30.0, 20.0])

    def step() -> None:
        if run.iter == 2:
            raise InterruptedError
        Run.run_step(run)

    run.run_step = step  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        run.train(0, 3)
    (tmp_path / "model_best.pth").unlink()
    resumed = Run(tmp_path, run.values)
    start = resumed.resumed()
    assert not resumed.checkpoints.evaluation_pending
    assert (resumed.best.best_metric, resumed.best.best_iter) == (30.0, 1)
    resumed.train(start, 3)
    # Killed between a checkpoint and its further name, a run makes up for it.
    assert weight(tmp_path) == 1.0


@pytest.mark.parametrize("kept", [100, 2])
def test_the_best_of_what_a_run_has_gone_back_from_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    """It goes back to before its best evaluation, that of iteration 3."""
    Run(tmp_path, [20.0, 10.0, 10.0, 30.0], kept=100).train(0, 4)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    if kept == 2:
        (tmp_path / "model_0000000.pth").unlink()
    run = Run(tmp_path, [20.0, 10.0, 15.0], kept=kept)
    with caplog.at_level("WARNING"):
        run.train(run.resumed(), 3)
    assert weight(tmp_path, "model_best_1") == 3.0
    assert "model_best.pth is of iteration 3, and the run has gone back to 1: it is" in caplog.text
    # The best of the evaluations that count, where it is still there; else of those to come.
    assert weight(tmp_path) == (0.0 if kept == 100 else 2.0)
    assert ("of iteration 0 with teacher/bbox/AP 20.000, was" in caplog.text) == (kept == 2)
    # Once more, from its own last one: nothing to set aside.
    caplog.clear()
    again = Run(tmp_path, [0.0] * 3 + [40.0])
    again.train(again.resumed(), 4)
    assert weight(tmp_path) == 3.0
    assert "gone back" not in caplog.text


def test_nan_is_no_best(tmp_path: Path) -> None:
    run = Run(tmp_path, [math.nan, 5.0, math.nan])
    run.train(0, 3)
    assert run.best.best_metric == 5.0
    assert weight(tmp_path) == 1.0


@pytest.mark.parametrize(("test", "best"), [("easy", 50.0), ("hard", 20.0)])
def test_what_was_best_on_other_images_is_no_measure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, test: str, best: float
) -> None:
    """A run is stopped after its best AP, 50, and goes on, on the same images or on harder ones."""
    Run(tmp_path, [50.0], test="easy").train(0, 1)
    run = Run(tmp_path, [50.0, 10.0, 20.0], test=test)
    with caplog.at_level("WARNING"):
        run.train(run.resumed(), 3)
    assert run.best.best_metric == best
    assert ("was chosen by teacher/bbox/AP of easy; now that is" in caplog.text) is (test == "hard")


def test_a_metric_that_is_missing_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        Run(tmp_path, [1.0], metric="student/bbox/AP").train(0, 1)
    assert "student/bbox/AP was not evaluated" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_stop_saves_once_and_exits(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = Run(tmp_path, [1.0] * 9, eval_period=0)

    def step() -> None:
        Run.run_step(run)
        run.signals.agree([int(run.iter == 4 and n == number) for n in SIGNALS])

    run.run_step = step  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stopped:
        run.train(0, 9)
    assert stopped.value.code == code
    assert names(tmp_path) == ["last_checkpoint", "model_0000004.pth"]
    assert Run(tmp_path, []).resumed() == 5


def test_a_signal_to_save_saves_and_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, [1.0] * 6, eval_period=0)

    def step() -> None:
        Run.run_step(run)
        run.signals.agree([int(run.iter == 2 and n == signal.SIGUSR1) for n in SIGNALS])

    run.run_step = step  # type: ignore[method-assign]
    run.train(0, 6)
    numbers = [name for name in names(tmp_path) if name.startswith("model_0")]
    assert numbers == ["model_0000002.pth", "model_0000005.pth"]


def test_no_process_begins_an_evaluation_before_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, [1.0])
    seen: list[Any] = []
    monkeypatch.setattr(comm, "synchronize", lambda: seen.append(names(tmp_path)))
    evaluate = run.evaluate
    run.checkpoints._evaluation._func = lambda: seen.append("evaluation") or evaluate()
    run.train(0, 1)
    written, evaluation = seen[:2]
    assert "model_0000000.pth" in written
    assert evaluation == "evaluation"


def test_a_signal_ends_an_evaluation_whose_iteration_is_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, [1.0] * 3)

    def evaluate() -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    run.checkpoints._evaluation._func = evaluate
    with run.signals.caught(), pytest.raises(SystemExit) as stopped:
        run.train(0, 3)
    assert stopped.value.code == 143
    resumed = Run(tmp_path, [])
    assert resumed.resumed() == 1
    assert resumed.checkpoints.evaluation_pending
