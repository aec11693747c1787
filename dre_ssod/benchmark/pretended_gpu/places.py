"""Where tensors of a pretended GPU lie: marks on their storages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

GPU = torch.device("cuda", 0)
HOST = torch.device("cpu")
PLACE, PINNED, ARRIVING = "_pretended_place", "_pretended_pinned", "_pretended_arriving"
_NUMBERS = {bool, int, float, str, torch.dtype, torch.device}


class DeviceFault(RuntimeError):
    """A call that fails, or reads what has not arrived, on a real GPU."""


def place_of(tensor: Tensor) -> torch.device | None:
    """Where a tensor would lie; None: not known, inside an operator."""
    place: torch.device | None = getattr(tensor.untyped_storage(), PLACE, None)
    return place


def put(tree: Any, place: torch.device | None, again: bool = False) -> None:
    """Mark tensors that have no place yet; ``again``: all."""
    if place is None:
        return
    for tensor in tensors_of(tree):
        storage = tensor.untyped_storage()
        if again or getattr(storage, PLACE, None) is None:
            setattr(storage, PLACE, place)


def any_on_gpu(tensors: list[Tensor]) -> bool:
    """Whether a tensor lies on the GPU; those without a place are marked as on the host."""
    found = False
    for tensor in tensors:
        storage = tensor.untyped_storage()
        place = getattr(storage, PLACE, None)
        if place is None:
            setattr(storage, PLACE, HOST)
        found = found or place is GPU
    return found


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor of the host would lie in page-locked memory."""
    return getattr(tensor.untyped_storage(), PINNED, False)


def pin(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory, in name."""
    copy = tensor.clone()
    setattr(copy.untyped_storage(), PINNED, True)
    return copy


def named_place(device: torch.device | str | int) -> torch.device:
    """The place that a call means by a device."""
    return HOST if torch.device(device).type == "cpu" else GPU


def check_arrived(name: str, storages: list[torch.UntypedStorage]) -> None:
    """Raise :class:`DeviceFault` where a call, by its name, reads what is still on its way."""
    if any(getattr(storage, ARRIVING, False) for storage in storages):
        raise DeviceFault(f"{name} reads a copy before the event that says it has arrived")


def tensors_of(tree: Any) -> list[Tensor]:
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
