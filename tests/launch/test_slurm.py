"""Jobs of Slurm, as submitit asks for them and runs them; test_slurm_cluster.py has a real one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from submitit.core.submission import process_job

from dre_ssod.errors import UserError
from dre_ssod.launch.slurm import Requeued, run_file, submit
from tests import ROOT
from tests.launch.pretended_slurm import JOB, PretendedSlurm

TRAINING = """
import signal, sys
from pathlib import Path
from dre_ssod.launch.processes import is_restart

def save(number, frame):
    sys.exit(128 + number)

def run(words):
    with Path("said").open("a") as file:
        print(*words, file=file)
    if not is_restart():
        signal.signal(signal.SIGTERM, save)
        signal.raise_signal(signal.SIGUSR2)
    return 0
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedSlurm:
    return PretendedSlurm(tmp_path / "commands", monkeypatch)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A job changes signals, its arguments and its environment."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr("dre_ssod.launch.slurm.WAIT_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)
    handlers, environment = [signal.getsignal(number) for number in numbers], dict(os.environ)
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)


def test_jobs_are_long_requeued_and_of_this_checkout(slurm: PretendedSlurm, tmp_path: Path) -> None:
    options = {"slurm_partition": "gpu", "gpus_per_node": 2}
    [job] = submit(Requeued(print), tmp_path / "jobs", options)
    assert job.job_id == JOB
    asked = (tmp_path / "jobs" / f"{JOB}_submission.sh").read_text().splitlines()
    flags = ["time=240", "signal=USR2@120", "requeue", "partition=gpu", "gpus-per-node=2"]
    assert {f"#SBATCH --{flag}" for flag in flags} <= {*asked}
    assert f"export PYTHONPATH={ROOT}${{PYTHONPATH:+:$PYTHONPATH}}" in asked
    assert not any("--array" in line for line in asked)
    # What is asked for wins.
    jobs = submit(Requeued(print), tmp_path / "more", {"timeout_min": 30}, count=3)
    assert [job.job_id for job in jobs] == [f"{JOB}_{number}" for number in range(3)]
    asked = (tmp_path / "more" / f"{JOB}_submission.sh").read_text().splitlines()
    assert {"#SBATCH --time=30", "#SBATCH --array=0-2%3"} <= {*asked}


def test_a_job_that_makes_room_is_requeued_and_knows_it(
    slurm: PretendedSlurm, tmp_path: Path
) -> None:
    program = tmp_path / "train_net.py"
    program.write_text(TRAINING)
    [job] = submit(Requeued(run_file, program, ["SEED", "1"]), tmp_path / "jobs", {})
    slurm.enter_job()
    with pytest.raises(SystemExit):
        process_job(tmp_path / "jobs")
    assert slurm.calls[-1] == f"scontrol requeue {JOB}"
    assert not job.paths.result_pickle.exists()
    slurm.enter_job(restarts=1)
    process_job(tmp_path / "jobs")
    assert (tmp_path / "said").read_text().splitlines() == ["SEED 1", "SEED 1"]
    assert job.paths.result_pickle.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("train_net.py", ["SEED", "1"]), ("train_net.py", ["--resume"]), ("other.py", [])],
)
def test_a_requeued_job_has_the_same_words(
    slurm: PretendedSlurm, tmp_path: Path, name: str, words: list[str]
) -> None:
    (tmp_path / name).write_text("import sys\ndef run(words):\n    return words != sys.argv[1:]\n")
    slurm.enter_job(restarts=1)
    run_file(tmp_path / name, words)
    assert sys.argv[1:] == words


def test_a_program_that_fails_fails_its_job(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("def run(words):\n    return 2\n")
    with pytest.raises(RuntimeError, match=r"tool\.py ended with 2"):
        run_file(tmp_path / "tool.py", [])


def test_what_saves_nothing_is_ended_at_once(slurm: PretendedSlurm) -> None:
    slurm.enter_job()
    requeued: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: requeued.append(number))

    def act() -> None:
        signal.raise_signal(signal.SIGUSR2)
        raise AssertionError("it continues")

    with pytest.raises(SystemExit, match="143"):
        Requeued(act)()
    assert requeued == [signal.SIGUSR2]


def test_who_ends_unasked_is_not_requeued(slurm: PretendedSlurm) -> None:
    """As by scancel, whose SIGTERM a training acts upon."""
    slurm.enter_job()
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    with pytest.raises(SystemExit, match="143"):
        Requeued(sys.exit, 143)()


def test_processes_of_a_job_find_each_other(slurm: PretendedSlurm) -> None:
    slurm.enter_job(rank=1, processes=2)
    found: dict[str, str] = {}
    Requeued(lambda: found.update(os.environ))()
    named = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [found[name] for name in named] == ["1", "2", "1", "2", "node3"]
    assert 1023 < int(found["MASTER_PORT"]) < 65536


def test_what_keeps_a_job_from_slurm_is_named(
    slurm: PretendedSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Requeued(print)
    for options in ({"partiton": "gpu"}, {"slurm_partiton": "gpu"}, {"nodes": "two"}):
        [name] = options
        with pytest.raises(UserError, match=rf"does not take the job of .*{name}"):
            submit(job, tmp_path / "jobs", options)
    (tmp_path / "commands" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 1\n")
    with pytest.raises(UserError, match="no such partition"):
        submit(job, tmp_path / "jobs", {})
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="are you indeed on a slurm cluster"):
        submit(job, tmp_path / "jobs", {})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        submit(job, tmp_path / "jobs", {})
