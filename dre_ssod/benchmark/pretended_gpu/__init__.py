"""A GPU that is only pretended: code runs on the CPU, and each tensor knows where it would lie.

Two modes of PyTorch watch. :class:`Calls` sees what Python asks of tensors: it says that they lie
on ``cuda:0``, creates and moves them there in name. :class:`Kernels` sees every operator, those
of the backward pass included: it refuses to mix what lies on the GPU with what lies on the host, as
CUDA does, and counts where the host would wait. Where a tensor lies is a mark on its storage, so
that views share it. Storages that PyTorch creates inside an operator have none, and go with any.

Not seen: what operators do inside (streams, results, time), and other threads and processes.
"""

from __future__ import annotations

from dre_ssod.benchmark.pretended_gpu.machine import pretended_gpu
from dre_ssod.benchmark.pretended_gpu.places import GPU, HOST, DeviceFault

__all__ = ["GPU", "HOST", "DeviceFault", "pretended_gpu"]
