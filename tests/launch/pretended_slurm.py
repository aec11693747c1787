"""Commands of Slurm that take a job and run nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

JOB = "7"
"""The number of each job."""


class PretendedSlurm:
    """Its commands come first in PATH, and note how they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls = folder / "calls"
        self._monkeypatch = monkeypatch
        folder.mkdir()
        answers = {"sbatch": f"Submitted batch job {JOB}", "srun": "", "scontrol": "", "sacct": ""}
        for name, answer in answers.items():
            (folder / name).write_text(
                f'#!/bin/sh\necho {name} "$@" >> {self._calls}\necho {answer}\n', encoding="utf-8"
            )
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text(encoding="utf-8").splitlines()

    def enter_job(self, rank: int = 0, processes: int = 1, restarts: int = 0) -> None:
        """Let this process be one of the job."""
        variables = {
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": "",
            "SLURM_JOB_ID": JOB,
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "SLURM_NTASKS": processes,
            "SLURM_JOB_NUM_NODES": 1,
            "SLURM_JOB_NODELIST": "node3",
            "SLURM_RESTART_COUNT": restarts,
        }
        for name, value in variables.items():
            self._monkeypatch.setenv(name, str(value))
