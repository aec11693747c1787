"""What the losses are divided by, counted over the batch of all processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


@dataclass(frozen=True)
class RegionCounts:
    """Regions sampled for the RoI head, each a scalar tensor of at least 1 / world size.

    They are the counts over all processes divided by the number of processes: as DDP averages
    gradients over processes, N processes then give the gradient of one process on all the images.
    """

    sampled: Tensor
    foreground: Tensor
    background: Tensor


def count_regions(*labels: Tensor, num_classes: int, everywhere: bool = True) -> list[RegionCounts]:
    """Count groups of regions over all processes, in one all-reduce.

    Args:
        labels: one (R,) tensor of classes in [0, K] per group; class K is background.
        num_classes: K.
        everywhere: False counts on this process alone, as if there were no other.

    Returns:
        one RegionCounts per group.
    """
    counts = torch.stack(
        [
            torch.stack([(classes < num_classes).sum(), (classes == num_classes).sum()])
            for classes in labels
        ]
    ).float()
    world_size = comm.get_world_size() if everywhere else 1
    if world_size > 1:
        dist.all_reduce(counts)
    per_process = torch.cat([counts.sum(dim=1, keepdim=True), counts], dim=1)
    per_process = per_process.clamp(min=1.0) / world_size
    return [RegionCounts(*row.unbind()) for row in per_process]


def shared_totals(*values: Tensor) -> Tensor:
    """(N,) sums of N tensors (R,) over all processes, without gradient; all must call this."""
    totals = torch.stack([rows.sum() for rows in values]).detach()
    if comm.get_world_size() > 1:
        dist.all_reduce(totals)
    return totals


def shared_sum(values: Tensor) -> Tensor:
    """The sum of (R,) values over all processes, at least 1, divided by the number of processes.

    To divide by, as :class:`RegionCounts` are; all processes must call this.
    """
    return shared_totals(values)[0].clamp(min=1.0) / comm.get_world_size()


def shared_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean over all processes of those (R,) values that (R,) booleans choose, without gradient.

    At least 1e-6, to divide by; all processes must call this.
    """
    total, count = shared_totals(torch.where(chosen, values, 0.0), chosen.float())
    return (total / count.clamp(min=1.0)).clamp(min=1e-6)
