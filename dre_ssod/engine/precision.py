"""The number format that a run computes in: what its config asks for, and what its machine has."""

from __future__ import annotations

import logging
import platform

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dre_ssod.errors import ConfigError

# Tensor cores came with it; before, float16 is slower than float32.
_FIRST_FAST_FLOAT16 = (7, 0)

logger = logging.getLogger(__name__)


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The dtype of SOLVER.AMP on a device; None for float32.

    "auto" is the fastest one that the device computes in: bfloat16, or float16 with scaled
    gradients on a GPU before bfloat16, or float32. Any other is obeyed. All processes ask.

    Raises:
        ConfigError: for float16 on a CPU, and for "auto" on devices of which it is not the same.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name == "float16" and device.type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'float16' but MODEL.DEVICE is 'cpu', which has no gradient "
            "scaling: use 'bfloat16' or 'auto'."
        )
    if name != "auto":
        return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]
    fastest = _fastest_dtype(device)
    formats = comm.all_gather(name_of(fastest))
    if len(set(formats)) > 1:
        # Some gradients would be scaled when they are summed, and others not.
        of_ranks = ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(formats))
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'auto', which is not the same on all devices of this run "
            f"({of_ranks}): set it to one of them for all, 'bfloat16' or 'float16', or "
            "SOLVER.AMP.ENABLED to False for float32"
        )
    return fastest


def name_of(dtype: torch.dtype | None) -> str:
    """How logs and records call what :func:`autocast_dtype` gives."""
    return "float32" if dtype is None else f"{str(dtype).removeprefix('torch.')} autocast"


def announce(cfg: CfgNode, device: torch.device, dtype: torch.dtype | None) -> None:
    """Log what a run computes in and why; warn of a format that the device only emulates."""
    if not cfg.SOLVER.AMP.ENABLED:
        reason = "SOLVER.AMP.ENABLED is False"
    elif cfg.SOLVER.AMP.DTYPE == "auto":
        reason = "SOLVER.AMP.DTYPE is 'auto': the fastest that this machine computes in"
    else:
        reason = f"SOLVER.AMP.DTYPE is '{cfg.SOLVER.AMP.DTYPE}'"
    logger.info("Training in %s on %s (%s)", name_of(dtype), device, reason)
    if dtype == torch.bfloat16 and not _computes_in_bfloat16(device):
        logger.warning(
            "This machine only emulates bfloat16, which takes several times as long as float32: "
            "set SOLVER.AMP.DTYPE 'auto', or SOLVER.AMP.ENABLED False."
        )


def use_tf32(cfg: CfgNode) -> None:
    """Let GPUs round the inputs of float32 products to TF32 where MODEL.TF32 says so."""
    torch.backends.cudnn.allow_tf32 = cfg.MODEL.TF32 in ("convolutions", "all")
    torch.backends.cuda.matmul.allow_tf32 = cfg.MODEL.TF32 == "all"


def _fastest_dtype(device: torch.device) -> torch.dtype | None:
    if _computes_in_bfloat16(device):
        return torch.bfloat16
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_FAST_FLOAT16:
        return torch.float16
    return None


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16, with which it is faster than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN also takes it where there is AVX-512 alone: twice the time of float32.
        units = (torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported())
        return supported and any(units)
    return supported
