"""The teacher as an exponential moving average of the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ModelEMA:
    """Keeps ``teacher`` at the moving average of ``student``, in place.

    Floating tensors (parameters and buffers) are averaged, integer buffers copied.

    Raises:
        ValueError: if the two models have different tensors.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self._averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        ours, theirs = _tensors(teacher), _tensors(student)
        if ours.keys() != theirs.keys():
            raise ValueError(
                f"teacher and student have different tensors: {sorted(ours.keys() ^ theirs.keys())}"
            )
        for name, tensor in ours.items():
            pair = self._averaged if tensor.is_floating_point() else self._copied
            pair[0].append(tensor)
            pair[1].append(theirs[name])

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """teacher = decay * teacher + (1 - decay) * student."""
        torch._foreach_lerp_(*self._averaged, 1.0 - decay)
        for ours, theirs in zip(*self._copied, strict=True):
            ours.copy_(theirs)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in [*model.named_parameters(), *model.named_buffers()]}
