"""What Python asks of tensors, answered as for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dre_ssod.benchmark.pretended_gpu.places import (
    GPU,
    HOST,
    PINNED,
    DeviceFault,
    any_on_gpu,
    check_arrived,
    is_pinned,
    named_place,
    pin,
    place_of,
    put,
    tensors_of,
)
from dre_ssod.benchmark.waits import Waits

_FROM_PYTHON = {"tensor", "as_tensor", "new_tensor"}


class Calls(TorchFunctionMode):
    """What Python asks of tensors."""

    def __init__(self, found: Waits) -> None:
        super().__init__()
        self._found = found
        self._answers: dict[Any, Callable[[Tensor], object]] = {
            _getter("device"): place_of,
            _getter("is_cuda"): lambda tensor: place_of(tensor) == GPU,
            _getter("is_cpu"): lambda tensor: place_of(tensor) == HOST,
            Tensor.get_device: lambda tensor: 0 if place_of(tensor) == GPU else -1,
            Tensor.is_pinned: is_pinned,
            Tensor.pin_memory: pin,
            Tensor.record_stream: lambda tensor: None,
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        # The memo of a deep copy holds all that was copied so far.
        inputs = tensors_of(args[:1] if function is Tensor.__deepcopy__ else (args, kwargs))
        # What comes from Python without a mark is from before, or from another process.
        on_gpu = any_on_gpu(inputs)
        if function in self._answers:
            return self._answers[function](args[0])
        name = getattr(function, "__name__", "")
        if name in ("to", "cpu", "cuda"):
            return self._move(name, args[0], list(args[1:]), kwargs)
        # A tensor of the CPU is read by these without an operator.
        if name in ("tolist", "numpy", "__array__"):
            check_arrived(name, [tensor.untyped_storage() for tensor in inputs])
            if on_gpu and name != "tolist":
                raise DeviceFault(f"{name} of a tensor on the GPU")
        target = kwargs.get("device")
        place = GPU if on_gpu else HOST
        if target is not None:
            place = named_place(target)
            kwargs["device"] = HOST
        if (on_gpu and name == "tolist") or (place == GPU and name in _FROM_PYTHON):
            self._found.note()
        generator = kwargs.get("generator")
        if place == GPU and isinstance(generator, torch.Generator):
            raise DeviceFault(f"{name}: random numbers of the host for the GPU")
        pinned = kwargs.pop("pin_memory", False)
        result = function(*args, **kwargs)
        fresh = target is not None and result is not (args[0] if args else None)
        put(result, place, again=fresh)
        if pinned:
            setattr(result.untyped_storage(), PINNED, True)
        return result

    def _move(self, name: str, tensor: Tensor, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        """``to``, ``cpu`` and ``cuda``."""
        source, target = place_of(tensor), place_of(tensor)
        if name != "to":
            target = HOST if name == "cpu" else GPU
        elif args and isinstance(args[0], Tensor):
            target, args[0] = place_of(args[0]), args[0].dtype
        elif args and isinstance(args[0], torch.device | str):
            target, args[0] = named_place(args[0]), HOST
        elif kwargs.get("device") is not None:
            target, kwargs["device"] = named_place(kwargs["device"]), HOST
        if name != "to":
            args = []
        if source == target:
            return tensor.to(*args, **kwargs) if args or kwargs else tensor
        going_on = kwargs.get("non_blocking", any(value is True for value in args))
        if going_on and target == HOST:
            raise DeviceFault("a copy to the host that nobody waits for: read too early")
        if not going_on:
            self._found.note()
        elif not is_pinned(tensor):
            self._found.unpinned += 1
        moved = tensor.to(*args, **kwargs | {"copy": True}) if args or kwargs else tensor.clone()
        put(moved, target, again=True)
        return moved


def _getter(name: str) -> Any:
    """The function that is called for a property of tensors."""
    return getattr(Tensor, name).__get__
