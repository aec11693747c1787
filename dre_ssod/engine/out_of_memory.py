"""What to change where a step does not fit into a GPU's memory."""

from __future__ import annotations

from detectron2.config import CfgNode

from dre_ssod.engine.training_data import images_per_pass


def advice(cfg: CfgNode, world_size: int, in_float32: bool) -> str:
    """The settings that the memory of a step goes by, and smaller ones that fit the config.

    Args:
        in_float32: whether the run computes in float32, and so has 16 bits to fall back on.
    """
    labeled, unlabeled = images_per_pass(cfg, world_size)
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    choices = []
    # Labeled and unlabeled images of a pass keep their ratio.
    more = next((n for n in range(2, labeled + 1) if labeled % n == unlabeled % n == 0), None)
    if more is not None:
        choices.append(
            f"SOLVER.ACCUMULATION_STEPS {steps * more} (the same batch, {labeled // more} + "
            f"{unlabeled // more} images in a pass)"
        )
    if in_float32:
        choices.append("SOLVER.AMP.ENABLED True (16 bits, half of it)")
    choices.append(
        f"a smaller INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN than "
        f"{tuple(cfg.INPUT.MIN_SIZE_TRAIN)} and {cfg.INPUT.MAX_SIZE_TRAIN}"
    )
    for view in ("LABELED_VIEW", "STRONG_VIEW"):
        sides = tuple(cfg.SSOD[view].LONG_SIDES)
        if any(sides):
            choices.append(f"smaller SSOD.{view}.LONG_SIDES than {sides}")
    return (
        f"A pass of this process has {labeled} labeled and {unlabeled} unlabeled images "
        f"(SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} over {world_size} process(es) and "
        f"{steps} pass(es)). Set {', or '.join(choices)}."
    )
