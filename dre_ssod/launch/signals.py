"""What a run does when a signal asks it to stop or to save.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is gone) save a checkpoint and end the run,
SIGUSR1 saves and lets it continue. A signal is noted when it comes and acted upon at the end of a
step, in which all processes have learned of it by the exchange of losses that it makes anyway. A
step that does not end, as it waits for a file or for another process, does not keep a run from
ending: ``PATIENCE`` after a signal to stop, the process is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_STOPS = tuple(number for number in SIGNALS if number != signal.SIGUSR1)
PATIENCE = 300.0
"""Seconds that a run has to save and end after it was asked to stop."""
_OVER = b"\0"
"""Ends the thread that waits for signals; the number of none."""

logger = logging.getLogger(__name__)


def exit_code(signal_number: int) -> int:
    """The exit code of a run that a signal ended: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + signal_number


def wanted_signals() -> list[signal.Signals]:
    """The signals that a run acts upon; without SIGHUP where ``nohup`` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (number == signal.SIGHUP and is_ignored)]


class SignalRequests:
    """Signals that this process received, and what all processes agreed to do about them."""

    def __init__(self) -> None:
        self._received: set[signal.Signals] = set()
        self._at_once = False
        self.save = False
        self.stop: signal.Signals | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Note signals instead of dying of them. Only the main thread can; others do nothing."""
        if threading.current_thread() is not threading.main_thread():
            logger.warning("Training runs outside the main thread: signals will not save it.")
            yield
            return
        before = {number: signal.signal(number, self._note) for number in wanted_signals()}
        try:
            with _ending_at_last():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        self._received.add(received)
        if received == signal.SIGINT:
            # A second Ctrl-C ends the process, wherever it is.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._at_once:
            self.exit_if_stopped()

    def pending(self) -> tuple[bool, ...]:
        """Which of ``SIGNALS`` came since they were last agreed upon."""
        return tuple(number in self._received for number in SIGNALS)

    def agree(self, counts: Sequence[int]) -> None:
        """Take up what any process received.

        Args:
            counts: :meth:`pending` of all processes, summed.
        """
        agreed = [number for number, count in zip(SIGNALS, counts, strict=True) if count]
        self._received -= {signal.SIGUSR1} & set(agreed)
        self.save = signal.SIGUSR1 in agreed
        self.stop = next((number for number in agreed if number != signal.SIGUSR1), None)
        if agreed:
            logger.info("%s: saving a checkpoint.", agreed[0].name)

    def exit_if_stopped(self) -> None:
        """End the process where it was asked to stop.

        Raises:
            SystemExit: with :func:`exit_code`.
        """
        stops = [number for number in _STOPS if number in self._received]
        stop = self.stop or next(iter(stops), None)
        if stop is not None:
            logger.info("%s: the run stops; continue it with --resume.", stop.name)
            raise SystemExit(exit_code(stop))

    @contextlib.contextmanager
    def acted_upon_at_once(self) -> Iterator[None]:
        """A stretch that can be cut short, since all that came before it is saved.

        Raises:
            SystemExit: as soon as the process is asked to stop, or was before.
        """
        self._at_once = True
        try:
            self.exit_if_stopped()
            yield
        except Exception:
            # Loading processes that a signal to the whole group ended, other processes that left.
            self.exit_if_stopped()
            raise
        finally:
            self._at_once = False


@contextlib.contextmanager
def _ending_at_last() -> Iterator[None]:
    """While entered, the process ends ``PATIENCE`` after a signal to stop if it has not by itself.

    A thread sees to it, which the interpreter tells of signals even where the main thread waits in
    a library and runs no handler.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    thread = threading.Thread(target=_end_at_last, args=(reading,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _OVER)
        thread.join()
        os.close(reading)
        os.close(writing)


def _end_at_last(pipe: int) -> None:
    stop, deadline = signal.SIGTERM, math.inf
    while True:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            break
        received = os.read(pipe, 1)
        if received == _OVER:
            return
        if deadline == math.inf and received[0] in _STOPS:
            stop, deadline = signal.Signals(received[0]), time.monotonic() + PATIENCE
    print(
        f"error: {stop.name} came {PATIENCE:g} seconds ago, and the iteration has not ended since: "
        "it waits for a file, a device or another process. The run ends without saving; continue "
        "from its last checkpoint with --resume.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(exit_code(stop))
