"""The line of figures, and metrics.json, which a resumed run continues as if never interrupted."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import IO, Any

from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, get_event_storage

from dre_ssod.engine.hooks.trackers import WINDOW, Tracker
from dre_ssod.engine.metrics import PREFIX
from dre_ssod.errors import FileError
from dre_ssod.files import naming_failures, set_aside

TIMES = frozenset({"time", "data_time", "rank_data_time", "eta_seconds"})
"""Figures that depend on the clock."""

logger = logging.getLogger(__name__)


class FigurePrinter(EventWriter):
    """Prints the figures that tell whether semi-supervised training works, below the loss line."""

    def write(self) -> None:
        """Print the median of each figure over the last iterations, if they had it."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(WINDOW)
        figures = [
            f"{name.removeprefix(PREFIX)}: {value:.4g}"
            for name, (value, at) in sorted(latest.items())
            if name.startswith(PREFIX) and at > storage.iter - WINDOW
        ]
        if figures:
            logger.info("  ssod  %s", "  ".join(figures))


class MetricsFile(JSONWriter):
    """Detectron2's ``metrics.json`` that can be cut back to where a checkpoint was written."""

    _file_handle: IO[str]

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), window_size=WINDOW)
        self._path = path

    def write(self) -> None:
        """Append a line of the newest figures.

        Raises:
            FileError: if it cannot be written.
        """
        with naming_failures(self._path):
            super().write()

    def close(self) -> None:
        """
        Raises:
            FileError: if a line before could not be written, and still cannot.
        """
        with naming_failures(self._path):
            super().close()

    def state_dict(self) -> dict[str, int]:
        """The last iteration and the size in bytes that have been written."""
        with naming_failures(self._path):
            self._file_handle.flush()
        return {"last_write": self._last_write, "bytes": self._path.stat().st_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take away the lines that came after the state; they will be written again.

        Where a machine has crashed, some of those before may be missing, and one may be torn.
        """
        self._last_write = state["last_write"]
        size = self._path.stat().st_size
        if size == state["bytes"]:
            return
        if size < state["bytes"]:
            logger.warning("%s has lost figures of before; those to come are added.", self._path)
            content = self._path.read_bytes()
            os.truncate(self._path, content.rfind(b"\n") + 1)
            return
        with self._path.open("rb") as file:
            file.seek(max(state["bytes"] - 1, 0))
            fits = state["bytes"] == 0 or file.read(1) == b"\n"
        if not fits:
            logger.warning("%s is not the file of this run; appending to it.", self._path)
            return
        os.truncate(self._path, state["bytes"])

    def start_over(self) -> None:
        """Keep what an earlier run wrote under another name."""
        if self._path.stat().st_size == 0:
            return
        self._file_handle.close()
        aside = set_aside(self._path)
        self._file_handle = self._path.open("a")
        logger.warning("%s is of a run that left no checkpoint; it is now %s", self._path, aside)


class ResumingWriter(PeriodicWriter):
    """Writes every 20 iterations and after the last one, over a resume as without it.

    The smoothed figures need those of the last iterations, so a checkpoint holds them. On the
    console the losses of the first iteration stand too: 20 may take minutes.
    """

    def __init__(self, writers: list[EventWriter]) -> None:
        super().__init__(writers, period=WINDOW)
        self._files = [writer for writer in writers if isinstance(writer, MetricsFile)]
        self._trackers = [writer for writer in writers if isinstance(writer, Tracker)]
        self._loaded: dict[str, Any] | None = None

    def before_train(self) -> None:
        """Put the figures of the last iterations back, and the files to the same place.

        Raises:
            ConfigError: if one of SSOD.TRACKERS cannot start.
        """
        states = (self._loaded or {}).get("trackers", {})
        for tracker in self._trackers:
            tracker.open(states.get(tracker.kind, {}))
        if self._loaded is None:
            # A checkpoint of version 0.1.0 has no such state; its run appends.
            for file in self._files if self.trainer.start_iter == 0 else []:
                file.start_over()
            return
        for name, (smoothed, values) in self._loaded["scalars"].items():
            for value, iteration in values:
                self.trainer.storage.put_scalar(
                    name, value, smoothing_hint=smoothed, cur_iter=iteration
                )
        for file, state in zip(self._files, self._loaded["files"], strict=False):
            file.load_state_dict(state)

    def after_step(self) -> None:
        """Write if it is time."""
        super().after_step()
        iteration = self.trainer.iter
        # Where it is written anyway, at the end of a window or of the run, once is enough.
        is_written = (iteration + 1) % WINDOW == 0 or iteration == self.trainer.max_iter - 1
        if iteration == self.trainer.start_iter and not is_written:
            for writer in self._writers:
                if isinstance(writer, CommonMetricPrinter):
                    writer.write()

    def after_train(self) -> None:
        """Write and close all; what fails now does not hide what has ended the run."""
        is_failing = sys.exc_info()[1] is not None
        for writer in self._writers:
            try:
                writer.write()
                writer.close()
            except (OSError, FileError):
                if not is_failing:
                    raise

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:
            return self._loaded or {}
        hints = storage.smoothing_hints()
        scalars = {
            name: (hints[name], _recent(history.values()))
            for name, history in storage.histories().items()
            if name not in TIMES
        }
        return {
            "scalars": scalars,
            "files": [file.state_dict() for file in self._files],
            "trackers": {tracker.kind: tracker.state_dict() for tracker in self._trackers},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the state until training starts."""
        self._loaded = state_dict


def _recent(values: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The (value, iteration) pairs of the last iterations; there may be several of an iteration."""
    first = values[-1][1] - WINDOW + 1
    start = next(i for i in range(len(values), 0, -1) if i == 1 or values[i - 2][1] < first) - 1
    return [(float(value), int(iteration)) for value, iteration in values[start:]]
