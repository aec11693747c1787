"""What a training step needs to know of the config."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from dre_ssod.errors import ConfigError


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know beside its method.

    Attributes:
        burn_in_iters: iterations before the first pseudo-label.
        max_iter: iterations of the run.
        accumulation_steps: forward passes per optimizer step.
        autocast_dtype: float16 or bfloat16 under AMP, else None.
        skip_nonfinite: whether a step whose loss or gradient is not finite is skipped; else it
            stops the run.
        max_unreadable_share: of the images drawn; above it the run stops.
        seed: makes every random choice of a step a function of (seed, iteration, rank).
    """

    burn_in_iters: int
    max_iter: int
    accumulation_steps: int
    autocast_dtype: torch.dtype | None
    skip_nonfinite: bool
    max_unreadable_share: float
    seed: int


def step_settings(cfg: CfgNode, seed: int, device: torch.device) -> StepSettings:
    """The settings of the training step that a config describes."""
    return StepSettings(
        burn_in_iters=cfg.SSOD.BURN_IN_ITERS,
        max_iter=cfg.SOLVER.MAX_ITER,
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        skip_nonfinite=cfg.SOLVER.ON_NONFINITE == "skip",
        autocast_dtype=autocast_dtype(cfg, device),
        max_unreadable_share=cfg.DATALOADER.MAX_UNREADABLE_SHARE,
        seed=seed,
    )


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The dtype of SOLVER.AMP on a device, None where AMP is off."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        name = "float16" if device.type == "cuda" else "bfloat16"
    if name == "float16" and device.type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'float16' but MODEL.DEVICE is 'cpu', which has no gradient "
            "scaling: use 'bfloat16' or 'auto'."
        )
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]
