"""Losses and figures of a step: averaged over micro-batches and processes, checked, written."""

from __future__ import annotations

import logging
import math

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from torch import Tensor

from dre_ssod.structures import StudentLosses

PREFIX = "ssod/"


class StepMetrics:
    """Collects what one optimizer step produced; one device-to-host copy writes all of it."""

    def __init__(self, data_time: float) -> None:
        """
        Args:
            data_time: seconds that the step waited for its images.
        """
        self._data_time = data_time
        self._supervised: set[str] = set()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, losses: StudentLosses) -> None:
        """Add a micro-batch. Every micro-batch and process has the same names."""
        self._supervised |= losses.supervised.keys()
        for name, value in (losses.supervised | losses.unsupervised).items():
            self._accumulate(name, value.detach().float(), torch.ones_like(value))
        for name, mean in losses.figures.items():
            self._accumulate(PREFIX + name, mean.total, mean.count)

    def _accumulate(self, name: str, total: Tensor, count: Tensor) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts[name] + count if name in self._counts else count

    def _means(self) -> dict[str, float]:
        table = torch.stack(
            [torch.stack(list(values.values())) for values in (self._sums, self._counts)]
        )
        if comm.get_world_size() > 1:
            dist.all_reduce(table)
        sums, counts = table.tolist()
        return {
            name: total / count
            for name, total, count in zip(self._sums, sums, counts, strict=True)
            if count > 0 or math.isnan(total)
        }

    def write(
        self,
        iteration: int,
        unsup_loss_weight: float,
        extra: dict[str, float],
        file_names: list[str],
    ) -> None:
        """Check the losses and put everything into the event storage of the main process.

        Args:
            unsup_loss_weight: beta, for ``total_loss``.
            extra: further figures by name, the same on every process.
            file_names: images of the step, named if a loss is not finite.

        Raises:
            FloatingPointError: on every process, if a loss is infinite or NaN.
        """
        means = self._means()
        losses = {name: value for name, value in means.items() if not name.startswith(PREFIX)}
        broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if broken:
            raise FloatingPointError(
                f"iteration {iteration}: {broken} (all losses: {losses}). The weights of the last "
                "checkpoint are from before this step. Lower SOLVER.BASE_LR, lengthen "
                "SOLVER.WARMUP_ITERS or switch on SOLVER.CLIP_GRADIENTS. Images of this process: "
                f"{file_names}"
            )
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", self._data_time, cur_iter=iteration)
        data_time = max(comm.gather(self._data_time) or [self._data_time])
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", data_time, cur_iter=iteration)
        total = sum(
            value if name in self._supervised else unsup_loss_weight * value
            for name, value in losses.items()
        )
        figures = {PREFIX + name: value for name, value in extra.items()}
        storage.put_scalars(cur_iter=iteration, total_loss=total, **means, **figures)


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
        figures = [
            f"{name.removeprefix(PREFIX)}: {history.median(self._window):.4g}"
            for name, history in sorted(storage.histories().items())
            if name.startswith(PREFIX)
        ]
        if figures:
            self._logger.info("  ssod  %s", "  ".join(figures))
