"""Refuses single values: a key of the wrong type, and Detectron2's keys that a run relies on.

``check_values`` needs no data and builds nothing, so it comes before everything else. What keys
mean together, and the values of this project's own keys, are in :mod:`dre_ssod.config.checks`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn

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

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import EXAMPLES, leaves
from dre_ssod.errors import ConfigError

REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
}
"""Keys that name a registered part of the model."""

CHOICES = {
    "VERSION": (2,),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("range", "choice"),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm", "full_model"),
}

RANGES: dict[str, tuple[float, float]] = {
    "SEED": (-1, 2**31),
    "DATALOADER.NUM_WORKERS": (0, 1024),
    "SOLVER.MAX_ITER": (1, 10**9),
    "SOLVER.BASE_LR": (1e-12, 1e3),
    "SOLVER.MOMENTUM": (0.0, 1.0),
    "SOLVER.WEIGHT_DECAY": (0.0, 1e3),
    "SOLVER.WARMUP_ITERS": (0, 10**9),
    "SOLVER.WARMUP_FACTOR": (0.0, 1.0),
    "SOLVER.CHECKPOINT_PERIOD": (1, 10**9),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (1e-12, 1e12),
    "TEST.EVAL_PERIOD": (0, 10**9),
    "INPUT.MAX_SIZE_TRAIN": (1, 10**5),
    "INPUT.MIN_SIZE_TEST": (0, 10**5),
    "INPUT.MAX_SIZE_TEST": (1, 10**5),
    "MODEL.ROI_HEADS.NUM_CLASSES": (0, 10**6),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0.0, 1.0),
}
"""Keys that hold one number, and its bounds, both included."""

SEQUENCES: dict[str, tuple[type, int, float, float]] = {
    "SOLVER.STEPS": (int, 0, 1, 10**9),
    "INPUT.MIN_SIZE_TRAIN": (int, 1, 1, 10**5),
    "MODEL.PIXEL_MEAN": (float, 3, 0.0, 255.0),
    "MODEL.PIXEL_STD": (float, 3, 1e-6, 1e6),
    "MODEL.TIMM.OUT_INDICES": (int, 1, 0, 100),
}
"""Keys that hold several numbers: their type, the fewest of them, and their bounds."""

NAME_TUPLES = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.UNLABELED")


def check_values(cfg: CfgNode) -> None:
    """Check every key by itself.

    Raises:
        ConfigError: naming the first key that cannot be used.
    """
    _check_types(cfg)
    for key, choices in CHOICES.items():
        if get_key(cfg, key) not in choices:
            refuse(cfg, key, f"one of {', '.join(map(repr, choices))}")
    for key, (low, high) in RANGES.items():
        if not low <= get_key(cfg, key) <= high:
            refuse(cfg, key, f"a number in [{low}, {high}]")
    for key, (kind, fewest, low, high) in SEQUENCES.items():
        values = get_key(cfg, key)
        if len(values) < fewest or not all(_fits(value, kind, low, high) for value in values):
            noun = "whole numbers" if kind is int else "numbers"
            refuse(cfg, key, f"{fewest} or more {noun} in [{low}, {high}]")
    for key in NAME_TUPLES:
        if not all(isinstance(name, str) and name for name in get_key(cfg, key)):
            refuse(cfg, key, "names or URIs in quotes, such as \"('folder://DIR',)\"")
    for key, registry in REGISTRIES.items():
        if get_key(cfg, key) not in registry:
            names = ", ".join(repr(name) for name, _ in registry)
            refuse(cfg, key, f"one of {names}; configs/Base-RCNN-FPN.yaml names parts that fit")
    _check_schedule(cfg)
    _check_device(cfg)


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def refuse(cfg: CfgNode, key: str, valid: str) -> NoReturn:
    """Raise a ConfigError with the key, its value and what is valid."""
    raise ConfigError(f"{key} is {get_key(cfg, key)!r:.200}; it must be {valid}.")


@cache
def _default_types() -> dict[str, type]:
    return {key: type(value) for key, value in leaves(get_cfg()) if value is not None}


def _check_types(cfg: CfgNode) -> None:
    for key, value in leaves(cfg):
        kind = _default_types().get(key)
        if kind is None or type(value) is kind or {type(value), kind} == {list, tuple}:
            continue
        if kind is not float or type(value) is not int:
            refuse(cfg, key, EXAMPLES.get(kind, kind.__name__))


def _fits(value: Any, kind: type, low: float, high: float) -> bool:
    return type(value) in (int, kind) and low <= value <= high


def _check_schedule(cfg: CfgNode) -> None:
    steps = list(cfg.SOLVER.STEPS)
    if steps != sorted(set(steps)):
        refuse(cfg, "SOLVER.STEPS", "iterations in rising order, each once")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    is_pair = len(sizes) == 2 and sizes[0] <= sizes[1]
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not is_pair:
        refuse(
            cfg,
            "INPUT.MIN_SIZE_TRAIN",
            "(smallest, largest) while INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'",
        )


def _check_device(cfg: CfgNode) -> None:
    valid = "'cpu', 'cuda' or one GPU, such as 'cuda:0'"
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        refuse(cfg, "MODEL.DEVICE", valid)
    if device.type == "cuda" and torch.cuda.is_available():
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            refuse(cfg, "MODEL.DEVICE", f"{valid}; this machine has {found} GPU(s), from 'cuda:0'")
