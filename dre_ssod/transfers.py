"""Copies between the host and a GPU for which neither stands still."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor


def to_device(instances: Instances, device: torch.device) -> Instances:
    """Instances with their fields on a device, copied there while the host continues.

    ``Instances.to`` would wait for every field.
    """
    moved = Instances(instances.image_size)
    for name, value in instances.get_fields().items():
        if isinstance(value, Boxes):
            moved.set(name, Boxes(value.tensor.to(device, non_blocking=True)))
        else:
            moved.set(name, value.to(device, non_blocking=True))
    return moved


def chosen(instances: Instances, mask: Tensor) -> Instances:
    """Instances that (R,) booleans choose, for which the host waits for a GPU once.

    ``instances[mask]`` would wait for every field.
    """
    return instances[mask.nonzero().squeeze(1)]


def filled_like(tensor: Tensor, values: Sequence[float]) -> Tensor:
    """(len(values),) of the same dtype and device as a tensor, filled there.

    ``new_tensor`` would copy the values from the host, which waits for a GPU.
    """
    return torch.stack([tensor.new_full((), value) for value in values])


class HostCopy:
    """A tensor on its way to the host.

    :meth:`read` waits until it has arrived, and for nothing that the device was given to do
    afterwards: whoever queues work in between keeps the device busy.
    """

    def __init__(self, tensor: Tensor) -> None:
        """
        Args:
            tensor: on any device; not to be written to from another stream before it is read.
        """
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        # Of other accelerators a copy that nobody waits for could be read too early.
        self._copy.copy_(tensor, non_blocking=tensor.is_cuda or tensor.is_cpu)
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._arrived = torch.cuda.current_stream(tensor.device).record_event()

    def read(self) -> Tensor:
        """The tensor, on the host."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy
