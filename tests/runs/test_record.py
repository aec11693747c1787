from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import dre_ssod
from dre_ssod.launch import processes
from dre_ssod.runs.record import append_entry, git_state, is_own_restart, record_start
from dre_ssod.runs.sets import DatasetRow
from tests.factories import tiny_cfg

ROW = DatasetRow("labeled", "coco://a.json?images=b", 3, "ab" * 32, ("cat",), 5, 1)


def entries_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["runs"]
    return found


def start(folder: Path, seed: int = 7, **options: Any) -> None:
    cfg = tiny_cfg(OUTPUT_DIR=str(folder))
    record_start(cfg, "training", [ROW], config_file="configs/a.yaml", seed=seed, **options)


def test_an_entry_says_how_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train_net.py", "DATASETS.TRAIN", "('my set',)"])
    start(tmp_path, first_iteration=0, precision="bfloat16 autocast")
    [entry] = entries_of(tmp_path)
    assert entry["precision"] == "bfloat16 autocast"
    assert entry["command"] == "train_net.py DATASETS.TRAIN '('\"'\"'my set'\"'\"',)'"
    assert (entry["kind"], entry["seed"], entry["first_iteration"]) == ("training", 7, 0)
    assert (entry["config_file"], entry["world_size"]) == ("configs/a.yaml", 1)
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["versions"]["dre_ssod"] == dre_ssod.__version__
    assert entry["machine"]["device"] == "cpu"
    assert entry["datasets"] == [{**ROW.as_dict(), "classes": ["cat"]}]


def test_a_resumed_run_adds_its_entry(tmp_path: Path) -> None:
    start(tmp_path, seed=1, first_iteration=0)
    [first] = entries_of(tmp_path)
    start(tmp_path, seed=1, first_iteration=400)
    assert entries_of(tmp_path)[0] == first
    assert [entry["first_iteration"] for entry in entries_of(tmp_path)] == [0, 400]


@pytest.mark.parametrize("launcher", ["torchrun", "Slurm"])
def test_a_restart_takes_up_only_what_its_own_launch_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    def enter(launch: str, restarts: int) -> None:
        if launcher == "Slurm":
            monkeypatch.setenv("SLURM_JOB_ID", launch)
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
            return
        for name in processes.TORCHRUN_VARIABLES:
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        # In containers agents have the same number, and began at different times.
        monkeypatch.setattr(processes, "_parent", lambda: f"1 {launch}")

    monkeypatch.setattr("sys.argv", ["train_net.py", "SEED", "1"])
    args = argparse.Namespace(config_file="", opts=["OUTPUT_DIR", str(tmp_path)], eval_only=False)
    start(tmp_path)
    enter("older", 0)
    start(tmp_path)
    # The first start is refused, for the folder holds a run, and so is every later one.
    enter("own", 1)
    assert not is_own_restart(args)
    enter("own", 0)
    start(tmp_path)
    assert not is_own_restart(args)
    enter("own", 1)
    assert is_own_restart(args)
    assert not is_own_restart(argparse.Namespace(**{**vars(args), "eval_only": True}))
    # A script may start several programs.
    monkeypatch.setattr("sys.argv", ["train_net.py", "SEED", "2"])
    assert not is_own_restart(args)


def test_an_agent_of_torchrun_is_told_by_when_it_began() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux")
    number, began = processes._parent().split()
    assert int(number) > 0
    assert int(began) > 0
    assert processes._parent() == f"{number} {began}"


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dre_ssod.runs.record.comm.is_main_process", lambda: False)
    start(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"runs": 3}', "[]", '{"other": []}'])
def test_a_damaged_file_is_kept(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "run_1.json").write_text("older")
    with caplog.at_level("WARNING", "dre_ssod"):
        entries = append_entry(tmp_path / "run.json", "runs", {"seed": 1})
    assert entries == entries_of(tmp_path) == [{"seed": 1}]
    assert (tmp_path / "run_2.json").read_text() == content
    assert (tmp_path / "run_1.json").read_text() == "older"
    assert "run_2.json" in caplog.text


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "checkout"
    (folder / "dre_ssod").mkdir(parents=True)
    (folder / "dre_ssod" / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_checkout_gives_its_commit_and_whether_it_differs(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    # What runs write into the checkout is no part of the program.
    (checkout / "output.log").write_text("")
    assert git_state(checkout) == {"commit": commit, "dirty": False}
    (checkout / "dre_ssod" / "a.py").write_text("a = 2\n")
    assert git_state(checkout) == {"commit": commit, "dirty": True}
    git(checkout, "commit", "-q", "-a", "-m", "second")
    (checkout / "dre_ssod" / "new.py").write_text("")
    assert git_state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


def test_a_package_inside_somebodys_checkout_is_not_that_checkout(checkout: Path) -> None:
    assert git_state(checkout / "dre_ssod") is None


def test_without_checkout_or_git_there_is_no_commit(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert git_state(tmp_path / "plain") is None
    monkeypatch.setenv("PATH", str(tmp_path / "plain"))
    assert git_state(checkout) is None
