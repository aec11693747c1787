"""Runs that are resumed with other lengths and rates than they were started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.errors import ConfigError
from tests.engine.test_trainer import completed, train
from tests.tiny_dataset import TinyDataset, tiny_run


def test_a_finished_run_can_be_made_longer(data: TinyDataset, tmp_path: Path) -> None:
    short = {"SOLVER.MAX_ITER": 1, "SSOD.EVAL_MODEL": "teacher"}
    train(completed(tiny_run(data, tmp_path, **short)))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    trainer = SSODTrainer(completed(tiny_run(data, tmp_path)))
    trainer.resume_or_load(True)
    assert trainer.start_iter == 1


def test_a_run_ends_evaluated_where_a_longer_one_was_stopped(
    data: TinyDataset, tmp_path: Path
) -> None:
    """Saved after two iterations of four, on the way, without an evaluation."""
    plan = {"SOLVER.CHECKPOINT_PERIOD": 2, "TEST.EVAL_PERIOD": 0, "SSOD.EVAL_MODEL": "teacher"}
    cfg = completed(tiny_run(data, tmp_path, **plan))
    train(cfg, stop_at=2)
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER is 1; it must be at least the 2 iter"):
        train(completed(tiny_run(data, tmp_path, **plan, **{"SOLVER.MAX_ITER": 1})), resume=True)
    end = {**plan, "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": ()}
    train(completed(tiny_run(data, tmp_path, **end)), resume=True)
    assert (tmp_path / "model_final.pth").is_file()
    assert json.loads((tmp_path / "results.json").read_text())["evaluations"][-1]["iteration"] == 1


def test_a_burn_in_is_not_ended_before_what_there_is_of_it(
    data: TinyDataset, tmp_path: Path
) -> None:
    """The teacher would label with the weights of its start."""
    common = {"TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SSOD.METHOD": "UnbiasedTeacher"}
    cfg = completed(tiny_run(data, tmp_path, **common, **{"SSOD.BURN_IN_ITERS": 3}))
    train(cfg, stop_at=2)
    for shorter in (0, 1, 2):
        cfg = completed(tiny_run(data, tmp_path, **common, **{"SSOD.BURN_IN_ITERS": shorter}))
        with pytest.raises(ConfigError, match=rf"BURN_IN_ITERS is {shorter}; it must be at least "):
            SSODTrainer(cfg).resume_or_load(True)
    trainer = SSODTrainer(
        completed(tiny_run(data, tmp_path, **common, **{"SSOD.BURN_IN_ITERS": 3}))
    )
    trainer.resume_or_load(True)
    assert trainer.start_iter == 2


def test_a_resumed_run_takes_up_the_rates_of_its_config(data: TinyDataset, tmp_path: Path) -> None:
    common = {"TEST.EVAL_PERIOD": 0, "DATASETS.TEST": (), "SOLVER.MAX_ITER": 2}
    train(completed(tiny_run(data, tmp_path, **common)))
    changes = {"SOLVER.MAX_ITER": 4, "SOLVER.BASE_LR": 0.5, "SOLVER.MOMENTUM": 0.25}
    cfg = completed(tiny_run(data, tmp_path, **{**common, **changes}))
    trainer = SSODTrainer(cfg)
    fresh = [dict(group) for group in trainer._trainer.optimizer.param_groups]
    trainer.resume_or_load(True)
    assert trainer.scheduler.base_lrs == [0.5] * len(fresh)
    for group, own in zip(trainer._trainer.optimizer.param_groups, fresh, strict=True):
        assert group["momentum"] == 0.25
        assert group["weight_decay"] == own["weight_decay"]
        assert group["lr"] == 0.5 * trainer.scheduler._multiplier(2 / 4)
