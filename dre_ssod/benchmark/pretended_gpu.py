"""A GPU that is only pretended: code runs on the CPU, and each tensor knows where it would lie.

Two modes of PyTorch watch. :class:`_Calls` sees what Python asks of tensors: it says that they lie
on ``cuda:0``, creates and moves them there in name. :class:`_Kernels` sees every operator, those
of the backward pass included: it refuses to mix what lies on the GPU with what lies on the host, as
CUDA does, and counts where the host would wait. Where a tensor lies is a mark on its storage, so
that views share it. Storages that PyTorch creates inside an operator have none, and go with any.

Not seen: what operators do inside (streams, results, time), and other threads and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dre_ssod.benchmark.waits import Waits

GPU = torch.device("cuda", 0)
HOST = torch.device("cpu")
_PLACE, _PINNED, _ARRIVING = "_pretended_place", "_pretended_pinned", "_pretended_arriving"

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
_NUMBERS = {bool, int, float, str, torch.dtype, torch.device}
_FROM_PYTHON = {"tensor", "as_tensor", "new_tensor"}


class DeviceFault(RuntimeError):
    """A call that fails, or reads what has not arrived, on a real GPU."""


def place_of(tensor: Tensor) -> torch.device | None:
    """Where a tensor would lie; None: not known, inside an operator."""
    place: torch.device | None = getattr(tensor.untyped_storage(), _PLACE, None)
    return place


def _put(tree: Any, place: torch.device | None, again: bool = False) -> None:
    """Mark tensors that have no place yet; ``again``: all."""
    if place is None:
        return
    for tensor in _tensors(tree):
        storage = tensor.untyped_storage()
        if again or getattr(storage, _PLACE, None) is None:
            setattr(storage, _PLACE, place)


def _any_on_gpu(tensors: list[Tensor]) -> bool:
    """Whether a tensor lies on the GPU; those without a place are marked as on the host."""
    found = False
    for tensor in tensors:
        storage = tensor.untyped_storage()
        place = getattr(storage, _PLACE, None)
        if place is None:
            setattr(storage, _PLACE, HOST)
        found = found or place is GPU
    return found


@contextmanager
def pretended_gpu() -> Iterator[Waits]:
    """While entered, ``MODEL.DEVICE "cuda"`` trains, detects and evaluates on a pretended GPU.

    Yields:
        the waits so far, and the copies that nobody waits for.

    Raises:
        DeviceFault: out of the call that a GPU would refuse.
    """
    found, events = Waits(), _Events()
    with ExitStack() as stack:
        for owner, name, value in _machine(found, events):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Calls(found))
        stack.enter_context(_Kernels(found, events))
        yield found


class _Events:
    """Copies to the host on their way, and what says that they have arrived: the only stream."""

    def __init__(self) -> None:
        self._arriving: list[torch.UntypedStorage] = []

    def expect(self, target: Tensor) -> None:
        """A copy has been queued."""
        storage = target.untyped_storage()
        setattr(storage, _ARRIVING, True)
        self._arriving.append(storage)

    def record_event(self, *_: object) -> _Events:
        """Of a stream: the event behind all that was queued."""
        return self

    def synchronize(self, *_: object) -> None:
        """Of an event."""
        for storage in self._arriving:
            setattr(storage, _ARRIVING, False)
        self._arriving.clear()


def _machine(found: Waits, events: _Events) -> Iterator[tuple[Any, str, Any]]:
    """What is replaced while a GPU is pretended: its questions to the driver, by owner and name."""

    def wait(*_: object) -> None:
        found.note()
        events.synchronize()

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "current_stream": lambda device=None: events,
        "synchronize": wait,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
    }
    for name, answer in answers.items():
        yield torch.cuda, name, answer
    yield torch.accelerator, "is_available", lambda: True
    yield torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
    fork = torch.random.fork_rng
    yield torch.random, "fork_rng", lambda devices=(), **kwargs: fork((), **kwargs)
    # It asks the tensors themselves.
    clipping = torch.nn.utils.clip_grad
    group = clipping._group_tensors_by_device_and_dtype  # type: ignore[attr-defined]
    yield (
        clipping,
        "_group_tensors_by_device_and_dtype",
        lambda tensors: {
            (place_of(tensors[0][0]), dtype): found for (_, dtype), found in group(tensors).items()
        },
    )
    autocast, begin = torch.amp.autocast_mode.autocast, torch.amp.autocast_mode.autocast.__init__
    yield autocast, "__init__", lambda self, kind, *a, **k: begin(self, "cpu", *a, **k)


class _Kernels(TorchDispatchMode):
    """Operators of the forward and of the backward pass."""

    def __init__(self, found: Waits, events: _Events) -> None:
        super().__init__()
        self._found = found
        self._events = events

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            name = function._schema.name
            inputs = _tensors((args, kwargs))
            storages = [tensor.untyped_storage() for tensor in inputs]
            places = {getattr(storage, _PLACE, None) for storage in storages}
            if name in _COPIES:
                self._copy(name, args, kwargs)
            else:
                _check_arrived(name, storages)
                if GPU in places and HOST in places:
                    self._check(function, name, args, inputs)
                if GPU in places and _waits(name, args, kwargs):
                    self._found.note()
            result = function(*args, **kwargs)
            _put(result, GPU if GPU in places else HOST if HOST in places else None)
        return result

    def _copy(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        """A copy may go from one place to the other; :class:`_Calls` counts those of ``to``."""
        if name == "aten::_to_copy":
            return
        targets, sources = (_tensors(args[number]) for number in (0, 1))
        going_on = kwargs.get("non_blocking", len(args) > 2 and args[2])
        for target, source in zip(targets, sources, strict=True):
            pair = place_of(source), place_of(target)
            pinned = _pinned(source if pair[0] == HOST else target)
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
            indices = {id(index) for index in _tensors(args[1]) if place_of(index) == HOST}
            compared = [tensor for tensor in compared if id(tensor) not in indices]
        if {place_of(tensor) for tensor in compared} >= {GPU, HOST}:
            sides = ", ".join(f"{tuple(t.shape)} on {place_of(t)}" for t in inputs)
            raise DeviceFault(f"{name} mixes devices: {sides}")
        if name in _INDEXING and place_of(args[0]) == HOST and GPU in map(place_of, inputs):
            raise DeviceFault(f"{name}: an index on the GPU into a tensor on the host")


def _check_arrived(name: str, storages: list[torch.UntypedStorage]) -> None:
    if any(getattr(storage, _ARRIVING, False) for storage in storages):
        raise DeviceFault(f"{name} reads a copy before the event that says it has arrived")


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator on the GPU makes the host wait."""
    if name in _INDEXING:
        indices = _tensors(args[1])
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


class _Calls(TorchFunctionMode):
    """What Python asks of tensors."""

    def __init__(self, found: Waits) -> None:
        super().__init__()
        self._found = found
        self._answers: dict[Any, Callable[[Tensor], object]] = {
            _getter("device"): place_of,
            _getter("is_cuda"): lambda tensor: place_of(tensor) == GPU,
            _getter("is_cpu"): lambda tensor: place_of(tensor) == HOST,
            Tensor.get_device: lambda tensor: 0 if place_of(tensor) == GPU else -1,
            Tensor.is_pinned: _pinned,
            Tensor.pin_memory: _pin,
            Tensor.record_stream: lambda tensor: None,
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        # The memo of a deep copy holds all that was copied so far.
        inputs = _tensors(args[:1] if function is Tensor.__deepcopy__ else (args, kwargs))
        # What comes from Python without a mark is from before, or from another process.
        on_gpu = _any_on_gpu(inputs)
        if function in self._answers:
            return self._answers[function](args[0])
        name = getattr(function, "__name__", "")
        if name in ("to", "cpu", "cuda"):
            return self._move(name, args[0], list(args[1:]), kwargs)
        # A tensor of the CPU is read by these without an operator.
        if name in ("tolist", "numpy", "__array__"):
            _check_arrived(name, [tensor.untyped_storage() for tensor in inputs])
            if on_gpu and name != "tolist":
                raise DeviceFault(f"{name} of a tensor on the GPU")
        target = kwargs.get("device")
        place = GPU if on_gpu else HOST
        if target is not None:
            place = _place(target)
            kwargs["device"] = HOST
        if (on_gpu and name == "tolist") or (place == GPU and name in _FROM_PYTHON):
            self._found.note()
        generator = kwargs.get("generator")
        if place == GPU and isinstance(generator, torch.Generator):
            raise DeviceFault(f"{name}: random numbers of the host for the GPU")
        pinned = kwargs.pop("pin_memory", False)
        result = function(*args, **kwargs)
        fresh = target is not None and result is not (args[0] if args else None)
        _put(result, place, again=fresh)
        if pinned:
            setattr(result.untyped_storage(), _PINNED, True)
        return result

    def _move(self, name: str, tensor: Tensor, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
        """``to``, ``cpu`` and ``cuda``."""
        source, target = place_of(tensor), place_of(tensor)
        if name != "to":
            target = HOST if name == "cpu" else GPU
        elif args and isinstance(args[0], Tensor):
            target, args[0] = place_of(args[0]), args[0].dtype
        elif args and isinstance(args[0], torch.device | str):
            target, args[0] = _place(args[0]), HOST
        elif kwargs.get("device") is not None:
            target, kwargs["device"] = _place(kwargs["device"]), HOST
        if name != "to":
            args = []
        if source == target:
            return tensor.to(*args, **kwargs) if args or kwargs else tensor
        going_on = kwargs.get("non_blocking", any(value is True for value in args))
        if going_on and target == HOST:
            raise DeviceFault("a copy to the host that nobody waits for: read too early")
        if not going_on:
            self._found.note()
        elif not _pinned(tensor):
            self._found.unpinned += 1
        moved = tensor.to(*args, **kwargs | {"copy": True}) if args or kwargs else tensor.clone()
        _put(moved, target, again=True)
        return moved


def _getter(name: str) -> Any:
    """The function that is called for a property of tensors."""
    return getattr(Tensor, name).__get__


def _pinned(tensor: Tensor) -> bool:
    return getattr(tensor.untyped_storage(), _PINNED, False)


def _pin(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    setattr(copy.untyped_storage(), _PINNED, True)
    return copy


def _place(device: torch.device | str | int) -> torch.device:
    return HOST if torch.device(device).type == "cpu" else GPU


def _tensors(tree: Any) -> list[Tensor]:
    """Of arguments or results; PyTorch's tree_leaves takes as long as the operators."""
    found: list[Tensor] = []
    _collect((tree,), found)
    return found


def _collect(trees: Iterable[Any], found: list[Tensor]) -> None:
    for tree in trees:
        # Asking whether it is a tensor takes longest.
        if tree is None or type(tree) in _NUMBERS:
            continue
        if isinstance(tree, list | tuple):
            _collect(tree, found)
        elif isinstance(tree, dict):
            _collect(tree.values(), found)
        elif isinstance(tree, Tensor):
            found.append(tree)
