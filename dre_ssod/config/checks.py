"""Refuses a config that cannot be right: names the key, its value, what is valid, what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.config.values import check_values, get_key, refuse
from dre_ssod.errors import ConfigError
from dre_ssod.modeling.box_transform import BOX_TRANSFORM_REGISTRY

CHOICES = {
    "SSOD.EVAL_MODEL": ("teacher", "student", "both"),
    "SSOD.BOX_LOSS_NORMALIZER": ("sampled", "foreground"),
    "SSOD.UNSUP_CLS_NORMALIZER": ("separate", "sampled"),
    "MODEL.TIMM.NORM": ("FrozenBN", "BN"),
    "SOLVER.AMP.DTYPE": ("auto", "float16", "bfloat16"),
    "SOLVER.ON_NONFINITE": ("stop", "skip"),
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
    "SSOD.PANEL_PERIOD": (0, 10**9),
    "SOLVER.ACCUMULATION_STEPS": (1, 10**6),
    "SOLVER.CHECKPOINTS_KEPT": (1, 10**6),
    "SOLVER.IMS_PER_BATCH": (1, 10**6),
    "SSOD.STRONG_VIEW.MAX_TRANSLATE": (0.0, 1.0),
    "SSOD.STRONG_VIEW.MAX_ROTATE": (0.0, 180.0),
    "SSOD.STRONG_VIEW.MAX_SHEAR": (0.0, 80.0),
    "MODEL.TIMM.FREEZE_AT": (0, 100),
    "DATALOADER.MAX_UNREADABLE_SHARE": (0.0, 1.0),
    "SSOD.WARN_NO_PSEUDO_LABELS_ITERS": (0, 10**9),
    "SSOD.WARN_PSEUDO_BOX_RATIO": (0.0, 1e6),
    "TEST.IMS_PER_BATCH": (1, 10**6),
    "TEST.VARIANCE_VOTING.SIGMA_T": (1e-4, 1e4),
    "TEST.PSEUDO_LABEL_IMAGES": (1, 10**9),
}

PAIRS: dict[str, tuple[float, float]] = {
    "SSOD.STRONG_VIEW.ERASE_COUNT": (0, 1000),
    "SSOD.STRONG_VIEW.ERASE_SIZE": (0.0, 1.0),
    "SSOD.LOG_VARIANCE_RANGE": (-20.0, 20.0),
}
"""Keys that hold (smallest, largest), and the bounds of both."""
WHOLE_PAIRS = ("SSOD.STRONG_VIEW.ERASE_COUNT",)


VOC_PROTOCOLS = ("bbox_ignore_difficult", "voc07_bbox", "voc10_bbox")
"""What TEST.VOC_PROTOCOLS may name: the keys of the results."""


def check_config(cfg: CfgNode, world_size: int) -> None:
    """Check values and their combinations.

    Args:
        world_size: number of processes of the run.

    Raises:
        ConfigError: naming the first key that cannot be used.
    """
    check_values(cfg)
    for key, choices in CHOICES.items():
        if get_key(cfg, key) not in choices:
            refuse(cfg, key, f"one of {', '.join(map(repr, choices))}")
    if cfg.MODEL.ROI_BOX_HEAD.BOX_TRANSFORM not in BOX_TRANSFORM_REGISTRY:
        names = ", ".join(repr(name) for name, _ in BOX_TRANSFORM_REGISTRY)
        refuse(cfg, "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", f"one of {names}")
    for key, (low, high) in RANGES.items():
        if not low <= get_key(cfg, key) <= high:
            refuse(cfg, key, f"a number in [{low}, {high}]")
    for key, (low, high) in PAIRS.items():
        value = get_key(cfg, key)
        numbers = (int,) if key in WHOLE_PAIRS else (int, float)
        is_pair = len(value) == 2 and all(type(n) in numbers for n in value)
        if not is_pair or not low <= value[0] <= value[1] <= high:
            whole = ", both whole" if key in WHOLE_PAIRS else ""
            refuse(cfg, key, f"two numbers (smallest, largest) in [{low}, {high}]{whole}")
    if not 0.0 < cfg.DATASETS.LABELED_PERCENT <= 100.0:
        refuse(cfg, "DATASETS.LABELED_PERCENT", "a number in (0, 100]")
    _check_split(cfg)
    _check_protocols(cfg)
    _check_variance(cfg)
    _check_batch(cfg, world_size)


def _check_split(cfg: CfgNode) -> None:
    for key, unset in (("DATASETS.LABELED_PERCENT", 100.0), ("DATASETS.LABELED_FOLD", 0)):
        if cfg.DATASETS.SPLIT_FILE and get_key(cfg, key) != unset:
            refuse(
                cfg,
                key,
                f"{unset:g} while DATASETS.SPLIT_FILE is {cfg.DATASETS.SPLIT_FILE!r}: either the "
                "file says which images are labeled, or a draw by percent and fold does",
            )


def _check_protocols(cfg: CfgNode) -> None:
    chosen = cfg.TEST.VOC_PROTOCOLS
    if any(name not in VOC_PROTOCOLS for name in chosen) or len(set(chosen)) < len(chosen):
        refuse(cfg, "TEST.VOC_PROTOCOLS", f"different names out of {', '.join(VOC_PROTOCOLS)}")


def _check_variance(cfg: CfgNode) -> None:
    if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "kl":
        return
    keys = ["TEST.VARIANCE_VOTING.ENABLED", "TEST.RANK_BY_QUALITY"]
    if cfg.SSOD.ENABLED:
        keys = ["SSOD.LER.ENABLED", "SSOD.PRC.ENABLED", *keys]
    for key in keys:
        if get_key(cfg, key):
            refuse(
                cfg,
                key,
                "False while MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is 'smooth_l1': s_loc comes "
                "from the variance branch, which the 'kl' loss trains",
            )


def _check_batch(cfg: CfgNode, world_size: int) -> None:
    ratio = cfg.SSOD.LABELED_TO_UNLABELED
    if len(ratio) != 2 or any(type(n) is not int or n < 1 for n in ratio):
        refuse(cfg, "SSOD.LABELED_TO_UNLABELED", "two positive whole numbers, such as (1, 4)")
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    unit = world_size * steps
    reason = f"{world_size} process(es) x {steps} accumulation step(s)"
    if cfg.SSOD.ENABLED:
        unit *= sum(ratio)
        reason += f" x {sum(ratio)} parts of SSOD.LABELED_TO_UNLABELED {tuple(ratio)}"
    if cfg.SOLVER.IMS_PER_BATCH % unit:
        refuse(cfg, "SOLVER.IMS_PER_BATCH", f"a multiple of {unit}: {reason}")


def check_files(cfg: CfgNode, resume: bool) -> None:
    """Check that the run's folder can be written to and that its starting weights exist.

    Args:
        resume: a run that goes on takes its weights from its own folder.

    Raises:
        ConfigError: naming the key and the path.
    """
    if not cfg.OUTPUT_DIR:
        refuse(cfg, "OUTPUT_DIR", "a folder for the files of the run")
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(cfg, "OUTPUT_DIR", f"a folder that can be made: {error}")
    if not os.access(cfg.OUTPUT_DIR, os.W_OK | os.X_OK):
        refuse(cfg, "OUTPUT_DIR", "a folder that you may write to")
    weights = cfg.MODEL.WEIGHTS
    is_address = "://" in weights
    if weights and not (resume or is_address or Path(weights.partition("?")[0]).is_file()):
        refuse(cfg, "MODEL.WEIGHTS", "a file that exists, an address that can be loaded, or ''")


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
