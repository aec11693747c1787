from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.engine import default_argument_parser

import train_net
from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.launch.processes import TORCHRUN_VARIABLES
from tests import ROOT
from tests.forks import fork_processes_of_runs, run_forked
from tests.tiny_dataset import TinyDataset, tiny_run

pytestmark = pytest.mark.usefixtures("kept_loggers")


def arguments(*words: object) -> argparse.Namespace:
    return default_argument_parser().parse_args(list(map(str, words)))


@pytest.fixture(scope="module")
def config(data: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file that trains three iterations."""
    folder = tmp_path_factory.mktemp("config")
    overrides = {"SOLVER.MAX_ITER": 3, "SOLVER.STEPS": (2,), "TEST.EVAL_PERIOD": 0}
    cfg = tiny_run(data, folder / "run", **overrides)
    path = folder / "config.yaml"
    path.write_text(cfg.dump(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """The folder of a finished run, started as a user does."""
    command = [sys.executable, "-W", "ignore", ROOT / "train_net.py", "--config-file", config]
    # PYTHONPATH: also where the package is not installed. One thread: faster for tiny images.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return config.parent / "run"


def last_metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines():
        found |= json.loads(line)
    return found


def test_eval_only_finds_the_figures_of_the_training(config: Path, trained: Path) -> None:
    results = train_net.main(
        arguments(
            *("--config-file", config, "--eval-only"),
            *("MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", trained.parent / "eval"),
        )
    )
    metrics = last_metrics(trained)
    for model in ("teacher", "student"):
        for name in ("AP", "AP50"):
            assert results[model]["bbox"][name] == metrics[f"{model}/bbox/{name}"]


def test_eval_only_of_a_file_without_student(
    config: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = trained.parent / "teacher_only.pth"
    content = torch.load(trained / "model_final.pth", weights_only=True)
    torch.save({"model": content["model"]}, file)
    common = ("--config-file", config, "--eval-only")
    opts = ("MODEL.WEIGHTS", file, "OUTPUT_DIR", trained.parent / "eval")
    assert train_net.main(arguments(*common, *opts)).keys() == {"teacher"}
    with pytest.raises(ValueError, match=r"holds no student: set SSOD.EVAL_MODEL teacher"):
        train_net.main(arguments(*common, *opts, "SSOD.EVAL_MODEL", "student"))


def test_a_restart_of_torchrun_is_refused_the_folder_of_another_run(
    config: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*TORCHRUN_VARIABLES, "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    before = (trained / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="already holds the checkpoints of a run"):
        train_net.main(arguments("--config-file", config, "SOLVER.BASE_LR", "0.5"))
    assert (trained / "config.yaml").read_text(encoding="utf-8") == before


def test_a_run_that_has_ended_takes_up_no_key(config: Path, trained: Path) -> None:
    before = (trained / "config.yaml").read_text(encoding="utf-8")
    key = ("TEST.DETECTIONS_PER_IMAGE", "7")
    train_net.main(arguments("--config-file", config, "--resume", *key))
    assert (trained / "config.yaml").read_text(encoding="utf-8") == before
    assert not (trained / "config_1.yaml").exists()
    log = " ".join((trained / "log.txt").read_text(encoding="utf-8").split())
    assert "has ended, with the 3 iterations of SOLVER.MAX_ITER. Without effect: TEST" in log
    assert f"--eval-only MODEL.WEIGHTS {trained / 'model_0000002.pth'}" in log
    assert "In use from here on" not in log


def test_two_processes_go_on_where_one_stopped(
    config: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--num-gpus 2 on a machine without a GPU, --resume and an override at once."""
    if torch.cuda.is_available():
        pytest.skip("--num-gpus 2 takes the GPUs where there are some")
    fork_processes_of_runs(monkeypatch)
    words = ["--config-file", str(config), "--num-gpus", "2", "--dist-url", "auto", "--resume"]
    words += ["SOLVER.MAX_ITER", "5", "SSOD.EVAL_MODEL", "teacher"]
    result = run_forked(lambda: sys.exit(train_net.run(words)), folder=config.parent)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Starting training from iteration 3" in result.stdout
    content = torch.load(trained / "model_final.pth", weights_only=True)
    assert content["iteration"] == 4
    assert (trained / "log.txt.rank1").exists()
    lines = (trained / "metrics.json").read_text(encoding="utf-8").splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert iterations == sorted(iterations)


def test_a_folder_of_images_is_trained_on_from_the_command_line_alone(
    config: Path, data: TinyDataset, tmp_path: Path
) -> None:
    """A config that names no data, a COCO file for the labels, no JSON for the other images."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    del settings["DATASETS"]
    file = tmp_path / "no_data.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert not list((data.root / "more").glob("*.json"))
    words = ["--config-file", str(file), "OUTPUT_DIR", str(tmp_path / "run")]
    words += ["DATASETS.TRAIN", f"('{data.labeled}',)"]
    words += ["DATASETS.UNLABELED", f"('{data.unlabeled}',)"]
    assert train_net.run(words) == 0
    metrics = last_metrics(tmp_path / "run")
    assert metrics["ssod/pseudo_boxes_per_image"] >= 0.0
    assert metrics["ssod/skipped_images"] == 0
    assert "loss_cls_unsup" in metrics
    assert (tmp_path / "run" / "model_final.pth").exists()
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "8 labeled and 4 unlabeled images" in log or data.unlabeled in log


def test_a_wrong_key_is_named(config: Path, tmp_path: Path) -> None:
    out = ("OUTPUT_DIR", tmp_path)
    with pytest.raises(Exception, match=r"SSOD\.SCORE_TRESHOLD"):
        train_net.main(arguments("--config-file", config, *out, "SSOD.SCORE_TRESHOLD", "0.9"))
    with pytest.raises(ConfigError, match="multiple of 2: 1 process"):
        train_net.main(arguments("--config-file", config, *out, "SOLVER.IMS_PER_BATCH", "5"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.TRAIN", "('coco://gone.json?images=img',)", "gone.json"),
        ("DATASETS.TRAIN", "('coco_2017_trian',)", "close names: coco_2017_train"),
        ("DATASETS.TEST", "('folder:///nowhere/at/all',)", "/nowhere/at/all"),
        ("DATASETS.UNLABELED", "('folder:///nowhere/at/all',)", "/nowhere/at/all"),
    ],
)
def test_a_missing_dataset_is_named(
    config: Path, tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        train_net.main(
            arguments("--config-file", config, "OUTPUT_DIR", tmp_path / "out", key, value)
        )


def test_a_used_folder_needs_resume(config: Path, trained: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        train_net.main(arguments("--config-file", config))
