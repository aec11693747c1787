"""Processes of runs: what they print, what they took, and how they end."""

from __future__ import annotations

import json
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
from submitit.core.submission import process_job

from dre_ssod.errors import UserError
from dre_ssod.tables.processes import CONSOLE, SlurmRun, SlurmStarter, _run_locally
from tests.launch.pretended_slurm import JOB, PretendedSlurm


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(
        "import os, sys, cv2, torch\n"
        "def run(words):\n"
        "    os.write(1, ' '.join([*sys.argv, '']).encode())\n"
        "    os.write(1, f'{cv2.getNumThreads()}/{torch.get_num_threads()} threads'.encode())\n"
        "    return int(words[0])\n"
    )
    return path


@pytest.mark.parametrize("code", [0, 2])
def test_a_local_run_prints_into_its_folder_and_tells_how_it_ended(
    program: Path, tmp_path: Path, code: int
) -> None:
    # Forked, which takes no time; the demo of tests/launch/test_endings.py starts them as it does.
    process = get_context("fork").Process(
        target=_run_locally, args=(program, [str(code), "word"], tmp_path, 3)
    )
    process.start()
    process.join()
    assert process.exitcode == min(code, 1)
    assert (tmp_path / CONSOLE).read_text() == f"program.py {code} word 3/3 threads"
    [life] = json.loads((tmp_path / "cost.json").read_text())["lives"]
    assert life["peak_mib"] > 100.0
    assert 0.0 <= life["wall_seconds"] < 60.0


def test_a_run_of_slurm_prints_into_its_folder_and_tells_how_it_ended(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = PretendedSlurm(tmp_path / "commands", monkeypatch)
    run = SlurmStarter(program, 3, {"slurm_partition": "gpu"})(["0", "word"], tmp_path)
    asked = (tmp_path / "slurm" / f"{JOB}_submission.sh").read_text().splitlines()
    flags = ["cpus-per-task=3", "partition=gpu", f"job-name={tmp_path.name}"]
    assert {f"#SBATCH --{flag}" for flag in flags} <= {*asked}
    assert run.exit_code() is None
    slurm.enter_job()
    process = get_context("fork").Process(target=process_job, args=(tmp_path / "slurm",))
    process.start()
    process.join()
    assert run.exit_code() == 0
    assert (tmp_path / CONSOLE).read_text().startswith("program.py 0 word ")
    run.stop()


class Job:
    """Of submitit."""

    def __init__(self, done: bool) -> None:
        self._done, self.cancelled = done, False

    def done(self) -> bool:
        return self._done

    def exception(self) -> Exception:
        return RuntimeError("program.py ended with 2")

    def cancel(self) -> None:
        self.cancelled = True


def test_a_job_that_failed_says_so_and_one_that_runs_can_be_stopped() -> None:
    failed, running = Job(done=True), Job(done=False)
    assert (SlurmRun(failed).exit_code(), SlurmRun(running).exit_code()) == (1, None)
    for job in (failed, running):
        SlurmRun(job).stop()
    assert (failed.cancelled, running.cancelled) == (False, True)


def test_what_keeps_runs_from_slurm_is_named(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"does not take the job of .*partiton"):
        SlurmStarter(program, 1, {"partiton": "gpu"}, cluster="local")([], tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        SlurmStarter(program, 1, {})([], tmp_path)
