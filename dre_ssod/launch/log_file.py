"""What belongs into ``log.txt`` alone: config, environment and model would bury the console."""

from __future__ import annotations

import logging
from pathlib import Path

FILE_ONLY = {"file_only": True}
"""``extra`` of a log record that the console passes over."""


def keep_off_the_console(*loggers: str) -> None:
    """Have the console pass over records that are marked ``FILE_ONLY``; files take all."""
    for name in loggers:
        for handler in logging.getLogger(name).handlers:
            if not writes_a_file(handler):
                handler.addFilter(_is_for_the_console)


def writes_a_file(handler: logging.Handler) -> bool:
    """Whether the records of a handler go to a file, and not to a console or a pipe."""
    return Path(str(getattr(getattr(handler, "stream", None), "name", ""))).is_file()


def _is_for_the_console(record: logging.LogRecord) -> bool:
    return not getattr(record, "file_only", False)
