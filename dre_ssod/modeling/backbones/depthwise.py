"""Depthwise convolutions that stay in float32 under autocast on a CPU, and keep their input once.

PyTorch's bfloat16 kernels are up to six times slower there backwards than the float32 ones where
the kernel is 5 x 5, and hardly faster elsewhere (see docs/performance.md).

These layers have the largest maps of a network. What PyTorch saves of them for the backward pass,
converted or padded, is a second map beside the one that the activation before them has saved.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same_arg
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def improve_depthwise(model: nn.Module) -> None:
    """Let the depthwise layers of a timm model compute and keep what is best for them.

    In float32 under autocast on a CPU; and for the backward pass they save their input as it came.
    They keep their weights, names and settings; only their class, and so their forward pass, is
    another. Values and gradients are equal to the last bit to those of the layers' own classes, in
    float32 where these would have computed in 16 bits on a CPU.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or type(module) not in _KINDS:
            continue
        pads_by_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        if module.groups == module.in_channels > 1 and pads_by_zeros:
            module.__class__ = _KINDS[type(module)]


class DepthwiseConv2d(nn.Conv2d):
    """PyTorch's layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return _convolve(self, x, None)


class DepthwiseConv2dSame(Conv2dSame):
    """timm's layer with the padding of TensorFlow."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W')."""
        sizes = (x.shape[-2:], self.kernel_size, self.stride, self.dilation)
        padding = pad_same_arg(*map(list, sizes))
        return _convolve(self, x, padding)


_KINDS: dict[type, type[nn.Conv2d]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def _convolve(layer: nn.Conv2d, x: Tensor, padding: list[int] | None) -> Tensor:
    """The layer's convolution of ``x``, with zeros added to its left, right, top and bottom."""
    device, dtype = x.device.type, x.dtype
    weight, bias = layer.weight, layer.bias
    autocast: AbstractContextManager[None] = contextlib.nullcontext()
    if torch.is_autocast_enabled(device):
        autocast = torch.autocast(device, enabled=False)
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
    with autocast:
        if torch.is_grad_enabled() and (dtype != x.dtype or padding):
            result: Tensor = _Convolution.apply(x, weight, bias, dtype, padding, geometry)
            return result
        return F.conv2d(_prepared(x, dtype, padding), weight, bias, *geometry)


class _Convolution(torch.autograd.Function):
    """Saves its input as it came, and converts and pads it once more for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        padding: list[int] | None,
        geometry: tuple[Any, ...],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = (None if bias is None else bias.shape, dtype, padding, geometry)
        return F.conv2d(_prepared(x, dtype, padding), weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        bias_shape, dtype, padding, (*geometry, groups) = ctx.how
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradients[0],
            _prepared(x, dtype, padding),
            weight,
            bias_shape,
            *geometry,
            transposed=False,
            output_padding=(0, 0),
            groups=groups,
            output_mask=ctx.needs_input_grad[:3],
        )
        if of_x is not None:
            if padding:
                left, _, top, _ = padding
                height, width = x.shape[-2:]
                of_x = of_x[..., top : top + height, left : left + width]
            of_x = of_x.to(x.dtype)
        return of_x, of_weight, of_bias, None, None, None


def _prepared(x: Tensor, dtype: torch.dtype, padding: list[int] | None) -> Tensor:
    x = x.to(dtype)
    return F.pad(x, padding) if padding else x
