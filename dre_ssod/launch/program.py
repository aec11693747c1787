"""How a program starts its processes, and how it ends when its user can put something right."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import socket
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any

import torch

from dre_ssod.config.reading import read_config
from dre_ssod.errors import ConfigError, UserError, printable
from dre_ssod.launch.log_file import writes_a_file
from dre_ssod.launch.processes import (
    ADVICE_FOR_KILLED,
    is_lost_process,
    is_torchrun,
    launch,
    passing_signals_on,
)
from dre_ssod.launch.signals import exit_code
from dre_ssod.launch.streams import (
    PIPE_CODE,
    losing_output_quietly,
    reader_is_gone,
    showing_all_names,
)
from dre_ssod.memory.allocator import keep_freed_memory
from dre_ssod.workers import after_parent, share_imports

USER_ERROR_CODE = 2
"""Exit code of a program that its user's input stopped; argparse ends with the same."""
PATIENCE = 10.0
"""Seconds that a process waits for its end after another one of its run has died."""
TRACEBACK_VARIABLE = "DRE_SSOD_TRACEBACK"
"""Environment variable: 1 prints the traceback of user errors, too."""

logger = logging.getLogger(__name__)

# FloatingPointError: losses that are not finite, named by the training step.
_EXPECTED = (UserError, OSError, FloatingPointError, torch.OutOfMemoryError)
_URL = re.compile(r"tcp://(?P<host>[^:/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d+)")


def run_program(main: Callable[..., int | None], *arguments: Any) -> int:
    """Run ``main(*arguments)``; an error that its user can put right becomes a paragraph on stderr.

    Every program has ``parse_arguments(words)``, ``main(args)``, which may return an exit code of
    its own, and ``run(words)``, which gives the one to the other by this function.

    Returns:
        The exit code: that of ``main``, 0 if it gives none, or ``USER_ERROR_CODE``. Mistakes of the
        program are raised as they are.
    """
    keep_freed_memory()
    share_imports()
    with losing_output_quietly(), showing_all_names():
        try:
            with _TrainingTracebacks():
                return main(*arguments) or 0
        except Exception as error:
            if not _is_expected(error):
                raise
            if isinstance(error, BrokenPipeError) and reader_is_gone():
                return PIPE_CODE
            report(error)
            return USER_ERROR_CODE


def launch_processes(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Start or join the processes of a run; a user error of any of them is reported once.

    Args:
        main: of one process.
        args: of ``train_net.py``, or of a program with its flags. MODEL.DEVICE of their config
            says whether the processes share GPUs or the CPU.

    Raises:
        ConfigError: if the arguments cannot be used on this machine, or the config not be read.
        SystemExit: with the code of one of several processes that ended early:
            ``USER_ERROR_CODE`` after a user error, see :mod:`dre_ssod.launch.signals` for others.
    """
    device = read_config(args.config_file, args.opts).MODEL.DEVICE
    check_arguments(args, device)
    several = args.num_gpus * args.num_machines > 1 and not is_torchrun()
    reported = get_context("spawn").Value("b", 0) if several else None
    try:
        launch(
            _run_process if several else main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            on_gpus=_on_gpus(device),
            args=(main, args, reported) if several else (args,),
        )
    except SystemExit:
        # A process that was ended while another one failed may be the first to be noticed.
        if reported is not None and reported.value:
            sys.exit(USER_ERROR_CODE)
        raise


def launch_apart(main: Callable[..., Any], args: argparse.Namespace) -> None:
    """Run ``main(args, rank)`` in ``args.num_gpus`` processes that do not need each other.

    One that ends early is named, and the others continue.

    Args:
        main: of one process.
        args: as of :func:`launch_processes`.

    Raises:
        ConfigError: if the arguments cannot be used on this machine, or the config not be read.
        SystemExit: if no process came to its end, with the code of the first one.
    """
    check_arguments(args, read_config(args.config_file, args.opts).MODEL.DEVICE)
    if args.num_gpus == 1:
        main(args, 0)
        return
    context = get_context("spawn")
    reported = context.Value("b", 0)
    started = [
        context.Process(target=_run_alone, args=(partial(main, rank=rank), args, reported))
        for rank in range(args.num_gpus)
    ]
    codes = []
    with passing_signals_on():
        for process in started:
            process.start()
        running: dict[Any, int] = {p.sentinel: number for number, p in enumerate(started)}
        while running:
            for sentinel in wait(list(running)):
                number = running.pop(sentinel)
                started[number].join()
                code = started[number].exitcode or 0
                if code < 0:
                    name = signal.Signals(-code).name
                    logger.warning("Process %d was ended by %s.", number, name)
                codes.append(code if code >= 0 else exit_code(-code))
    if 0 not in codes:
        sys.exit(codes[0])


def _run_alone(main: Callable[..., Any], args: argparse.Namespace, reported: Any) -> None:
    """One of the processes of :func:`launch_apart`."""
    # The starting process passes signals on: once.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    after_parent(lambda: os._exit(1))
    _run_process(main, args, reported)


def _run_process(
    main: Callable[[argparse.Namespace], Any], args: argparse.Namespace, reported: Any
) -> None:
    """One of several processes; ``reported`` is shared and counts the messages that were printed.

    ``SystemExit`` leaves through ``torch.multiprocessing`` without a traceback.
    """
    keep_freed_memory()
    share_imports()
    with losing_output_quietly(), showing_all_names():
        try:
            with _TrainingTracebacks():
                main(args)
        except Exception as error:
            if not _is_expected(error):
                raise
            if is_lost_process(error):
                # The process that started this one knows which one died, and of what, and ends
                # this one; not so where it died on another machine.
                time.sleep(PATIENCE)
            with reported.get_lock():
                if not reported.value:
                    reported.value = 1
                    report(error)
            sys.exit(USER_ERROR_CODE)


def _is_expected(error: BaseException) -> bool:
    return isinstance(error, _EXPECTED) or is_lost_process(error)


def report(error: BaseException) -> None:
    """Print what a user error says, and leave its traceback in the log file of the run."""
    record = logging.LogRecord(
        "dre_ssod", logging.DEBUG, __file__, 0, "%s", (error,), (type(error), error, None)
    )
    record.exc_text = "".join(traceback.format_exception(error))
    for handler in logging.getLogger("dre_ssod").handlers:
        if writes_a_file(handler):
            handler.handle(record)
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        traceback.print_exception(error)
    # Names out of files may steer a terminal.
    text = printable(f"error: {describe(error)}")
    lines = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """What happened and what to do."""
    if is_lost_process(error):
        return (
            "another process of this run has ended, and this one cannot continue without it. What "
            f"it printed says why; if it printed nothing, it was killed. {ADVICE_FOR_KILLED}"
        )
    if isinstance(error, torch.OutOfMemoryError):
        said = str(error).splitlines()[0]
        if "SOLVER." not in said:
            said += " Lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST, or TEST.IMS_PER_BATCH."
        return f"out of GPU memory: {said}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. {TRACEBACK_VARIABLE}=1 shows where."
    return str(error)


def check_arguments(args: argparse.Namespace, device: str) -> None:
    """Refuse process counts and addresses that this machine cannot start.

    Args:
        device: MODEL.DEVICE.

    Raises:
        ConfigError: naming the argument, or MODEL.DEVICE.
    """
    for name in ("num_gpus", "num_machines"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{_dashed(name)} is {getattr(args, name)}; it must be at least 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank is {args.machine_rank}; with --num-machines {args.num_machines} it "
            f"must be 0 to {args.num_machines - 1}, another number on each machine"
        )
    if _on_gpus(device) and args.num_gpus > (found := torch.cuda.device_count()):
        raise ConfigError(f"--num-gpus is {args.num_gpus}, but this machine has {found} GPU(s)")
    started = args.num_gpus * args.num_machines
    processes = int(os.environ["WORLD_SIZE"]) if is_torchrun() else started
    if processes > 1 and device.startswith("cuda:"):
        raise ConfigError(
            f"MODEL.DEVICE is {device!r}, but there are {processes} processes, which cannot share "
            "a GPU: 'cuda' gives each its own; CUDA_VISIBLE_DEVICES says which ones there are"
        )
    if is_torchrun():
        if started > 1:
            raise ConfigError(
                "torchrun starts the processes: leave out --num-gpus and --num-machines and use "
                "torchrun's --nproc-per-node and --nnodes"
            )
    elif started > 1:
        _check_address(args)


def _on_gpus(device: str) -> bool:
    """Whether a model of MODEL.DEVICE is on a GPU; where there is none, it goes to the CPU."""
    return device.startswith("cuda") and torch.cuda.is_available()


def _check_address(args: argparse.Namespace) -> None:
    url = args.dist_url
    if url.startswith("file:///") or (url == "auto" and args.num_machines == 1):
        return
    match = _URL.fullmatch(url)
    port = int(match["port"]) if match else 0
    if not 1 <= port <= 65535:
        hint = "; auto works on one machine only" if url == "auto" else ""
        raise ConfigError(
            f"--dist-url is {url!r}{hint}; it must be tcp://HOST:PORT with the address of machine "
            "0 and a free port of it from 1 to 65535, or auto on one machine"
        )
    if args.machine_rank == 0 and not _is_free(port):
        raise ConfigError(
            f"--dist-url is {url!r}, but port {port} is in use, probably by another run: use "
            "--dist-url auto, or another port"
        )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class _TrainingTracebacks:
    """While entered, Detectron2's training loop logs user errors without a traceback."""

    _logger = logging.getLogger("detectron2.engine.train_loop")

    def __enter__(self) -> None:
        self._logger.addFilter(self._shorten)

    def __exit__(self, *_: object) -> None:
        self._logger.removeFilter(self._shorten)

    @staticmethod
    def _shorten(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] and _is_expected(record.exc_info[1]):
            record.msg, record.args = "Training stopped: %s", (record.exc_info[1],)
            record.exc_info = None
        return True
