"""Where a step would make the host wait for a GPU, counted on any device.

The rules are those of ``torch.cuda.set_sync_debug_mode``: reading a value, operators whose result
has a size that depends on values, and copies between host and device that are not asynchronous. On
a CPU nothing of this waits, so two modes of PyTorch watch the calls, and a mark tells the tensors
that would lie on the host of a GPU run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MARK = "_lies_on_the_host"
_DATA_DEPENDENT = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "torchvision::nms",
}
# With a mask of booleans they call nonzero.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_MASKS = (torch.bool, torch.uint8)
_READING = {"tolist", "numpy", "cpu"}
_FROM_HOST_DATA = {"tensor", "as_tensor"}
# Detectron2's containers and wrappers count for whoever calls them.
_OWNERS = {
    # Done in place of Detectron2's own.
    "dre_ssod.modeling.proposals.": "detectron2",
    "dre_ssod.": "dre_ssod",
    "detectron2.modeling.": "detectron2",
    "torch.autograd.": "backward",
}


class Synchronizations:
    """The waits of a piece of work, by the place in the code that causes them.

    Attributes:
        places: number of waits by (owner, place); owners are "dre_ssod",
            "detectron2" (its models), "backward" (the pass of autograd) and "other".
        arrivals: number of asynchronous copies to the host. Each is read after an event that says
            that it has arrived (see ``transfers.HostCopy``); what is queued behind is not awaited.
    """

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()
        self.arrivals = 0

    def of(self, owner: str) -> int:
        """The number of waits of one owner."""
        return sum(count for (name, _), count in self.places.items() if name == owner)

    def note(self) -> None:
        """Count a wait where the code is now."""
        self.places[_place()] += 1


@contextmanager
def count_synchronizations(host_tensors: Iterable[Tensor] = ()) -> Iterator[Synchronizations]:
    """While entered, counts the waits.

    Args:
        host_tensors: those that the loader gave, which a GPU run finds on the host. What is
            computed from them alone lies there too, until it is moved.
    """
    for tensor in host_tensors:
        setattr(tensor, _MARK, True)
    found = Synchronizations()
    with _Calls(found), _Kernels(found):
        yield found


class _Kernels(TorchDispatchMode):
    """Sees operators of the forward and of the backward pass."""

    def __init__(self, found: Synchronizations) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name
        waits = name in _DATA_DEPENDENT
        if name in _INDEXING:
            waits = any(t is not None and t.dtype in _MASKS for t in args[1])
        elif name == "aten::repeat_interleave":
            waits = kwargs.get("output_size") is None
        if waits and not all(hasattr(tensor, _MARK) for tensor in _tensors(args)):
            self._found.note()
        return function(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Sees copies between host and device, and keeps the marks of tensors on the host."""

    def __init__(self, found: Synchronizations) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        inputs = _tensors((args, kwargs))
        on_host = bool(inputs) and all(hasattr(t, _MARK) for t in inputs)
        names_device = _names_device(args, kwargs)
        if name == "copy_":
            target_on_host, source_on_host = (hasattr(tensor, _MARK) for tensor in inputs)
            goes_on = kwargs.get("non_blocking", len(args) > 2 and args[2])
            waits = target_on_host != source_on_host and not goes_on
            self._found.arrivals += target_on_host and not source_on_host and goes_on
        elif on_host:
            waits = names_device and not kwargs.get("non_blocking")
        elif inputs:
            waits = name in _READING or name == "new_tensor"
        else:
            waits = names_device and name in _FROM_HOST_DATA
        if waits:
            self._found.note()
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and any(result is tensor for tensor in inputs):
            # A copy to where it lies already is no copy; the result needs a mark of its own.
            result = result.detach() if names_device or name == "cpu" else result
        if name == "cpu" or ((on_host or not inputs) and not names_device):
            for tensor in _tensors(result):
                setattr(tensor, _MARK, True)
        return result


def _names_device(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call says on which device its result is to lie."""
    named = isinstance(kwargs.get("device"), torch.device | str)
    return named or any(isinstance(value, torch.device) for value in args)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place() -> tuple[str, str]:
    """Owner, and "module:line function", of the innermost frame that belongs to one."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        # Its module, not its file: folders may have any name.
        module = frame.f_globals.get("__name__", "")
        owner = _owner(module)
        if owner is not None:
            return owner, f"{module}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "other", "other"


def _owner(module: str) -> str | None:
    """Whom the waits of a module count for; None: for its callers."""
    if module.startswith(__package__):
        return None
    return next((o for part, o in _OWNERS.items() if f"{module}.".startswith(part)), None)
