"""ReLU6 in place, without the copy of its input that PyTorch keeps for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def keep_one_map_per_relu6(model: nn.Module) -> None:
    """Let the in-place ReLU6 layers of a model save their output alone, which the next layer does.

    PyTorch's own ``hardtanh_`` saves a copy of what it overwrites. Values and gradients are equal
    to the last bit: where the output is 0 or 6, the input was at or beyond that bound.
    """
    for module in model.modules():
        if type(module) is nn.ReLU6 and module.inplace:
            module.__class__ = FrugalReLU6


class FrugalReLU6(nn.ReLU6):
    """PyTorch's layer, whose backward pass looks at the output."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to one of the same shape, in its memory."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return super().forward(x)
        result: Tensor = _ReLU6.apply(x)
        return result


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.clamp_(0.0, 6.0)
        ctx.mark_dirty(result)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], result, 0.0, 6.0)
