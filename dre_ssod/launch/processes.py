"""Starts the processes of a run, or joins those that torchrun started, and passes signals on."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import platform
import re
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from dre_ssod.errors import ConfigError
from dre_ssod.launch.signals import exit_code, wanted_signals

TORCHRUN_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)

ADVICE_FOR_KILLED = (
    "Where nobody killed it, the system did, most often for lack of memory: its log (dmesg, or the "
    "scheduler's) says so, and fewer DATALOADER.NUM_WORKERS or a smaller SOLVER.IMS_PER_BATCH need "
    "less. Continue with --resume."
)
_LOST = re.compile(
    r"Connection (closed|reset) by peer|NCCL.*(remote process|aborted|unhandled system error)"
    r"|gloo.*(closed|reset|[Tt]imed out|refused)",
    re.DOTALL,
)

logger = logging.getLogger(__name__)


def is_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in TORCHRUN_VARIABLES)


def is_restart() -> bool:
    """Whether torchrun or Slurm started this process again, after one had died or made room."""
    return (is_torchrun() and _restart_count() > 0) or _restart_count("SLURM_RESTART_COUNT") > 0


def launched_by() -> list[str]:
    """The agent of torchrun and the job of Slurm that this process belongs to, where there are.

    They outlast restarts, and no other launch has the same.
    """
    found = []
    if (run := os.environ.get("TORCHELASTIC_RUN_ID")) is not None:
        found.append(f"torchrun {run}: {platform.node()}, process {_parent()}")
    if (job := os.environ.get("SLURM_JOB_ID")) is not None:
        found.append(f"job {job} of Slurm")
    return found


def _restart_count(variable: str = "TORCHELASTIC_RESTART_COUNT") -> int:
    return int(os.environ.get(variable, "0"))


def _parent() -> str:
    """The number of the process that started this one, and when that began, in Linux's ticks.

    In a container every agent of torchrun may have the same number.
    """
    number, began = os.getppid(), ""
    with contextlib.suppress(OSError):
        began = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{number} {began}".rstrip()


def launch(
    main: Callable[..., Any],
    num_gpus: int,
    *,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    on_gpus: bool,
    args: Sequence[Any],
) -> None:
    """Run ``main(*args)`` in every process of a run.

    Under torchrun this process joins the others; else it starts ``num_gpus`` of them on this
    machine, or runs alone where there is one.

    Args:
        on_gpus: whether each process has a GPU of its own, by which they exchange tensors (NCCL);
            else they do so by the CPU (gloo), whatever GPUs the machine has.

    Raises:
        ConfigError: under torchrun, if a machine has fewer GPUs than processes.
        SystemExit: if a started process ended early, with its exit code, which is 128 and the
            number of the signal where it died of one.
    """
    if is_torchrun():
        _join_torchrun(on_gpus)
        main(*args)
        dist.destroy_process_group()
        return
    if num_gpus * num_machines == 1:
        main(*args)
        return
    address = f"tcp://127.0.0.1:{_free_port()}" if dist_url == "auto" else dist_url
    group = _Group(address, num_gpus, num_machines, machine_rank, on_gpus)
    try:
        with passing_signals_on():
            start_processes(_run_apart, (group, main, args), nprocs=num_gpus, daemon=False)
    except ProcessExitedException as error:
        # Negative where a signal ended the process.
        if error.exit_code >= 0:
            logger.error("%s", error)
            sys.exit(error.exit_code)
        name = signal.Signals(-error.exit_code).name
        text = (
            f"error: process {error.error_index} of the run was ended by {name}, and the others "
            f"with it. {ADVICE_FOR_KILLED}"
        )
        print("\n".join(textwrap.wrap(text, 100)), file=sys.stderr, flush=True)
        sys.exit(exit_code(-error.exit_code))


def is_lost_process(error: BaseException | None) -> bool:
    """Whether a process failed because another one of its run had ended."""
    # Gloo's errors have no type of their own.
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistNetworkError) or _LOST.search(str(error)) is not None
    )


def _join_process_group(backend: str) -> None:
    """Make the processes that torchrun started one group."""
    timeout = DEFAULT_TIMEOUT
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # The agent's store outlives a restart: under the names of dead processes, the new ones would
    # wait for them.
    store = PrefixStore(f"restart_{_restart_count()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _join_torchrun(on_gpus: bool) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    if on_gpus:
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun --nproc-per-node is {os.environ['LOCAL_WORLD_SIZE']}, but this machine "
                f"has {torch.cuda.device_count()} GPU(s)"
            )
        torch.cuda.set_device(local_rank)
    _join_process_group(_backend(on_gpus))
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()


def _backend(on_gpus: bool) -> str:
    return "nccl" if on_gpus else "gloo"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _Group:
    """Who trains together."""

    address: str
    num_gpus: int
    num_machines: int
    machine_rank: int
    on_gpus: bool

    def join(self, local_rank: int) -> None:
        """Become one of them."""
        if self.on_gpus:
            torch.cuda.set_device(local_rank)
        dist.init_process_group(
            _backend(self.on_gpus),
            init_method=self.address,
            world_size=self.num_gpus * self.num_machines,
            rank=self.machine_rank * self.num_gpus + local_rank,
            timeout=DEFAULT_TIMEOUT,
        )
        comm.create_local_process_group(self.num_gpus)
        comm.synchronize()


def _run_apart(local_rank: int, group: _Group, main: Callable[..., Any], args: Any) -> None:
    """Run in a process group of its own.

    A Ctrl-C in the terminal then reaches the starting process alone, which passes it on: once.
    """
    os.setpgrp()
    group.join(local_rank)
    main(*args)
    dist.destroy_process_group()


@contextlib.contextmanager
def passing_signals_on() -> Iterator[None]:
    """While entered, signals go to the processes that this one started, which end by themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in wanted_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
