"""Refuses a config that cannot be right: names the key, its value, what is valid, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from fvcore.common.registry import Registry

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves
from dre_ssod.config.schedule import check_schedule
from dre_ssod.data.views.photometric import IMAGE_FORMATS
from dre_ssod.evaluation.evaluators import VOC_PROTOCOLS
from dre_ssod.methods import METHODS, MeanTeacher, method_class
from dre_ssod.modeling.box_transform import BOX_TRANSFORM_REGISTRY
from dre_ssod.settings import (
    EXAMPLES,
    Check,
    LocalFolder,
    Names,
    Number,
    Numbers,
    OneOf,
    Registered,
    Some,
    keys_of,
    refuse,
)

_MANY = 10**9
_LONG_SIDES = Numbers(0, 10**5, fewest=2, most=2, whole=True, rising="weakly")


def _part(registry: Registry, method: str = "") -> Registered:
    return Registered(registry, "; configs/Base-RCNN-FPN.yaml names parts that fit", method)


@dataclass(frozen=True)
class Unused:
    """A key that has no use here, 0 or empty, and what to do instead."""

    unset: Any
    instead: str

    def refusal(self, value: Any) -> str | None:
        return f"{self.unset!r}: {self.instead}" if value else None


# Detectron2's keys first, this project's below. Of those of Detectron2's that this trainer does not
# read, the ones that one would miss may only have the value that says so.
CHECKS: dict[str, Check] = {
    "VERSION": OneOf((2,)),
    "SEED": Number(-1, 2**31),
    "VIS_PERIOD": Unused(0, "SSOD.PANEL_PERIOD draws the images of a training"),
    "OUTPUT_DIR": LocalFolder(),
    "DATASETS.TRAIN": Names(),
    "DATASETS.TEST": Names(),
    "DATALOADER.NUM_WORKERS": Number(-1, 1024),
    "DATALOADER.SAMPLER_TRAIN": OneOf(("TrainingSampler",)),
    "DATALOADER.ASPECT_RATIO_GROUPING": OneOf((False,)),
    "INPUT.FORMAT": OneOf(IMAGE_FORMATS),
    "INPUT.RANDOM_FLIP": OneOf(("horizontal", "vertical", "none")),
    "INPUT.MIN_SIZE_TRAIN": Numbers(1, 10**5, fewest=1, whole=True),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": OneOf(("range", "choice")),
    "INPUT.MAX_SIZE_TRAIN": Number(1, 10**5),
    "INPUT.MIN_SIZE_TEST": Number(0, 10**5),
    "INPUT.MAX_SIZE_TEST": Number(1, 10**5),
    "INPUT.CROP.ENABLED": OneOf((False,)),
    "MODEL.META_ARCHITECTURE": _part(META_ARCH_REGISTRY),
    "MODEL.BACKBONE.NAME": _part(BACKBONE_REGISTRY),
    "MODEL.PROPOSAL_GENERATOR.NAME": _part(PROPOSAL_GENERATOR_REGISTRY, "student_losses"),
    "MODEL.ANCHOR_GENERATOR.NAME": _part(ANCHOR_GENERATOR_REGISTRY),
    "MODEL.RPN.SAMPLE_FROM": OneOf(("canvas", "image")),
    "MODEL.RPN.HEAD_NAME": _part(RPN_HEAD_REGISTRY),
    "MODEL.PIXEL_MEAN": Numbers(0.0, 255.0, fewest=3, most=3),
    "MODEL.PIXEL_STD": Numbers(1e-6, 1e6, fewest=3, most=3),
    "MODEL.MASK_ON": OneOf((False,)),
    "MODEL.KEYPOINT_ON": OneOf((False,)),
    "MODEL.LOAD_PROPOSALS": OneOf((False,)),
    "MODEL.ROI_HEADS.NAME": _part(ROI_HEADS_REGISTRY, "student_losses"),
    "MODEL.ROI_HEADS.NUM_CLASSES": Number(0, 10**6),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Number(0.0, 1.0),
    "MODEL.ROI_BOX_HEAD.NAME": _part(ROI_BOX_HEAD_REGISTRY),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": OneOf(("kl", "smooth_l1")),
    "MODEL.ROI_BOX_HEAD.BETA_NLL": Number(0.0, 1.0),
    "MODEL.ROI_BOX_HEAD.SIGMA_SCALE": Number(0.0, 100.0, positive=True),
    "MODEL.ROI_BOX_HEAD.DROP_BLOCK": Number(0.0, 0.5),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": OneOf((False,)),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": OneOf((False,)),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": OneOf((False,)),
    "SOLVER.IMS_PER_BATCH": Number(1, 10**6),
    "SOLVER.REFERENCE_WORLD_SIZE": Unused(
        0,
        "batch, rate and schedule are as they stand, for all processes together. For another "
        "number of processes change SOLVER.IMS_PER_BATCH, BASE_LR, MAX_ITER, STEPS and "
        "SSOD.BURN_IN_ITERS by hand",
    ),
    "SOLVER.MAX_ITER": Number(1, _MANY),
    "SOLVER.STEPS": Numbers(1, _MANY, whole=True, rising="strictly"),
    "SOLVER.BASE_LR": Number(1e-12, 1e3),
    "SOLVER.MOMENTUM": Number(0.0, 1.0),
    "SOLVER.WEIGHT_DECAY": Number(0.0, 1e3),
    # Detectron2's third, of a fixed gamma, breaks off after the last iteration of a run.
    "SOLVER.LR_SCHEDULER_NAME": OneOf(("WarmupMultiStepLR", "WarmupCosineLR")),
    "SOLVER.WARMUP_METHOD": OneOf(("linear", "constant")),
    "SOLVER.WARMUP_ITERS": Number(0, _MANY),
    "SOLVER.WARMUP_FACTOR": Number(0.0, 1.0),
    "SOLVER.CHECKPOINT_PERIOD": Number(1, _MANY),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": OneOf(("value", "norm", "full_model")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Number(1e-12, 1e12),
    "TEST.DETECTIONS_PER_IMAGE": Number(1, 10**6),
    "TEST.EVAL_PERIOD": Number(0, _MANY),
    "TEST.EXPECTED_RESULTS": Unused(
        [], "results stand in results.json of OUTPUT_DIR, to be compared afterwards"
    ),
    "TEST.AUG.ENABLED": OneOf((False,)),
    "TEST.PRECISE_BN.ENABLED": OneOf((False,)),
    "DATASETS.UNLABELED": Names(),
    "DATASETS.LABELED_PERCENT": Number(0, 100, positive=True),
    "DATASETS.LABELED_FOLD": Number(0, _MANY),
    "DATASETS.ACCEPT_CHANGED": Some(("labeled", "unlabeled", "test")),
    "DATALOADER.MAX_UNREADABLE_SHARE": Number(0.0, 1.0),
    "MODEL.ROI_BOX_HEAD.BOX_TRANSFORM": Registered(BOX_TRANSFORM_REGISTRY),
    "MODEL.TIMM.OUT_INDICES": Numbers(0, 100, fewest=1, whole=True),
    "MODEL.TIMM.NORM": OneOf(("FrozenBN", "BN")),
    "MODEL.TF32": OneOf(("none", "convolutions", "all")),
    "MODEL.TIMM.FREEZE_AT": Number(0, 100),
    "SOLVER.ACCUMULATION_STEPS": Number(1, 10**6),
    "SOLVER.AMP.DTYPE": OneOf(("auto", "float16", "bfloat16")),
    "SOLVER.CHECKPOINTS_KEPT": Number(1, 10**6),
    "SOLVER.ON_NONFINITE": OneOf(("stop", "skip")),
    "SSOD.LABELED_TO_UNLABELED": Numbers(1, 10**6, fewest=2, most=2, whole=True),
    "SSOD.METHOD": Registered(METHODS),
    "SSOD.BURN_IN_ITERS": Number(0, _MANY),
    "SSOD.LOG_VARIANCE_RANGE": Numbers(-20.0, 20.0, fewest=2, most=2, rising="weakly"),
    "SSOD.BOX_LOSS_NORMALIZER": OneOf(("sampled", "foreground")),
    "SSOD.LABELED_VIEW.LONG_SIDES": _LONG_SIDES,
    "SSOD.STRONG_VIEW.LONG_SIDES": _LONG_SIDES,
    "SSOD.STRONG_VIEW.MAX_TRANSLATE": Number(0.0, 1.0),
    "SSOD.STRONG_VIEW.MAX_ROTATE": Number(0.0, 180.0),
    "SSOD.STRONG_VIEW.MAX_SHEAR": Number(0.0, 80.0),
    "SSOD.STRONG_VIEW.ERASE_COUNT": Numbers(0, 1000, fewest=2, most=2, whole=True, rising="weakly"),
    "SSOD.STRONG_VIEW.ERASE_SIZE": Numbers(0.0, 1.0, fewest=2, most=2, rising="weakly"),
    "SSOD.WARN_NO_PSEUDO_LABELS_ITERS": Number(0, _MANY),
    "SSOD.WARN_PSEUDO_BOX_RATIO": Number(0.0, 1e6),
    "SSOD.WARN_CLASS_SHARE": Number(0.0, 1.0),
    "SSOD.PANEL_PERIOD": Number(0, _MANY),
    "SSOD.TRACKERS": Some(("wandb", "mlflow")),
    "SSOD.EVAL_MODEL": OneOf(("teacher", "student", "both")),
    "TEST.IMS_PER_BATCH": Number(1, 10**6),
    "TEST.VARIANCE_VOTING.SIGMA_T": Number(1e-4, 1e4),
    "TEST.VOC_PROTOCOLS": Some(VOC_PROTOCOLS),
    "TEST.PSEUDO_LABEL_IMAGES": Number(1, _MANY),
}
"""What keys may hold, each by itself. Keys that are not here may hold anything of their type, and
methods state the checks of their own keys."""


def check_config(cfg: CfgNode, world_size: int) -> None:
    """Check values and their combinations; needs no data and builds nothing.

    Args:
        world_size: number of processes of the run.

    Raises:
        ConfigError: naming the first key that cannot be used.
    """
    values = dict(leaves(cfg))
    _check_types(cfg, values)
    for key, check in (CHECKS | _checks_of_methods()).items():
        valid = check.refusal(values[key])
        if valid is not None:
            refuse(cfg, key, valid)
    _check_device(cfg)
    method = method_class(cfg)
    _check_sizes(cfg)
    _check_split(cfg, values)
    _check_architecture(cfg, method)
    _check_variance(cfg, values, method)
    if cfg.TEST.PSEUDO_LABEL_SET and not method.uses_teacher:
        valid = f"'' with the method {method.__name__}, which has no teacher to be measured"
        refuse(cfg, "TEST.PSEUDO_LABEL_SET", valid)
    check_schedule(cfg, method.uses_unlabeled)
    _check_batch(cfg, world_size, method.uses_unlabeled)


def _checks_of_methods() -> dict[str, Check]:
    keys = [key for _, method in METHODS for key in keys_of(method.Settings)]
    return {key.name: key.check for key in keys if key.check is not None}


@cache
def _default_types() -> dict[str, type]:
    return {key: type(value) for key, value in leaves(get_cfg()) if value is not None}


def _check_types(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        found, kind = type(value), _default_types().get(key)
        if kind in (None, found) or {found, kind} == {list, tuple} or (found, kind) == (int, float):
            continue
        refuse(cfg, key, EXAMPLES.get(kind, kind.__name__))


def _check_device(cfg: CfgNode) -> None:
    valid = "'cpu', 'cuda' or one GPU, such as 'cuda:0'"
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        refuse(cfg, "MODEL.DEVICE", valid)
    if device.type not in ("cpu", "cuda"):
        refuse(cfg, "MODEL.DEVICE", valid)
    if device.type == "cuda" and torch.cuda.is_available():
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            refuse(cfg, "MODEL.DEVICE", f"{valid}; this machine has {found} GPU(s), from 'cuda:0'")


def _check_sizes(cfg: CfgNode) -> None:
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    is_pair = len(sides) == 2 and sides[0] <= sides[1]
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not is_pair:
        refuse(
            cfg,
            "INPUT.MIN_SIZE_TRAIN",
            "(smallest, largest) while INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'",
        )
    for view in ("LABELED_VIEW", "STRONG_VIEW"):
        shortest, longest = cfg.SSOD[view].LONG_SIDES
        if longest and not shortest:
            refuse(cfg, f"SSOD.{view}.LONG_SIDES", "(smallest, largest), both from 1 on, or (0, 0)")
    if cfg.TEST.PSEUDO_LABEL_SET and cfg.INPUT.MIN_SIZE_TEST == 0:
        refuse(cfg, "INPUT.MIN_SIZE_TEST", "1 or more while TEST.PSEUDO_LABEL_SET names a set")


def _check_split(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    for key, unset in (("DATASETS.LABELED_PERCENT", 100.0), ("DATASETS.LABELED_FOLD", 0)):
        if cfg.DATASETS.SPLIT_FILE and values[key] != unset:
            refuse(
                cfg,
                key,
                f"{unset:g} while DATASETS.SPLIT_FILE is {cfg.DATASETS.SPLIT_FILE!r}: either the "
                "file says which images are labeled, or a draw by percent and fold does",
            )


def _check_architecture(cfg: CfgNode, method: type[MeanTeacher]) -> None:
    given, name = cfg.MODEL.META_ARCHITECTURE, method.__name__
    if given == method.architecture:
        return
    valid = f"{method.architecture!r} with the method {name}"
    if method.architecture != MeanTeacher.architecture:
        refuse(cfg, "MODEL.META_ARCHITECTURE", f"{valid}, as configs/methods/{name}.yaml has it")
    users = [other for other, found in METHODS if found.architecture == given]
    refuse(
        cfg,
        "MODEL.META_ARCHITECTURE",
        f"{valid}, which has no losses for the parts of another"
        + (f"; this one is for {' and '.join(users)}" if users else ""),
    )


def _check_variance(cfg: CfgNode, values: Mapping[str, Any], method: type[MeanTeacher]) -> None:
    if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == "kl":
        return
    test_keys = ("TEST.VARIANCE_VOTING.ENABLED", "TEST.RANK_BY_QUALITY")
    for key in (*method.variance_keys, *test_keys):
        if values[key]:
            refuse(
                cfg,
                key,
                "False while MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is 'smooth_l1': s_loc comes "
                "from the variance branch, which the 'kl' loss trains",
            )


def _check_batch(cfg: CfgNode, world_size: int, uses_unlabeled: bool) -> None:
    ratio = cfg.SSOD.LABELED_TO_UNLABELED
    steps = cfg.SOLVER.ACCUMULATION_STEPS
    unit = world_size * steps
    reason = f"{world_size} process(es) x {steps} accumulation step(s)"
    if uses_unlabeled:
        unit *= sum(ratio)
        reason += f" x {sum(ratio)} parts of SSOD.LABELED_TO_UNLABELED {tuple(ratio)}"
    if cfg.SOLVER.IMS_PER_BATCH % unit:
        refuse(cfg, "SOLVER.IMS_PER_BATCH", f"a multiple of {unit}: {reason}")
