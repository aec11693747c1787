"""Semi-supervised methods: one file each, which reads as its paper does.

A method decides what happens at five moments of a step (``mean_teacher.py``). The data, the
detector and the teacher stand below and know none of them; the step stands above and asks the one
that the config names. A method must not know the engine, and no ``if method ==`` stands anywhere.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from dre_ssod.methods import (
    dre,
    instant_teaching,
    label_match,
    mix_pl,
    mum,
    robust_teacher,
    rpl_like,
    settings,
    soft_teacher,
    stac,
    supervised,
    unbiased_teacher,
    unbiased_teacher_v2,
)
from dre_ssod.methods.mean_teacher import METHODS, Clock, MeanTeacher

__all__ = [
    "METHODS",
    "Clock",
    "MeanTeacher",
    "build_method",
    "dre",
    "instant_teaching",
    "label_match",
    "method_class",
    "mix_pl",
    "mum",
    "robust_teacher",
    "rpl_like",
    "settings",
    "soft_teacher",
    "stac",
    "supervised",
    "threshold_key",
    "unbiased_teacher",
    "unbiased_teacher_v2",
]


def method_class(cfg: CfgNode) -> type[MeanTeacher]:
    """The class that SSOD.METHOD names; ``Supervised`` where SSOD.ENABLED is False."""
    found: type[MeanTeacher] = METHODS.get(cfg.SSOD.METHOD if cfg.SSOD.ENABLED else "Supervised")
    return found


def threshold_key(cfg: CfgNode) -> str:
    """The config key of tau, the score threshold, of the method of a config."""
    return settings.key_of(method_class(cfg).Settings, "score_threshold")


def build_method(cfg: CfgNode) -> MeanTeacher:
    """The method of a config."""
    return method_class(cfg).from_config(cfg)
