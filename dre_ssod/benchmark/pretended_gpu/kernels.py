"""Every operator, as a GPU would take it: those of the backward pass included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dre_ssod.benchmark.pretended_gpu.places import (
    ARRIVING,
    GPU,
    HOST,
    PLACE,
    DeviceFault,
    check_arrived,
    is_pinned,
    place_of,
    put,
    tensors_of,
)
from dre_ssod.benchmark.waits import Waits

_DATA_DEPENDENT = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::equal",
    "torchvision::nms",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Besides pointwise operators these take a number that lies on the host as a tensor.
_TAKE_A_NUMBER = {"aten::fill_", "aten::masked_fill", "aten::masked_fill_", *_INDEXING}
_COPIES = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
_MASKS = (torch.bool, torch.uint8)


class Events:
    """Copies to the host on their way, and what says that they have arrived: the only stream."""

    def __init__(self) -> None:
        self._arriving: list[torch.UntypedStorage] = []

    def expect(self, target: Tensor) -> None:
        """A copy has been queued."""
        storage = target.untyped_storage()
        setattr(storage, ARRIVING, True)
        self._arriving.append(storage)

    def record_event(self, *_: object) -> Events:
        """Of a stream: the event behind all that was queued."""
        return self

    def synchronize(self, *_: object) -> None:
        """Of an event."""
        for storage in self._arriving:
            setattr(storage, ARRIVING, False)
        self._arriving.clear()


class Kernels(TorchDispatchMode):
    """Operators of the forward and of the backward pass."""

    def __init__(self, found: Waits, events: Events) -> None:
        super().__init__()
        self._found = found
        self._events = events

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            name = function._schema.name
            inputs = tensors_of((args, kwargs))
            storages = [tensor.untyped_storage() for tensor in inputs]
            places = {getattr(storage, PLACE, None) for storage in storages}
            if name in _COPIES:
                self._copy(name, args, kwargs)
            else:
                check_arrived(name, storages)
                if GPU in places and HOST in places:
                    self._check(function, name, args, inputs)
                if GPU in places and _waits(name, args, kwargs):
                    self._found.note()
            result = function(*args, **kwargs)
            put(result, GPU if GPU in places else HOST if HOST in places else None)
        return result

    def _copy(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        """A copy may go from one place to the other; :class:`Calls` counts those of ``to``."""
        if name == "aten::_to_copy":
            return
        targets, sources = (tensors_of(args[number]) for number in (0, 1))
        going_on = kwargs.get("non_blocking", len(args) > 2 and args[2])
        for target, source in zip(targets, sources, strict=True):
            pair = place_of(source), place_of(target)
            pinned = is_pinned(source if pair[0] == HOST else target)
            if pair == (GPU, HOST) and going_on and pinned:
                self._found.arrivals += 1
                self._events.expect(target)
            elif pair == (GPU, HOST) or (pair == (HOST, GPU) and not going_on):
                self._found.note()
            elif pair == (HOST, GPU) and not pinned:
                self._found.unpinned += 1

    def _check(self, function: Any, name: str, args: Any, inputs: list[Tensor]) -> None:
        """Refuse what mixes the two places."""
        compared = inputs
        if torch.Tag.pointwise in function.tags or name in _TAKE_A_NUMBER:
            compared = [t for t in inputs if t.dim() > 0 or place_of(t) == GPU]
        if name in _INDEXING and place_of(args[0]) == GPU:
            # Indices on the host are uploaded.
            indices = {id(index) for index in tensors_of(args[1]) if place_of(index) == HOST}
            compared = [tensor for tensor in compared if id(tensor) not in indices]
        if {place_of(tensor) for tensor in compared} >= {GPU, HOST}:
            sides = ", ".join(f"{tuple(t.shape)} on {place_of(t)}" for t in inputs)
            raise DeviceFault(f"{name} mixes devices: {sides}")
        if name in _INDEXING and place_of(args[0]) == HOST and GPU in map(place_of, inputs):
            raise DeviceFault(f"{name}: an index on the GPU into a tensor on the host")


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator on the GPU makes the host wait."""
    if name in _INDEXING:
        indices = tensors_of(args[1])
        masks = [index for index in indices if index.dtype in _MASKS]
        # A mask is counted; indices of the host, or lists, are uploaded.
        by_index = bool(masks) or any(place_of(index) != GPU for index in indices)
        if len(args) == 2 or place_of(args[2]) == GPU:
            return by_index
        # A number of the host is filled in where there is but one mask; else it is uploaded.
        return not (masks and len(indices) == 1)
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    return name in _DATA_DEPENDENT
