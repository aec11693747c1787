"""Keys that nothing reads as a config stands: of another method, or of something that is off.

Of this project's own keys, and of Detectron2's those that are named below. What is set without
effect is said, never passed over.

A config file may hold such keys, as those of data hold some for whatever method they are combined
with: they are named in one warning. On the command line they are refused, since they were given for
this very run; but for the baseline, which one more word there makes of a command.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, MeanTeacher, method_class
from dre_ssod.settings import get_key, key_of

logger = logging.getLogger(__name__)

OF_UNLABELED = frozenset(
    f"SSOD.{name}"
    for name in (
        "LABELED_TO_UNLABELED",
        "PANEL_PERIOD",
        "WARN_CLASS_SHARE",
        "WARN_NO_PSEUDO_LABELS_ITERS",
        "WARN_PSEUDO_BOX_RATIO",
    )
)
"""Keys of no method that a run without unlabeled images does not read."""
OF_VARIANCE = frozenset(
    (
        "MODEL.ROI_BOX_HEAD.BETA_NLL",
        "MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA",
        "MODEL.ROI_BOX_HEAD.SIGMA_SCALE",
        "SSOD.LOG_VARIANCE_RANGE",
        "SSOD.RESCALE_LOCALIZATION_QUALITY",
    )
)
"""Keys that a box head without variance branch does not read."""
_CLIPPING = ("SOLVER.CLIP_GRADIENTS.ENABLED",)
_SWITCHES = {
    "SOLVER.AMP.DTYPE": ("SOLVER.AMP.ENABLED",),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _CLIPPING,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _CLIPPING,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _CLIPPING,
    "SSOD.BURN_IN_COPY": ("SSOD.BURN_IN_ITERS",),
    "SSOD.BURN_IN_KEPT": ("SSOD.BURN_IN_ITERS",),
    "SSOD.INSTANT_TEACHING.MIN_SIDE": ("SSOD.INSTANT_TEACHING.MIX",),
    "SSOD.INSTANT_TEACHING.MIXUP": ("SSOD.INSTANT_TEACHING.MIX",),
    "SSOD.LABELMATCH.MIN_SCORE": ("SSOD.LABELS.RANK_SHARE",),
    "SSOD.LABELMATCH.WINDOW": ("SSOD.LABELS.RANK_SHARE",),
    "SSOD.MIXPL.ERASE_SIZE": ("SSOD.MIXPL.ERASE_COUNT",),
    "SSOD.MIXPL.MOSAIC_SIDES": ("SSOD.MIXPL.MOSAIC_WEIGHT",),
    "SSOD.MUM.GROUP": ("SSOD.MUM.PROBABILITY",),
    "SSOD.MUM.RAMP_START": ("SSOD.MUM.RAMP_ITERS",),
    "SSOD.MUM.TILES": ("SSOD.MUM.PROBABILITY",),
    "SSOD.QUALITY_POWER": ("SSOD.LER.ENABLED", "SSOD.PRC.ENABLED"),
    "SSOD.RELATIVE_WEIGHTS": ("SSOD.LER.ENABLED", "SSOD.PRC.ENABLED"),
    "SSOD.ROBUST_TEACHER.JITTER_SCALE": ("SSOD.ROBUST_TEACHER.JITTER_COPIES",),
    "SSOD.ROBUST_TEACHER.PASTE_MAX_COVER": ("SSOD.ROBUST_TEACHER.PASTE",),
    "SSOD.ROBUST_TEACHER.PASTE_MIN_AREA": ("SSOD.ROBUST_TEACHER.PASTE",),
    "SSOD.ROBUST_TEACHER.PASTE_MIN_VISIBLE": ("SSOD.ROBUST_TEACHER.PASTE",),
    "SSOD.RPL_LIKE.MAX_WEIGHT": ("SSOD.RPL_LIKE.LOSS_POWER",),
    "SSOD.RPL_LIKE.MOMENTUM": ("SSOD.RPL_LIKE.THRESHOLD_POWER", "SSOD.RPL_LIKE.LOSS_POWER"),
    "SSOD.RPL_LIKE.QUALITY_SHARE": ("SSOD.RPL_LIKE.BY_QUALITY",),
    "SSOD.RPL_LIKE.WINDOW": ("SSOD.RPL_LIKE.BY_QUALITY",),
    "SSOD.STRONG_VIEW.ERASE_SIZE": ("SSOD.STRONG_VIEW.ERASE_COUNT",),
    "SSOD.STRONG_VIEW.MAX_ROTATE": ("SSOD.STRONG_VIEW.GEOMETRIC",),
    "SSOD.STRONG_VIEW.MAX_SHEAR": ("SSOD.STRONG_VIEW.GEOMETRIC",),
    "SSOD.STRONG_VIEW.MAX_TRANSLATE": ("SSOD.STRONG_VIEW.GEOMETRIC",),
    "TEST.PSEUDO_LABEL_IMAGES": ("TEST.PSEUDO_LABEL_SET",),
    "TEST.VARIANCE_VOTING.SIGMA_T": ("TEST.VARIANCE_VOTING.ENABLED",),
}
"""Keys that are read where one of others is on, by a method that reads those."""
_OF_OTHER_BACKBONES = {
    "timm": ("MODEL.RESNETS.", "MODEL.BACKBONE.FREEZE_AT"),
    "resnet": ("MODEL.TIMM.",),
}
"""By a word in MODEL.BACKBONE.NAME: how keys begin that backbones of that kind do not read."""
_OF_BASE = {"MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
"""What configs/Base-RCNN-FPN.yaml hands on to configs with either kind of backbone."""


@dataclass(frozen=True)
class Unread:
    """A key that differs from its default and has no effect.

    Attributes:
        key: dotted.
        value: of the config.
        why: what is read in its place, or what is not there to read it; "" where neither is known.
    """

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key} {self.value!r:.80}" + (f" ({self.why})" if self.why else "")


def unread_keys(cfg: CfgNode) -> list[Unread]:
    """Keys that differ from their defaults, but are not read.

    By the config's method, that is, by its box head or backbone, or because what they are about is
    off.
    """
    method = method_class(cfg)
    defaults = dict(leaves(get_cfg()))
    changed = {key: value for key, value in leaves(cfg) if value != defaults[key]}
    base, own = _keys(MeanTeacher), _keys(method)
    in_place = {base[name]: own[name] for name in base.keys() & own.keys()}
    if "score_threshold" in own:
        # Of several that bound scores the one that decides as the base's does.
        in_place[base["score_threshold"]] = method.threshold_keys()[0]
    whys = {key: f"{other} is read in its place" for key, other in in_place.items()}
    # The teacher of the baseline labels, too, where its labels are to be measured.
    measured = (
        {base["score_threshold"]}
        if cfg.TEST.PSEUDO_LABEL_SET and not method.uses_unlabeled
        else set()
    )
    found = [
        Unread(key, value, whys.get(key, ""))
        for key, value in changed.items()
        if key.startswith("SSOD.") and not _is_read(key, method) and key not in measured
    ]
    if cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE != "kl":
        why = "for a variance branch, which BBOX_REG_LOSS_TYPE 'smooth_l1' has not"
        found += [Unread(key, changed[key], why) for key in sorted(changed.keys() & OF_VARIANCE)]
    found += _of_other_backbones(cfg, changed)
    found += _of_other_data(cfg, changed)
    named = {other.key for other in found}
    for key in sorted(changed.keys() & _SWITCHES.keys() - named):
        switches = _SWITCHES[key]
        if all(_is_read(switch, method) for switch in switches) and not any(
            _is_on(get_key(cfg, switch)) for switch in switches
        ):
            off = " and ".join(f"{switch} is {get_key(cfg, switch)!r}" for switch in switches)
            found.append(Unread(key, changed[key], off))
    return found


def check_effects(cfg: CfgNode, given: Collection[str], trains: bool = True) -> None:
    """Refuse keys of the command line that have no effect.

    Args:
        given: the keys there.
        trains: whether there is a training to come.

    Raises:
        ConfigError: naming them, their values, and the keys that are read in their place.
    """
    method = method_class(cfg)

    def matters(key: str) -> bool:
        if key.startswith("SSOD.") and key not in OF_VARIANCE:
            return trains and method.uses_unlabeled
        return trains or not key.startswith("SOLVER.")

    found = [other for other in unread_keys(cfg) if other.key in given and matters(other.key)]
    if found:
        raise ConfigError(
            f"the method {method.__name__} does not read {', '.join(map(str, found))}: leave it "
            "out, switch on what it is about, or choose what reads it, such as another "
            "SSOD.METHOD. docs/methods.md says what each has of its own."
        )


def say_unread(cfg: CfgNode) -> None:
    """Log which keys have no effect, if any: a warning, but for the baseline, where they must."""
    method = method_class(cfg)
    unread = unread_keys(cfg)
    if unread:
        logger.log(
            logging.WARNING if method.uses_unlabeled else logging.INFO,
            "The method %s does not read these keys, which have no effect: %s.",
            method.__name__,
            ", ".join(map(str, unread)),
        )


def _of_other_backbones(cfg: CfgNode, changed: Mapping[str, Any]) -> list[Unread]:
    """Changed keys of the kind of backbone that the config does not name."""
    name = cfg.MODEL.BACKBONE.NAME
    starts = next((keys for kind, keys in _OF_OTHER_BACKBONES.items() if kind in name), ())
    return [
        Unread(key, value, f"MODEL.BACKBONE.NAME is {name!r}")
        for key, value in changed.items()
        if key.startswith(starts) and _OF_BASE.get(key) != value
    ]


def _of_other_data(cfg: CfgNode, changed: Mapping[str, Any]) -> list[Unread]:
    """Changed keys about a draw that is not made, or about sets that are not there."""
    found = []
    if "DATASETS.LABELED_FOLD" in changed and cfg.DATASETS.LABELED_PERCENT == 100:
        why = "DATASETS.LABELED_PERCENT is 100: no labeled images are drawn"
        found.append(Unread("DATASETS.LABELED_FOLD", cfg.DATASETS.LABELED_FOLD, why))
    if "DATASETS.UNLABELED_OVERLAP" in changed and not cfg.DATASETS.UNLABELED:
        found.append(Unread("DATASETS.UNLABELED_OVERLAP", True, "DATASETS.UNLABELED is ()"))
    return found


def _is_on(switch: Any) -> bool:
    """A range from 0 to 0 is off as 0 is."""
    return any(switch) if isinstance(switch, tuple | list) else bool(switch)


def _is_read(key: str, method: type[MeanTeacher]) -> bool:
    if any(key in _keys(other).values() for _, other in METHODS):
        return key in _keys(method).values()
    name = key.removeprefix("SSOD.")
    group = name.partition(".")[0]
    if group.endswith("_VIEW"):
        return group in method.view_keys or name in method.view_keys
    return method.uses_unlabeled or key not in OF_UNLABELED


def _keys(method: type[MeanTeacher]) -> dict[str, str]:
    """The settings that a method has a use for, by the name of the field."""
    names = (field.name for field in fields(method.Settings))
    return {name: key_of(method.Settings, name) for name in names if name not in method.unread}
