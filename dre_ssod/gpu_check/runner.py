"""Runs each step in a process of its own, so that none can take the others down with it.

The processes are forked from a server that has imported everything and has not touched the GPU, so
that a step begins at once, with a GPU context of its own. What it found is kept however it ends,
and of one that hangs also where.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from dre_ssod.gpu_check.findings import CheckReport, Outcome, Setting, Step
from dre_ssod.memory.allocator import keep_freed_memory

# What steps import when they need it, which takes seconds; every process of a step would.
_LATE = ("matplotlib.pyplot", "torch._dynamo", "torch.utils.tensorboard")
CPU_PATIENCE = 4.0
"""Times its limit that a step of a dry run gets: it may share its cores."""
_LAST_WORDS = 2.0
"""Seconds before its end at which a step that hangs writes down where."""


def run_steps(
    steps: Sequence[Step], setting: Setting, report: CheckReport, patience: int = 1
) -> None:
    """Run steps one after the other; each ends within its limit, by force if need be.

    Args:
        steps: in this order.
        setting: where they run.
        report: grows with what they find.
        patience: times its limit that each gets.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["dre_ssod.gpu_check.steps", *_LATE])
    ended: dict[str, str] = {}
    for step in steps:
        outcome = report.begin(step.name)
        start = time.monotonic()
        if step.needs_gpu and not setting.on_gpu:
            outcome.state, outcome.error = "left out", "it needs a GPU"
        elif step.after and ended.get(step.after) not in ("passed", "missed"):
            outcome.state, outcome.error = "left out", f"it needs what {step.after} leaves behind"
        else:
            receiver, sender = context.Pipe(duplex=False)
            _stack_file(step, setting).touch()
            deadline = start + step.limit * patience * (1.0 if setting.on_gpu else CPU_PATIENCE)
            process = context.Process(target=_run, args=(step, setting, sender, deadline))
            process.start()
            sender.close()
            _listen(receiver, deadline, outcome, report)
            _end(process)
            if outcome.state == "timed out":
                outcome.error += "\n" + _stack_file(step, setting).read_text(encoding="utf-8")
        outcome.seconds = time.monotonic() - start
        ended[step.name] = outcome.state
        report.end(outcome)


def _stack_file(step: Step, setting: Setting) -> Path:
    return setting.folder / f"{step.name}.stack"


def _run(step: Step, setting: Setting, sender: Connection, deadline: float) -> None:
    """The process of a step; all that it starts belongs to its group."""
    os.setpgrp()
    with _stack_file(step, setting).open("w", encoding="utf-8") as file:
        # Also where Python itself hangs, as in a call of the driver.
        left = max(deadline - time.monotonic() - _LAST_WORDS, 0.1)
        faulthandler.dump_traceback_later(left, file=file)
        _find(step, setting, sender)
        faulthandler.cancel_dump_traceback_later()


def _find(step: Step, setting: Setting, sender: Connection) -> None:
    # As in a program of its own, for the processes that load images.
    multiprocessing.set_start_method(None, force=True)
    keep_freed_memory()
    try:
        for finding in step.run(setting):
            sender.send(finding)
        sender.send(None)
    except Exception:
        sender.send(traceback.format_exc())


def _listen(receiver: Connection, deadline: float, outcome: Outcome, report: CheckReport) -> None:
    """Take up what a step sends, until it says how it ended or its time is over."""
    while receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            found = receiver.recv()
        except EOFError:
            outcome.state, outcome.error = "ended", "the process of the step ended without a word"
            return
        if found is None:
            outcome.state = "passed" if all(goal.met for goal in outcome.goals) else "missed"
            return
        if isinstance(found, str):
            outcome.state, outcome.error = "failed", found
            return
        report.note(outcome, found)
    outcome.state, outcome.error = "timed out", "ended at its time limit; where it was before:"


def _end(process: BaseProcess) -> None:
    """End the process of a step, which may hang in a driver's call, and all that it has started."""
    process.join(0.5)
    assert process.pid is not None, "the process was started"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
