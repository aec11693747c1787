"""What becomes of a program's output: names that steer a terminal or that it cannot show, a full
disk, a reader that left."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator

from dre_ssod.errors import printable

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
PIPE_CODE = 128 + signal.SIGPIPE
"""Exit code of a program that printed to a pipe whose reader had left, as of any other."""
_COLOR = re.compile(r"(\x1b\[\d{1,2}m)")
"""What Detectron2 colors its tables with."""


@contextlib.contextmanager
def losing_output_quietly() -> Iterator[None]:
    """While entered, log records that their stream cannot take are lost without a word.

    Else ``logging`` prints a traceback for each, and TensorBoard's thread one of its own, which
    bury what the program has to say itself: that the disk is full. At the end, streams with records
    that they could not write are closed, and nothing tries again at the exit of the interpreter.
    """
    handle_error, end_thread = logging.Handler.handleError, threading.excepthook

    def handle(handler: logging.Handler, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            handle_error(handler, record)

    def end(args: threading.ExceptHookArgs) -> None:
        # Who reads the thread's results meets the error there.
        if getattr(args.exc_value, "errno", None) not in _NO_SPACE:
            end_thread(args)

    logging.Handler.handleError = handle  # type: ignore[assignment,method-assign]
    threading.excepthook = end
    try:
        yield
    finally:
        threading.excepthook = end_thread
        logging.Handler.handleError = handle_error  # type: ignore[method-assign]
        _give_up_what_is_lost()


@contextlib.contextmanager
def showing_all_names() -> Iterator[None]:
    """While entered, names of files, sets and classes are shown, whatever characters they have.

    A console that does not know a character shows its escape, and so is shown what would steer a
    terminal: in log messages, also in those of Detectron2, which keep their colors.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_PrintableRecord)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def keep_in_utf8(logger: logging.Logger) -> None:
    """Have the log files of a logger in UTF-8; Detectron2 opens them in what the locale says."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(stream, io.TextIOWrapper) and stream not in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        message = super().getMessage()
        if self.name.partition(".")[0] == "dre_ssod":
            return printable(message)
        parts = _COLOR.split(message)
        # Every second part is a color.
        return "".join(part if i % 2 else printable(part) for i, part in enumerate(parts))


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _give_up_what_is_lost() -> None:
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    streams = {
        id(stream): stream
        for logger in loggers
        for handler in logger.handlers
        if (stream := getattr(handler, "stream", None)) not in (None, sys.stdout, sys.stderr)
    }
    for stream in streams.values():
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                stream.close()
        except ValueError:
            # It was closed before.
            continue
    try:
        sys.stdout.flush()
    except OSError:
        # What is left in the buffer goes where it disturbs nobody.
        with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
