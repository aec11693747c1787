"""No program leaves a process behind or waits for one, however it ends. See endings.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ROOT
from tests.factories import tiny_model
from tests.launch.endings import Ending, Outcome
from tests.tiny_dataset import TinyDataset, tiny_run, write_tiny_dataset

# All programs are started for the first of these tests, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(1800)

METHODS = ("fork", "spawn", "forkserver")
# Of the three, one by which the program is the parent of its processes, and one by which it isn't.
TOOL_METHODS = ("fork", "forkserver")
KILLED = -signal.SIGKILL
# How a training ends: the exit code, the signal, whether it goes to all processes.
TRAININGS: dict[str, tuple[int, int, bool]] = {
    "ended": (0, 0, False),
    "failed": (2, 0, False),
    "killed": (KILLED, signal.SIGKILL, False),
    "interrupted": (130, signal.SIGINT, True),
    "terminated": (143, signal.SIGTERM, True),
}
# Every ending by fork and by another method; by every method a kill, a caught signal and an end
# without one.
BY_METHOD = {
    "fork": tuple(TRAININGS),
    "spawn": ("ended", "killed", "terminated"),
    "forkserver": ("failed", "killed", "interrupted"),
}
CASES = [(method, name) for method, names in BY_METHOD.items() for name in names]
NEVER = 100_000


class Programs:
    """Commands on data of a folder, each of which runs once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = write_tiny_dataset(folder / "data")
        whole = (folder / "data" / "more" / "u0.png").read_bytes()
        (folder / "cut").mkdir()
        (folder / "cut" / "cut.png").write_bytes(whole[: len(whole) // 2])
        (folder / "many").mkdir()
        for number in range(3000):
            (folder / "many" / f"{number}.png").hardlink_to(folder / "data" / "more" / "u0.png")

    def training(self, method: str, name: str, *words: str) -> Ending:
        _, send, to_group = TRAININGS[name]
        run = self._folder / f"{method}_{name}{len(words)}"
        settings: dict[str, object] = {
            "SOLVER.MAX_ITER": NEVER if send else 2,
            "SOLVER.STEPS": (1,),
            "SOLVER.CHECKPOINT_PERIOD": 2,
            "TEST.EVAL_PERIOD": 0,
            "SSOD.EVAL_MODEL": "teacher",
            "DATALOADER.NUM_WORKERS": 1,
        }
        if name == "failed":
            settings |= {
                "DATASETS.UNLABELED": (f"folder://{self._folder}/cut",),
                "DATASETS.LABELED_PERCENT": 100.0,
                "DATALOADER.MAX_UNREADABLE_SHARE": 0.0,
            }
        config = _config(self._data, run, settings)
        command = ("--config-file", config, *words)
        return Ending("train_net", command, method, f"{run}/last_checkpoint", 1, send, to_group)

    def labeling(self, method: str) -> Ending:
        run = self._folder / f"{method}_labeling"
        config = _config(self._data, run, {"DATALOADER.NUM_WORKERS": 1})
        cfg = tiny_run(self._data, run, **{"MODEL.ROI_HEADS.NUM_CLASSES": 3})
        torch.save({"model": tiny_model(cfg).state_dict()}, self._folder / "model.pth")
        words = f"--config-file {config} --input {self._folder}/many --classes a,b,c --chunk 1"
        words += f" --output {run}/labels MODEL.WEIGHTS {self._folder}/model.pth"
        sign = f"{run}/labels/chunks/*.jsonl"
        return Ending("tools.pseudo_label", words.split(), method, sign, 2, signal.SIGKILL)

    def checking(self, method: str) -> Ending:
        words = f"--unlabeled folder://{self._folder}/many --level full --workers 2"
        helpers = {"fork": 0, "forkserver": 2}[method]
        command = ("tools.check_dataset", words.split(), method)
        return Ending(*command, processes=3 + helpers, send=signal.SIGKILL)

    def demo(self) -> Ending:
        run = self._folder / "demo"
        words = f"--output {run} SOLVER.MAX_ITER {NEVER} SOLVER.CHECKPOINT_PERIOD 2"
        words += " INPUT.MIN_SIZE_TRAIN (48,64) SOLVER.AMP.ENABLED False DATALOADER.NUM_WORKERS 0"
        words += f" MODEL.ROI_HEADS.NUM_CLASSES 0 DATASETS.TRAIN ('{self._data.labeled}',)"
        words += f" DATASETS.UNLABELED ('{self._data.unlabeled}',) TEST.EVAL_PERIOD 0"
        words += f" DATASETS.TEST ('{self._data.labeled}',) SSOD.BURN_IN_ITERS 1"
        # Its own: what it takes over has another name.
        sign = f"{run}/seed_1/supervised/model_0*.pth"
        return Ending("tools.quickstart", words.split(), "fork", sign, 3, signal.SIGKILL)

    def run(self, endings: Iterable[Ending]) -> list[Outcome]:
        file = self._folder / "endings.json"
        file.write_text(json.dumps([asdict(ending) for ending in endings]), encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.launch.endings", str(file)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=1700,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return [Outcome(**item) for item in json.loads(result.stdout)]


def _config(data: TinyDataset, run: Path, settings: dict[str, Any]) -> str:
    path = run.with_suffix(".yaml")
    path.write_text(tiny_run(data, run, **settings).dump(), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All at once: the process that they are forked from takes longer to start than they do."""
    programs = Programs(tmp_path_factory.mktemp("programs").resolve())
    endings = {f"{method} {name}": programs.training(method, name) for method, name in CASES}
    endings |= {f"{m} serving": Ending("tests.launch.serving", (), m) for m in METHODS}
    for method in TOOL_METHODS:
        endings[f"{method} labeling"] = programs.labeling(method)
        endings[f"{method} checking"] = programs.checking(method)
    two = programs.training("fork", "killed", "--num-gpus", "2", "--dist-url", "auto")
    endings["two processes"] = replace(two, processes=6)
    endings["demo"] = programs.demo()
    return dict(zip(endings, programs.run(endings.values()), strict=True))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_training_leaves_nothing(outcomes: dict[str, Outcome], method: str, name: str) -> None:
    _assert_nothing_left(outcomes[f"{method} {name}"], TRAININGS[name][0])


@pytest.mark.parametrize("method", TOOL_METHODS)
@pytest.mark.parametrize("name", ["labeling", "checking"])
def test_a_killed_tool_leaves_nothing(outcomes: dict[str, Outcome], method: str, name: str) -> None:
    _assert_nothing_left(outcomes[f"{method} {name}"], KILLED)


@pytest.mark.parametrize("method", METHODS)
def test_a_loading_process_outlives_signals_but_not_its_program(
    outcomes: dict[str, Outcome], method: str
) -> None:
    outcome = outcomes[f"{method} serving"]
    _assert_nothing_left(outcome, 0)
    assert outcome.output.endswith("served\n")


def test_two_processes_end_with_the_one_that_started_them(outcomes: dict[str, Outcome]) -> None:
    if torch.cuda.is_available():
        pytest.skip("--num-gpus 2 takes the GPUs where there are some")
    _assert_nothing_left(outcomes["two processes"], KILLED)


def test_both_runs_of_the_demo_end_with_it(outcomes: dict[str, Outcome]) -> None:
    _assert_nothing_left(outcomes["demo"], KILLED)


def _assert_nothing_left(outcome: Outcome, code: int) -> None:
    assert not outcome.left, outcome.output[-3000:]
    assert outcome.code == code, outcome.output[-3000:]
