"""The running statistics of batch norms, which a forward pass changes before any gradient does."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Means, variances and counters of the batch norms of a model that are not frozen."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._buffers = [b for norm in norms for b in norm.buffers(recurse=False)]
        # Synchronized batch norms are the same on all processes already.
        self._own = [
            buffer
            for norm in norms
            if not isinstance(norm, nn.SyncBatchNorm)
            for buffer in norm.buffers(recurse=False)
            if buffer.is_floating_point()
        ]
        self._before: list[Tensor] = []

    def remember(self) -> None:
        """Note the present values, for :meth:`restore`."""
        self._before = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to what was remembered."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def average(self) -> None:
        """Give every process the mean over all of them, so that their teachers stay the same."""
        if comm.get_world_size() == 1 or not self._own:
            return
        flat = torch.cat([buffer.float().flatten() for buffer in self._own])
        dist.all_reduce(flat)
        flat /= comm.get_world_size()
        parts = flat.split([buffer.numel() for buffer in self._own])
        for buffer, part in zip(self._own, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
