"""Losses and figures of a step: averaged over micro-batches and processes, checked, written."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from torch import Tensor

from dre_ssod.structures import StudentLosses, Weight, weighted

PREFIX = "ssod/"
_IMAGES = "images"
_GRADIENT = "gradient_norm"
_SIGNAL = "signal/"


class StepMetrics:
    """Collects what one optimizer step produced; one device-to-host copy writes all of it."""

    def __init__(self, data_time: float) -> None:
        """
        Args:
            data_time: seconds that the step waited for its images.
        """
        self._data_time = data_time
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._means: dict[str, float] = {}
        self.drawn = 0
        self.skipped = 0
        self.gradient_norm = 0.0
        self.signals: dict[str, float] = {}
        self._tally: Mapping[str, Tensor] = {}
        self.tallies: dict[str, Tensor] = {}

    def add(self, losses: StudentLosses) -> None:
        """Add a micro-batch. Every micro-batch and process has the same names."""
        for name, value in (losses.supervised | losses.unsupervised).items():
            self._accumulate(name, value.detach().float(), torch.ones_like(value))
        for name, mean in losses.figures.items():
            self._accumulate(PREFIX + name, mean.total, mean.count)

    def add_images(self, drawn: int, skipped: int, device: torch.device) -> None:
        """Add images that were drawn and those among them that could not be read.

        After :meth:`collect`, ``drawn`` and ``skipped`` hold the sums over all processes.
        """
        # Filled on the device: copied there, they would be waited for.
        counts = [torch.full((), float(count), device=device) for count in (skipped, drawn)]
        self._accumulate(_IMAGES, *counts)

    def add_gradient_norm(self, norm: Tensor) -> None:
        """Add the norm of all gradients together, the same on every process.

        After :meth:`collect`, ``gradient_norm`` holds it.
        """
        self._accumulate(_GRADIENT, norm.float(), torch.ones_like(norm, dtype=torch.float32))

    def add_signals(self, pending: dict[str, float], device: torch.device) -> None:
        """Add numbers by name, of which :meth:`collect` puts the means in ``signals``."""
        for name, value in pending.items():
            found = torch.full((), value, device=device)
            self._accumulate(_SIGNAL + name, found, torch.ones_like(found))

    def add_tally(self, tally: Mapping[str, Tensor]) -> None:
        """Add what the method counts; after :meth:`collect`, ``tallies`` holds the sums."""
        self._tally = tally

    def _accumulate(self, name: str, total: Tensor, count: Tensor) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts[name] + count if name in self._counts else count

    def collect(self) -> None:
        """Average over processes and copy to the host, for which a step waits for its device."""
        parts = [torch.stack(list(values.values())) for values in (self._sums, self._counts)]
        parts += [values.float().flatten() for values in self._tally.values()]
        table = torch.cat(parts)
        if comm.get_world_size() > 1:
            dist.all_reduce(table)
        sums, counts, *tallies = table.cpu().split([len(part) for part in parts])
        self.tallies = {
            name: total.view(values.shape)
            for (name, values), total in zip(self._tally.items(), tallies, strict=True)
        }
        found = dict(zip(self._sums, zip(sums.tolist(), counts.tolist(), strict=True), strict=True))
        self.skipped, self.drawn = map(int, found.pop(_IMAGES, (0, 0)))
        total_norm, times = found.pop(_GRADIENT, (0.0, 1.0))
        self.gradient_norm = total_norm / times
        for name in [name for name in found if name.startswith(_SIGNAL)]:
            total, count = found.pop(name)
            self.signals[name.removeprefix(_SIGNAL)] = total / count
        self._means = {
            name: total / count
            for name, (total, count) in found.items()
            if count > 0 or math.isnan(total)
        }

    @property
    def losses(self) -> dict[str, float]:
        """Means of all losses by name, once collected."""
        return {name: value for name, value in self._means.items() if not name.startswith(PREFIX)}

    @property
    def broken_losses(self) -> dict[str, float]:
        """Those that are infinite or NaN."""
        return {name: value for name, value in self.losses.items() if not math.isfinite(value)}

    def write(self, iteration: int, weight: Weight, extra: dict[str, float]) -> None:
        """Put everything, once collected, into the event storage of the main process.

        Args:
            weight: of a loss by its name, for ``total_loss`` (eq. 3).
            extra: further figures by name, the same on every process.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", self._data_time, cur_iter=iteration)
        data_time = max(comm.gather(self._data_time) or [self._data_time])
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", data_time, cur_iter=iteration)
        total = sum(weighted(self.losses, weight))
        figures = {PREFIX + name: value for name, value in extra.items()}
        # Infinite where gradient scaling skips the step.
        if math.isfinite(self.gradient_norm):
            figures[PREFIX + _GRADIENT] = self.gradient_norm
        storage.put_scalars(cur_iter=iteration, total_loss=total, **self._means, **figures)


class FigurePrinter(EventWriter):
    """Prints the figures that tell whether semi-supervised training works, below the loss line."""

    def __init__(self, logger: logging.Logger, window: int = 20) -> None:
        """
        Args:
            logger: where the line goes.
            window: number of iterations whose median is shown.
        """
        self._logger = logger
        self._window = window

    def write(self) -> None:
        """Print the current figures."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(self._window)
        figures = [
            f"{name.removeprefix(PREFIX)}: {value:.4g}"
            for name, (value, _) in sorted(latest.items())
            if name.startswith(PREFIX)
        ]
        if figures:
            self._logger.info("  ssod  %s", "  ".join(figures))
