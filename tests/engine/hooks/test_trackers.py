"""What trackers of runs are told, over a resume and a failure; the real ones where installed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase

from dre_ssod.engine.hooks.trackers import Tracker, build_trackers, told_settings
from dre_ssod.engine.hooks.writers import ResumingWriter
from dre_ssod.errors import ConfigError
from tests.factories import tiny_cfg

SECRET = "hunter2"


class Listed(Tracker):
    """Keeps what it is told."""

    kind = "listed"

    def __init__(self, failing_at: int = -1) -> None:
        super().__init__("run", {}, Path())
        self.told: list[tuple[int, dict[str, float]]] = []
        self.failing_at = failing_at
        self.finished = False

    def start(self, run: str) -> str:
        return run or "first"

    def log(self, figures: Mapping[str, float], iteration: int) -> None:
        if iteration == self.failing_at:
            raise ConnectionError(f"https://user:{SECRET}@host is gone")
        self.told.append((iteration, dict(figures)))

    def finish(self) -> None:
        self.finished = True


class Run(TrainerBase):
    def __init__(self, tracker: Tracker, state: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.writer = ResumingWriter([tracker])
        if state is not None:
            self.writer.load_state_dict(state)
        self.register_hooks([self.writer])
        self.states: dict[int, dict[str, Any]] = {}

    def run_step(self) -> None:
        self.storage.put_scalar("lr", 0.1 * self.iter, smoothing_hint=False)
        if self.iter == 19:
            self.storage.put_scalar("teacher/bbox/AP", 50.0, smoothing_hint=False)

    def after_step(self) -> None:
        super().after_step()
        self.states[self.iter] = self.writer.state_dict()


def test_figures_come_once_over_a_resume() -> None:
    whole = Listed()
    run = Run(whole)
    run.train(0, 50)
    assert [iteration for iteration, _ in whole.told] == [19, 39, 49]
    assert whole.told[0][1] == pytest.approx({"lr": 1.9, "teacher/bbox/AP": 50.0})
    assert whole.finished
    resumed = Listed()
    Run(resumed, run.states[19]).train(20, 50)
    assert resumed.told == whole.told[1:]
    assert resumed.state_dict() == {"run": "first", "last_write": 49}


def test_a_failure_is_told_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Listed(failing_at=19)
    with caplog.at_level(logging.WARNING):
        Run(tracker).train(0, 50)
    assert tracker.told == []
    [record] = caplog.records
    assert "listed gets no further figures, since it failed (ConnectionError)" in record.message
    assert SECRET not in caplog.text


def test_what_cannot_start_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, kind, None)
        [tracker] = build_trackers(tiny_cfg(**{"SSOD.TRACKERS": (kind,)}))
        with pytest.raises(ConfigError, match=rf"'{kind}', which cannot start .*install {kind}"):
            Run(tracker).train(0, 1)


def run_cfg(folder: Path, kind: str) -> CfgNode:
    return tiny_cfg(
        **{
            "SSOD.TRACKERS": (kind,),
            "SOLVER.MAX_ITER": 50,
            "OUTPUT_DIR": str(folder / "mine"),
            "MODEL.WEIGHTS": f"https://user:{SECRET}@host/model.pth",
            "DATASETS.TRAIN": (f"coco:///{SECRET}/a.json?images=/{SECRET}",),
        }
    )


def test_settings_are_told_without_files_and_addresses(tmp_path: Path) -> None:
    told = told_settings(run_cfg(tmp_path, "wandb"))
    assert told["SOLVER.MAX_ITER"] == 50
    assert told["MODEL.FPN.OUT_CHANNELS"] == 16
    assert SECRET not in repr(told)
    assert "SOLVER.GAMMA" not in told


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 6)
    cfg = run_cfg(tmp_path, "wandb")
    Path(cfg.OUTPUT_DIR).mkdir()
    run = Run(*build_trackers(cfg))
    run.train(0, 50)
    Run(*build_trackers(cfg), run.states[19]).train(20, 50)
    first, second = sorted(Path(cfg.OUTPUT_DIR).glob("wandb/offline-run-*/*.wandb"))
    # The same run, which `wandb sync` joins again.
    assert first.name == second.name == f"run-{run.states[19]['trackers']['wandb']['run']}.wandb"
    assert b"teacher/bbox/AP" in first.read_bytes()
    assert b"teacher/bbox/AP" not in second.read_bytes()
    for path in Path(cfg.OUTPUT_DIR).rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is an extra")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    cfg = run_cfg(tmp_path, "mlflow")
    run = Run(*build_trackers(cfg))
    run.train(0, 50)
    Run(*build_trackers(cfg), run.states[19]).train(20, 50)
    client = MlflowClient()
    found = client.get_run(run.states[19]["trackers"]["mlflow"]["run"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "mine"
    assert found.data.params["SOLVER.MAX_ITER"] == "50"
    assert found.data.metrics["teacher/bbox/AP"] == 50.0
    history = client.get_metric_history(found.info.run_id, "lr")
    assert {metric.step for metric in history} == {19, 39, 49}
    assert SECRET not in repr(found.to_dictionary())
    # The same run, not another one.
    assert len(client.search_runs([found.info.experiment_id])) == 1
