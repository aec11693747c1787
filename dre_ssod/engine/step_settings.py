"""What a training step needs to know of the config."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from dre_ssod.engine.precision import autocast_dtype


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
