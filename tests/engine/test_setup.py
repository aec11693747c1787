"""What starting a program leaves in the run folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from dre_ssod.engine.setup import complete, save_config, setup
from dre_ssod.errors import ConfigError, FolderInUseError
from tests.factories import tiny_cfg
from tests.tiny_dataset import TinyDataset, loggers_kept, tiny_run


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    with loggers_kept(), torch.random.fork_rng(devices=[]):
        yield
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture
def config_file(data: TinyDataset, tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(tiny_run(data, tmp_path / "run", SEED=-1).dump(), encoding="utf-8")
    return path


def start(
    file: Path,
    *opts: str,
    resume: bool = False,
    eval_only: bool = False,
    until: ExitStack | None = None,
) -> CfgNode:
    return setup(
        argparse.Namespace(
            config_file=str(file), opts=list(opts), resume=resume, eval_only=eval_only
        ),
        until or ExitStack(),
    )


def saved(path: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def test_an_evaluation_leaves_the_config_of_the_training(config_file: Path) -> None:
    run = config_file.parent / "run"
    start(config_file)
    before = (run / "config.yaml").read_bytes()
    start(config_file, "SEED", "5", eval_only=True)
    assert (run / "config.yaml").read_bytes() == before
    assert saved(run / "config_eval.yaml")["SEED"] == 5


def test_an_evaluation_refuses_keys_that_change_nothing_of_it(config_file: Path) -> None:
    key = "TEST.VARIANCE_VOTING.SIGMA_T"
    with pytest.raises(ConfigError, match=rf"{key} 0.2 \(TEST.VARIANCE_VOTING.ENABLED is False"):
        start(config_file, key, "0.2", eval_only=True)
    start(config_file, key, "0.2", "TEST.VARIANCE_VOTING.ENABLED", "True", eval_only=True)


def test_config_and_environment_are_in_the_log_file_and_not_on_the_console(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = start(config_file)
    shown = capsys.readouterr().out
    log = (Path(cfg.OUTPUT_DIR) / "log.txt").read_text(encoding="utf-8")
    for part in ("Full config:", "UNSUP_LOSS_WEIGHT", "Environment:", "Command line:"):
        assert part in log
        assert part not in shown
    assert f"{cfg.OUTPUT_DIR}/log.txt" in shown
    assert len(shown.splitlines()) < 10


def test_a_training_says_what_its_schedule_does(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "SOLVER.WARMUP_ITERS"
    for number, (eval_only, told) in enumerate(((False, 1), (True, 0))):
        start(config_file, key, "3", "OUTPUT_DIR", f"{config_file}.{number}", eval_only=eval_only)
        assert capsys.readouterr().out.count(f"{key} is 3, but the rate is lowered") == told


def test_opencv_computes_with_as_many_threads_as_pytorch(config_file: Path) -> None:
    cv2.setNumThreads(2)
    start(config_file)
    assert cv2.getNumThreads() == torch.get_num_threads() == 1


def test_processes_of_one_machine_share_its_cores(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "get_local_size", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    chosen: list[int] = []
    monkeypatch.setattr("dre_ssod.engine.setup.compute_with", chosen.append)
    start(config_file)
    monkeypatch.delenv("OMP_NUM_THREADS")
    start(config_file, "OUTPUT_DIR", f"{config_file}.other")
    # Slurm gives each process cores of its own.
    monkeypatch.setattr("dre_ssod.engine.setup.is_torchrun", lambda: True)
    start(config_file, "OUTPUT_DIR", f"{config_file}.slurm")
    assert chosen == [16, 4, 16]


def test_a_missing_gpu_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for _ in range(2):
        cfg = tiny_cfg(**{"MODEL.DEVICE": "cuda:9"})
        complete(cfg)
        assert cfg.MODEL.DEVICE == "cpu"
    assert caplog.messages == ["MODEL.DEVICE is 'cuda:9' but there is no GPU: using the CPU."]


def test_a_random_seed_is_written_down_and_used(config_file: Path) -> None:
    cfg = start(config_file)
    assert cfg.SEED >= 0
    assert saved(config_file.parent / "run" / "config.yaml")["SEED"] == cfg.SEED
    drawn = np.random.rand(), torch.rand(3).tolist()
    start(config_file, "SEED", str(cfg.SEED), "OUTPUT_DIR", str(config_file.parent / "again"))
    assert (np.random.rand(), torch.rand(3).tolist()) == drawn
    other = start(config_file, "OUTPUT_DIR", str(config_file.parent / "other"))
    assert other.SEED != cfg.SEED


def test_a_resumed_run_keeps_its_random_seed(config_file: Path) -> None:
    seed = start(config_file).SEED
    assert start(config_file, resume=True).SEED == seed
    assert start(config_file, "SEED", "5", resume=True).SEED == 5
    config = config_file.parent / "run" / "config.yaml"
    config.write_text("{", encoding="utf-8")
    assert start(config_file, resume=True).SEED >= 0


def test_a_changed_config_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    cfg = tiny_cfg(OUTPUT_DIR=str(tmp_path))
    save_config(cfg, "config.yaml")
    first = (tmp_path / "config.yaml").read_bytes()
    save_config(cfg, "config.yaml")
    assert [path.name for path in tmp_path.glob("config*")] == ["config.yaml"]
    cfg.SOLVER.MAX_ITER = 12345
    save_config(cfg, "config.yaml")
    assert (tmp_path / "config_1.yaml").read_bytes() == first
    assert "12345" in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_a_folder_has_one_training_and_any_number_of_evaluations(config_file: Path) -> None:
    run = config_file.parent / "run"
    with ExitStack() as until:
        start(config_file, until=until)
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        for resume in (False, True):
            with pytest.raises(FolderInUseError, match="run is in use: process"):
                start(config_file, "SEED", "5", resume=resume)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
        start(config_file, eval_only=True)
    start(config_file)


def test_the_log_says_with_what_it_was_started(config_file: Path) -> None:
    start(config_file, "SOLVER.BASE_LR", "0.0123")
    log = (config_file.parent / "run" / "log.txt").read_text(encoding="utf-8")
    for text in ("my.yaml", "PyTorch", "BASE_LR: 0.0123"):
        assert text in log
