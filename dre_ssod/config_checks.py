"""Refuses a config that cannot be right: names the key, its value, what is valid, what to do."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from dre_ssod.modeling.box_transform import BOX_TRANSFORM_REGISTRY


class ConfigError(ValueError):
    """A config key with a value that cannot be used."""


CHOICES = {
    "SSOD.EVAL_MODEL": ("teacher", "student", "both"),
    "SSOD.BOX_LOSS_NORMALIZER": ("sampled", "foreground"),
    "SSOD.UNSUP_CLS_NORMALIZER": ("separate", "sampled"),
    "SOLVER.AMP.DTYPE": ("auto", "float16", "bfloat16"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": ("kl", "smooth_l1"),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "DATALOADER.ASPECT_RATIO_GROUPING": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.MASK_ON": (False,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "INPUT.CROP.ENABLED": (False,),
    "TEST.AUG.ENABLED": (False,),
    "TEST.PRECISE_BN.ENABLED": (False,),
}
"""Keys with a fixed set of values. Detectron2 keys that this trainer does not read may only have
the value that says so."""

# Inclusive bounds.
RANGES: dict[str, tuple[float, float]] = {
    "DATASETS.LABELED_FOLD": (0, 10**9),
    "SSOD.SCORE_THRESHOLD": (0.0, 1.0),
    "SSOD.UNSUP_LOSS_WEIGHT": (0.0, 1e6),
    "SSOD.EMA.DECAY": (0.0, 1.0),
    "SSOD.BURN_IN_ITERS": (0, 10**9),
    "SOLVER.ACCUMULATION_STEPS": (1, 10**6),
    "SOLVER.IMS_PER_BATCH": (1, 10**6),
    "SSOD.STRONG_VIEW.MAX_TRANSLATE": (0.0, 1.0),
    "SSOD.STRONG_VIEW.MAX_ROTATE": (0.0, 180.0),
    "SSOD.STRONG_VIEW.MAX_SHEAR": (0.0, 80.0),
    "MODEL.TIMM.FREEZE_AT": (0, 100),
}

PAIRS: dict[str, tuple[float, float]] = {
    "SSOD.STRONG_VIEW.ERASE_COUNT": (0, 1000),
    "SSOD.STRONG_VIEW.ERASE_SIZE": (0.0, 1.0),
    "SSOD.LOG_VARIANCE_RANGE": (-20.0, 20.0),
}
"""Keys that hold (smallest, largest), and the bounds of both."""


def check_config(cfg: CfgNode, world_size: int) -> None:
    """Check values and their combinations.

    Args:
        world_size: number of processes of the run.

    Raises:
        ConfigError: naming the first key that cannot be used.
    """
    for key, choices in CHOICES.items():
        if _get(cfg, key) not in choices:
            _refuse(cfg, key, f"one of {', '.join(map(repr, choices))}")
    if cfg.MODEL.ROI_BOX_HEAD.BOX_TRANSFORM not in BOX_TRANSFORM_REGISTRY:
        names = ", ".join(repr(name) for name, _ in BOX_TRANSFORM_REGISTRY)
        _refuse(cfg, "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", f"one of {names}")
    for key, (low, high) in RANGES.items():
        if not low <= _get(cfg, key) <= high:
            _refuse(cfg, key, f"a number in [{low}, {high}]")
    for key, (low, high) in PAIRS.items():
        value = _get(cfg, key)
        is_pair = len(value) == 2 and all(isinstance(n, (int, float)) for n in value)
        if not is_pair or not low <= value[0] <= value[1] <= high:
            _refuse(cfg, key, f"two numbers (smallest, largest) in [{low}, {high}]")
    if not 0.0 < cfg.DATASETS.LABELED_PERCENT <= 100.0:
        _refuse(cfg, "DATASETS.LABELED_PERCENT", "a number in (0, 100]")
    _check_variance(cfg)
    _check_batch(cfg, world_size)


def _check_variance(cfg: CfgNode) -> None:
    if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "kl" or not cfg.SSOD.ENABLED:
        return
    for key in ("SSOD.LER.ENABLED", "SSOD.PRC.ENABLED"):
        if _get(cfg, key):
            _refuse(
                cfg,
                key,
                "False while MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is 'smooth_l1': s_loc comes "
                "from the variance branch, which the 'kl' loss trains",
            )


def _check_batch(cfg: CfgNode, world_size: int) -> None:
    ratio = cfg.SSOD.LABELED_TO_UNLABELED
    if len(ratio) != 2 or any(not isinstance(n, int) or n < 1 for n in ratio):
        _refuse(cfg, "SSOD.LABELED_TO_UNLABELED", "two positive whole numbers, such as (1, 4)")
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    unit = world_size * steps
    reason = f"{world_size} process(es) x {steps} accumulation step(s)"
    if cfg.SSOD.ENABLED:
        unit *= sum(ratio)
        reason += f" x {sum(ratio)} parts of SSOD.LABELED_TO_UNLABELED {tuple(ratio)}"
    if cfg.SOLVER.IMS_PER_BATCH % unit:
        _refuse(cfg, "SOLVER.IMS_PER_BATCH", f"a multiple of {unit}: {reason}")


def check_pools(cfg: CfgNode, pools: Any) -> None:
    """Check what the datasets hold against the config.

    Args:
        pools: with ``labeled``, ``unlabeled`` and ``classes``.

    Raises:
        ConfigError: if there is nothing to train on, or the classes contradict the config.
    """
    if cfg.SSOD.ENABLED and not pools.unlabeled:
        raise ConfigError(
            f"no unlabeled images: DATASETS.UNLABELED is {tuple(cfg.DATASETS.UNLABELED)} and "
            f"DATASETS.LABELED_PERCENT is {cfg.DATASETS.LABELED_PERCENT}. Name a source, such as "
            "DATASETS.UNLABELED \"('folder://DIR',)\", lower DATASETS.LABELED_PERCENT to leave "
            "part of DATASETS.TRAIN unlabeled, or set SSOD.ENABLED False."
        )
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES != len(pools.classes):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but DATASETS.TRAIN "
            f"has {len(pools.classes)} classes: {', '.join(pools.classes)}. Set it to "
            f"{len(pools.classes)}, or to 0 to take it from the data."
        )


def _get(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def _refuse(cfg: CfgNode, key: str, valid: str) -> None:
    raise ConfigError(f"{key} is {_get(cfg, key)!r}; it must be {valid}.")
