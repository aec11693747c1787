"""The schedule of a run: what cannot be trained is refused, what was hardly meant is told."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from dre_ssod.methods import method_class
from dre_ssod.settings import refuse

logger = logging.getLogger(__name__)


def check_schedule(cfg: CfgNode, uses_unlabeled: bool) -> None:
    """Refuse rates, steps and a burn-in that do not fit each other or the length of the run.

    Raises:
        ConfigError: naming the first key that cannot be used.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and solver.MAX_ITER in solver.STEPS:
        refuse(
            cfg,
            "SOLVER.STEPS",
            f"iterations before the end of the run, SOLVER.MAX_ITER {solver.MAX_ITER}: leave that "
            'one out, or write "()" for a rate that is never lowered',
        )
    if solver.RESCALE_INTERVAL and solver.WARMUP_ITERS >= solver.MAX_ITER:
        refuse(
            cfg,
            "SOLVER.WARMUP_ITERS",
            f"less than SOLVER.MAX_ITER, {solver.MAX_ITER}, while SOLVER.RESCALE_INTERVAL is True: "
            "what comes after the warm-up is scaled to the iterations that are left",
        )
    is_cosine = solver.LR_SCHEDULER_NAME == "WarmupCosineLR"
    if is_cosine and not 0.0 <= solver.BASE_LR_END <= solver.BASE_LR:
        refuse(
            cfg,
            "SOLVER.BASE_LR_END",
            f"a number from 0 to SOLVER.BASE_LR, {solver.BASE_LR:g}, from which the rate of "
            "WarmupCosineLR falls to it",
        )
    if uses_unlabeled:
        _check_burn_in(cfg)


def say_schedule(cfg: CfgNode) -> None:
    """Warn of a warm-up that reaches to where rates fall, and of an average over nothing."""
    solver = cfg.SOLVER
    length, fall = solver.WARMUP_ITERS, solver.MAX_ITER
    where = f"the run ends after SOLVER.MAX_ITER {fall}"
    # A cosine falls from the first iteration on.
    steps = solver.STEPS if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" else ()
    if steps and steps[0] < fall:
        fall, where = steps[0], f"the rate is lowered from SOLVER.STEPS {tuple(steps)} on"
    # Rescaled, steps are counted from the end of the warm-up.
    if length >= fall and not solver.RESCALE_INTERVAL:
        logger.warning(
            "SOLVER.WARMUP_ITERS is %d, but %s: the warm-up ends too late for the rate to reach "
            "SOLVER.BASE_LR %g, and the highest of the run is %.3g. Set SOLVER.WARMUP_ITERS to "
            "less than %d, such as %d.",
            *(length, where, solver.BASE_LR, solver.BASE_LR * _highest(cfg), fall, fall // 10),
        )
    horizon = cfg.SSOD.EMA.HORIZON
    has_average = "ema_horizon" not in method_class(cfg).unread
    if has_average and 0.0 < horizon * solver.MAX_ITER < 1.0:
        logger.warning(
            "SSOD.EMA.HORIZON is %g, of SOLVER.MAX_ITER %d not even one iteration: the decay is 0, "
            "and the teacher a copy of its student. Set it to more than %.2g, or to 0 for "
            "SSOD.EMA.DECAY alone.",
            *(horizon, solver.MAX_ITER, 1.0 / solver.MAX_ITER),
        )


def _highest(cfg: CfgNode) -> float:
    """The highest rate of a run as a share of BASE_LR, by Detectron2's own schedule.

    For a warm-up that :func:`say_schedule` warns of: there it is at one of its ends.
    """
    own = cfg.clone()
    own.defrost()
    solver = own.SOLVER
    end = solver.MAX_ITER
    # Detectron2 warns of those beyond the end, which it does for the run itself.
    solver.STEPS = tuple(step for step in solver.STEPS if step < end)
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    share = build_lr_scheduler(own, optimizer)._multiplier
    last = min(solver.WARMUP_ITERS, end) - 1
    return float(max(share(n / end) for n in (0, last, min(last + 1, end - 1))))


def _check_burn_in(cfg: CfgNode) -> None:
    if cfg.SSOD.BURN_IN_ITERS >= cfg.SOLVER.MAX_ITER:
        refuse(
            cfg,
            "SSOD.BURN_IN_ITERS",
            f"less than SOLVER.MAX_ITER, {cfg.SOLVER.MAX_ITER}: no unlabeled image would ever be "
            "used. To train on labels alone, set SSOD.ENABLED False",
        )
    left = cfg.SOLVER.MAX_ITER - cfg.SSOD.BURN_IN_ITERS
    if cfg.SSOD.UNSUP_WARMUP_ITERS > left:
        refuse(
            cfg,
            "SSOD.UNSUP_WARMUP_ITERS",
            f"at most the {left} iterations that SOLVER.MAX_ITER, {cfg.SOLVER.MAX_ITER}, leaves "
            "after SSOD.BURN_IN_ITERS: the unsupervised losses would never have their full weights",
        )
