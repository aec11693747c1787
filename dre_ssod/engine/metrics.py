"""Losses and figures of a step: collected by each process, summed over all of them, written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from dre_ssod.structures import Mean, StudentLosses, Weight, weighted

PREFIX = "ssod/"
"""What the names of figures begin with in the event storage."""


@dataclass
class ClassCounts:
    """Pseudo-boxes of each class that this process has seen since it began.

    Attributes:
        images: with pseudo-labels, or with none of them but a teacher who looked.
        boxes: (K,) whole numbers, on the device: whoever reads them waits for it.
    """

    images: int
    boxes: Tensor

    @classmethod
    def none(cls, num_classes: int, device: torch.device) -> ClassCounts:
        """Nothing yet."""
        return cls(0, torch.zeros(num_classes, dtype=torch.int64, device=device))

    def add(self, labels: Sequence[Instances]) -> None:
        """Count the labels of some images."""
        self.images += len(labels)
        for found in labels:
            self.boxes.index_add_(0, found.gt_classes, torch.ones_like(found.gt_classes))


class StepMetrics:
    """Collects what one process has to say about a step, and exchanges it with the others.

    Attributes:
        counts: what the method counted, of each micro-batch with unlabeled images.
    """

    def __init__(self, data_time: float, device: torch.device) -> None:
        """
        Args:
            data_time: seconds that the step waited for its images.
            device: of the losses.
        """
        self._data_time = data_time
        self._device = device
        self._losses: dict[str, Mean] = {}
        self._figures: dict[str, Mean] = {}
        self.counts: list[Mapping[str, Tensor]] = []
        self._drawn = 0
        self._unreadable = 0

    def add(self, losses: StudentLosses) -> None:
        """Add a micro-batch. Every micro-batch and process has the same names."""
        for name, value in (losses.supervised | losses.unsupervised).items():
            value = value.detach().float()
            _accumulate(self._losses, name, Mean(value, torch.ones_like(value)))
        for name, mean in losses.figures.items():
            _accumulate(self._figures, name, mean)
        if losses.counts:
            self.counts.append(losses.counts)

    def add_images(self, drawn: int, unreadable: int) -> None:
        """Add images that were drawn, and those among them that could not be read."""
        self._drawn += drawn
        self._unreadable += unreadable

    def exchange(
        self, gradient_norm: Tensor, signals: Sequence[bool], tally: Mapping[str, Tensor]
    ) -> StepTotals:
        """Sum over processes and copy to the host, for which a step waits for its device: once.

        Args:
            gradient_norm: of all gradients together, a scalar, the same on every process.
            signals: which signals this process has received.
            tally: what the method counts, of any shapes, the same ones on every process.
        """
        means = [*self._losses.values(), *self._figures.values()]
        counts = (self._drawn, self._unreadable, *map(int, signals))
        sums, numbers, (norm,), counted, *tallies = _sum_over_processes(
            torch.stack([mean.total for mean in means]),
            torch.stack([mean.count for mean in means]),
            gradient_norm.reshape(1),
            # Filled on the device: copied there, they would be waited for.
            torch.cat([torch.full((1,), float(count), device=self._device) for count in counts]),
            *tally.values(),
        )
        pairs = zip(sums.tolist(), numbers.tolist(), strict=True)
        drawn, unreadable, *received = map(int, counted.tolist())
        return StepTotals(
            data_time=self._data_time,
            losses=_means(self._losses, itertools.islice(pairs, len(self._losses))),
            figures=_means(self._figures, pairs),
            gradient_norm=float(norm) / comm.get_world_size(),
            drawn=drawn,
            unreadable=unreadable,
            signals=tuple(received),
            tallies=dict(zip(tally, tallies, strict=True)),
        )


@dataclass(frozen=True)
class StepTotals:
    """What all processes together know of a step; the same on each of them, but for its times.

    Attributes:
        data_time: seconds that this process waited for its images.
        losses: means by name, before their weights.
        figures: means by name; those of nothing are left out.
        gradient_norm: of all gradients together.
        drawn: images.
        unreadable: images among them that could not be read.
        signals: how many processes have received each signal.
        tallies: sums of what the method counts, on the host.
    """

    data_time: float
    losses: dict[str, float]
    figures: dict[str, float]
    gradient_norm: float
    drawn: int
    unreadable: int
    signals: tuple[int, ...]
    tallies: dict[str, Tensor]

    @property
    def broken_losses(self) -> dict[str, float]:
        """Losses that are infinite or NaN."""
        return {name: value for name, value in self.losses.items() if not math.isfinite(value)}

    def write(self, iteration: int, weight: Weight, extra: dict[str, float]) -> None:
        """Put everything into the event storage of the main process.

        Args:
            weight: of a loss by its name, for ``total_loss`` (eq. 3).
            extra: further figures by name, the same on every process.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", self.data_time, cur_iter=iteration)
        data_time = max(comm.gather(self.data_time) or [self.data_time])
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", data_time, cur_iter=iteration)
        figures = self.figures | extra
        # Infinite where gradient scaling skips the step.
        if math.isfinite(self.gradient_norm):
            figures["gradient_norm"] = self.gradient_norm
        total = sum(weighted(self.losses, weight))
        named = {PREFIX + name: value for name, value in figures.items()}
        storage.put_scalars(cur_iter=iteration, total_loss=total, **self.losses, **named)


def _accumulate(means: dict[str, Mean], name: str, found: Mean) -> None:
    if name in means:
        found = Mean(means[name].total + found.total, means[name].count + found.count)
    means[name] = found


def _sum_over_processes(*parts: Tensor) -> list[Tensor]:
    """The sums of tensors over all processes, in float32 on the host: by one copy."""
    table = torch.cat([part.float().flatten() for part in parts])
    if comm.get_world_size() > 1:
        dist.all_reduce(table)
    sums = table.cpu().split([part.numel() for part in parts])
    return [total.view(part.shape) for total, part in zip(sums, parts, strict=True)]


def _means(names: Iterable[str], parts: Iterable[tuple[float, float]]) -> dict[str, float]:
    """Means by name; without those of nothing, unless they are broken."""
    return {
        name: total / count
        for name, (total, count) in zip(names, parts, strict=True)
        if count > 0 or math.isnan(total)
    }
