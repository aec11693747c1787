"""What was left out of a set or found odd while it was read: said once, in the log or the audit."""

from __future__ import annotations

import logging
from collections import defaultdict

from detectron2.utils.logger import log_first_n

from dre_ssod.data.kinds import KINDS
from dre_ssod.errors import printable

_LEVELS = {"error": logging.WARNING, "warning": logging.WARNING, "note": logging.DEBUG}


class Remarks:
    """What is to be said of one set, by kind.

    Attributes:
        items: a text for each thing concerned, by key of :data:`dre_ssod.data.kinds.KINDS`.
    """

    def __init__(self) -> None:
        self.items: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, item: str) -> None:
        """Note one thing of a kind."""
        self.items[kind].append(item)

    def log(self, name: str) -> None:
        """One line for each kind, in a process once for the same count and the same first item."""
        for kind, items in self.items.items():
            count, first = (f"{len(items)} x ", "; the first") if len(items) > 1 else ("", "")
            message = f"{name}: {count}{kind} ({KINDS[kind].meaning}){first}: {items[0]}"
            level = _LEVELS[KINDS[kind].severity]
            log_first_n(level, printable(message), key="message", name=__name__)
