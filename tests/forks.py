"""Programs as forks of the process of the tests, which has imported all that they would take
seconds to import."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing.spawn import start_processes


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, minus the number of the signal where one killed it, and
    all that it and its processes printed."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(main: Callable[..., object], *arguments: object, folder: Path) -> Ended:
    """Call a function in a fork and wait for its end; ``sys.exit`` gives the code.

    Args:
        folder: where it works.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        work = functools.partial(_work_in, folder, main, *arguments)
        process = multiprocessing.get_context("fork").Process(
            target=_redirected, args=(work, printed.fileno(), complained.fileno())
        )
        process.start()
        process.join()
        texts = []
        for file in (printed, complained):
            file.seek(0)
            texts.append(file.read().decode())
        assert process.exitcode is not None
        return Ended(process.exitcode, *texts)


def run_script(path: Path, words: Sequence[str], folder: Path) -> Ended:
    """Run a script as ``python PATH WORDS`` does, in a fork."""
    return run_forked(_run_script, path, words, folder=folder)


def fork_processes_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--num-gpus 2`` fork its processes, which it spawns; what those get is still pickled."""

    def start(function: Callable[..., None], args: Any, **options: Any) -> Any:
        group, main, (work, arguments, _) = args
        pickle.dumps((function, group, main, work, arguments))
        return start_processes(function, args, **options, start_method="fork")

    monkeypatch.setattr("dre_ssod.launch.processes.start_processes", start)


def run_two_processes(work: Callable[..., object], *arguments: object, folder: Path) -> list[Any]:
    """What a function gives in each of two forks that are one process group, of a thread each.

    Args:
        work: gets its rank, then the arguments; gives tensors and plain values, nested at will.
        folder: empty of what an earlier call has left; they meet there.
    """
    start_processes(_in_group, (work, arguments, folder), 2, start_method="fork")
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


def fork_server() -> ForkServerContext:
    """Starts processes that get all of their arguments pickled and nothing else of this one, as
    spawned ones do, from one server that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    # What a run imports when it needs it, each would.
    late = ("timm", "torch._dynamo", "torch.utils.tensorboard")
    context.set_forkserver_preload(["tests.engine.resume_harness", *late, "tests.frozen"])
    return context


def print_as_programs_do(main: Callable[..., object], *arguments: object) -> None:
    """Call a function of a fork, whose output then goes to its file descriptors, not to pytest."""
    with (
        open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,
        open(2, "w", encoding="utf-8", buffering=1, closefd=False) as sys.stderr,
    ):
        main(*arguments)


def _redirected(main: Callable[[], object], stdout: int, stderr: int) -> None:
    # What pytest has not written yet is written by pytest.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    assert sys.__stdout__ is not None
    sys.__stdout__.flush()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    print_as_programs_do(main)


def _in_group(
    rank: int, work: Callable[..., object], arguments: Sequence[object], folder: Path
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    torch.save(work(rank, *arguments), folder / f"{rank}.pth")
    dist.destroy_process_group()


def _work_in(folder: Path, main: Callable[..., object], *arguments: object) -> None:
    os.chdir(folder)
    main(*arguments)


def _run_script(path: Path, words: Sequence[str]) -> None:
    sys.argv = [str(path), *words]
    runpy.run_path(str(path), run_name="__main__")
