"""Depthwise convolutions that stay in float32 under autocast on a CPU.

PyTorch's bfloat16 kernels are up to six times slower there backwards than the float32 ones where
the kernel is 5 x 5, and hardly faster elsewhere (see docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Let the depthwise layers of a timm model compute in float32 under autocast on a CPU.

    They keep their weights, names and settings; only their class, and so their forward pass, is
    another. Without autocast and on other devices it does what it did.
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or type(module) not in _KINDS:
            continue
        if module.groups == module.in_channels > 1:
            module.__class__ = _KINDS[type(module)]


class DepthwiseConv2d(nn.Conv2d):
    """PyTorch's layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return _in_float32(super().forward, x)


class DepthwiseConv2dSame(Conv2dSame):
    """timm's layer with the padding of TensorFlow."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return _in_float32(super().forward, x)


_KINDS: dict[type, type[nn.Conv2d]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def _in_float32(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return function(x)
    with torch.autocast("cpu", enabled=False):
        return function(x.float())
