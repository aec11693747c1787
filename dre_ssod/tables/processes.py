"""The processes of runs: on this machine, which they do not outlive, or by Slurm."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from dre_ssod.launch.slurm import Requeued, run_file, submit
from dre_ssod.runs.record import append_entry
from dre_ssod.tables.filed import COST
from dre_ssod.workers import after_parent, compute_with

CONSOLE = "console.txt"
"""In the folder of a run: what it has printed."""


class Started(Protocol):
    """A run that was started."""

    def exit_code(self) -> int | None:
        """0 where it came to its end, another number where it failed, None while it runs."""

    def stop(self) -> None:
        """Have it save and end, if it has not ended; returns once it has."""


class Starter(Protocol):
    """Starts ``PROGRAM words``, printing into a file in a folder that exists."""

    def __call__(self, words: list[str], folder: Path) -> Started: ...


class LocalRun:
    """A run in a process of this machine. It saves and ends when this program ends."""

    def __init__(self, program: Path, words: list[str], folder: Path, threads: int) -> None:
        """
        Args:
            program: a Python file with a function ``run(words)`` that returns an exit code.
            threads: of its computations.
        """
        # Read by the libraries that the new process loads; this one has loaded them.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._process: BaseProcess = get_context("spawn").Process(
            target=_run_locally, args=(program, words, folder, threads)
        )
        self._process.start()

    def exit_code(self) -> int | None:
        return self._process.exitcode

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


class SlurmRun:
    """A run that Slurm has in its queue, or on a machine; it does outlive this program."""

    def __init__(self, job: Any) -> None:
        """
        Args:
            job: of submitit.
        """
        self._job = job

    def exit_code(self) -> int | None:
        if not self._job.done():
            return None
        return 0 if self._job.exception() is None else 1

    def stop(self) -> None:
        if not self._job.done():
            self._job.cancel()


class LocalStarter:
    """Starts runs on this machine."""

    def __init__(self, program: Path, threads: int) -> None:
        self._program, self._threads = program, threads

    def __call__(self, words: list[str], folder: Path) -> LocalRun:
        return LocalRun(self._program, words, folder, self._threads)


class SlurmStarter:
    """Submits runs to Slurm; each has a folder that all machines must share."""

    def __init__(
        self, program: Path, threads: int, options: Mapping[str, Any], cluster: str = "slurm"
    ) -> None:
        """
        Args:
            options: of submitit's executor, such as ``slurm_partition``.
            cluster: as submitit names it.
        """
        self._program, self._cluster = program, cluster
        self._options = {"cpus_per_task": threads, **options}

    def __call__(self, words: list[str], folder: Path) -> SlurmRun:
        job = Requeued(run_program, self._program, words, folder)
        options = {"name": folder.name, **self._options}
        return SlurmRun(submit(job, folder / "slurm", options, cluster=self._cluster)[0])


def run_program(program: Path, words: list[str], folder: Path) -> None:
    """Run a program in this process, its output going to a file, and note what that took.

    Raises:
        RuntimeError: if its exit code is not 0.
    """
    begin = time.monotonic()
    with (folder / CONSOLE).open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        run_file(program, words)
    finally:
        append_entry(folder / COST, "lives", _taken(time.monotonic() - begin))


def _taken(wall_seconds: float) -> dict[str, float]:
    own, loading = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall_seconds": wall_seconds,
        "cpu_seconds": sum(part.ru_utime + part.ru_stime for part in (own, loading)),
        "peak_mib": own.ru_maxrss / 1024,
        "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20,
    }


def _run_locally(program: Path, words: list[str], folder: Path, threads: int) -> None:
    after_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    compute_with(threads)
    try:
        run_program(program, words, folder)
    except RuntimeError:
        sys.exit(1)
