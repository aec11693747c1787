"""Programs that end in every way; all are forked from one process that has imported them once.

``python -m tests.launch.endings FILE`` runs what a JSON file lists and prints how it went, as JSON.
"""

from __future__ import annotations

import gc
import glob
import importlib
import json
import multiprocessing
import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

AT_ONCE = 3
"""Programs that run side by side."""
LATE = ("torch._dynamo", "torch.utils.tensorboard")
"""What trainings import when they need it, which takes seconds; each of them would."""
PATIENCE = 60.0
"""Seconds in which the processes of a program must end once it has ended."""
LONGEST = 900.0
"""Seconds from its start in which a program must have ended."""


@dataclass(frozen=True)
class Ending:
    """A program and how it is made to end.

    Attributes:
        program: a module; its ``run`` takes the words.
        words: its command line.
        method: by which Python starts its processes: fork, spawn or forkserver.
        sign: pattern of a file that the program writes while its own processes work.
        processes: how many there are then, the program included.
        send: number of the signal that the program is then sent; 0 lets it end by itself.
        to_group: whether its processes get the signal as well, as by Ctrl-C.
    """

    program: str
    words: Sequence[str]
    method: str
    sign: str = ""
    processes: int = 1
    send: int = 0
    to_group: bool = False


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Attributes:
        code: of the program; minus the number of the signal where one killed it.
        left: command lines of those that were still there when it was not waited for any longer.
        output: all that was printed.
    """

    code: int
    left: list[str]
    output: str


def main() -> None:
    """Run all, a few at a time."""
    endings = [Ending(**item) for item in json.loads(Path(sys.argv[1]).read_text())]
    programs = {name: importlib.import_module(name).run for name in {e.program for e in endings}}
    for name in LATE:
        importlib.import_module(name)
    # Programs need not look through all of that for garbage.
    gc.freeze()
    waiting = list(enumerate(endings))
    running: list[_Running] = []
    outcomes: dict[int, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, ending = waiting.pop(0)
            running.append(_Running(number, ending, programs[ending.program]))
        for item in running[:]:
            outcome = item.look()
            if outcome is not None:
                running.remove(item)
                outcomes[item.number] = outcome
        time.sleep(0.1)
    print(json.dumps([asdict(outcomes[number]) for number in range(len(endings))]))


class _Running:
    """A program that was started. Whatever it starts holds its standard output open, too."""

    def __init__(self, number: int, ending: Ending, program: Any) -> None:
        self.number = number
        self._ending = ending
        self._deadline = time.monotonic() + LONGEST
        self._code: int | None = None
        self._sent = ending.send == 0
        self._output = b""
        reading, writing = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            os.setsid()
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            multiprocessing.set_start_method(ending.method, force=True)
            # Through the interpreter's own end, as every program.
            sys.exit(program(list(ending.words)))
        os.close(writing)
        self._selector = selectors.DefaultSelector()
        self._reading = os.fdopen(reading, "rb", buffering=0)
        self._selector.register(self._reading, selectors.EVENT_READ)

    def look(self) -> Outcome | None:
        """The outcome, once there is one."""
        closed = False
        while not closed and self._selector.select(0.0):
            found = self._reading.read(1 << 16)
            closed = not found
            self._output += found or b""
        if not self._sent and self._works():
            self._sent = True
            send = os.killpg if self._ending.to_group else os.kill
            send(self._process, self._ending.send)
        if self._code is None:
            process, status = os.waitpid(self._process, os.WNOHANG)
            if process:
                self._code = os.waitstatus_to_exitcode(status)
                self._deadline = time.monotonic() + PATIENCE
        late = time.monotonic() > self._deadline
        if not (late or (closed and self._code is not None)):
            return None
        left = _session(self._process)
        for process in left:
            os.kill(process, signal.SIGKILL)
        if self._code is None:
            _, status = os.waitpid(self._process, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return Outcome(self._code, list(left.values()), self._output.decode())

    def _works(self) -> bool:
        if self._ending.sign and not glob.glob(self._ending.sign):
            return False
        return len(_session(self._process)) >= self._ending.processes


def _session(leader: int) -> dict[int, str]:
    """Command lines of the processes of a session that still run, by their numbers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        # Of a process that is just ending the files are closed, after its memory has gone.
        if int(session) == leader and state != "Z" and words:
            found[int(folder.name)] = words
    return found


if __name__ == "__main__":
    main()
