"""Where the host waits for a GPU, as PyTorch itself reports it on one."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

# Detectron2's containers and wrappers count for whoever calls them.
_OWNERS = {
    # Done in place of Detectron2's own.
    "dre_ssod.modeling.proposals.": "detectron2",
    "dre_ssod.": "dre_ssod",
    "detectron2.modeling.": "detectron2",
    "torch.autograd.": "backward",
    "torch.amp.": "scaler",
}
OWNERS = ("dre_ssod", "detectron2", "backward", "scaler", "other")
"""Whose the waits are: this project's, those of Detectron2's models or of what stands in for them,
of the backward pass, of PyTorch's GradScaler."""
_MESSAGE = "called a synchronizing CUDA operation"


class Waits:
    """The waits of a piece of work, by the place in the code that causes them.

    Attributes:
        places: number of waits by (owner, place), an owner out of ``OWNERS``.
        arrivals: copies to the host that an event announces (see ``transfers.HostCopy``); no waits.
            These and the next are counted only on a pretended GPU.
        unpinned: copies to the GPU out of memory that is not pinned, by code that does not wait for
            them; the driver puts them aside first.
    """

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()
        self.arrivals = 0
        self.unpinned = 0

    def of(self, owner: str) -> int:
        """The number of waits of one owner."""
        return sum(count for (name, _), count in self.places.items() if name == owner)

    def clear(self) -> None:
        """Forget what was counted so far."""
        self.places.clear()
        self.arrivals = self.unpinned = 0

    def note(self) -> None:
        """Count a wait where the code is now."""
        self.places[_place()] += 1


@contextmanager
def gpu_waits() -> Iterator[Waits]:
    """While entered, counts the waits that ``torch.cuda.set_sync_debug_mode`` reports.

    Waiting for an event is none of them: what is queued behind it is not awaited.
    """
    found = Waits()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if _MESSAGE in str(message):
            found.note()

    with warnings.catch_warnings(), _complaints() as lines:
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Operators outside of PyTorch, such as torchvision's, complain without asking Python.
    found.places["other", "compiled operators"] = sum(_MESSAGE in line for line in lines)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Lines that the process writes to stderr while this is entered; they are read at its end."""
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _place() -> tuple[str, str]:
    """Owner, and "module:line function", of the innermost frame that belongs to one."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        # Its module, not its file: folders may have any name.
        module = frame.f_globals.get("__name__", "")
        owner = _owner(module)
        if owner is not None:
            return owner, f"{module}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "other", "other"


def _owner(module: str) -> str | None:
    """Whom the waits of a module count for; None: for its callers."""
    if module.startswith(__package__):
        return None
    return next((o for part, o in _OWNERS.items() if f"{module}.".startswith(part)), None)
