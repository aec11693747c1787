"""What a resumed run takes up of its config, what it keeps, and what contradicts its model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, method_class
from dre_ssod.settings import refuse

KEPT = ("SEED", "MODEL.WEIGHTS", "MODEL.TIMM.WEIGHTS")
"""What only the start of a run uses: a resumed run has its own."""
_OF_THE_MODEL = (
    *("INPUT.FORMAT", "MODEL.META_ARCHITECTURE", "MODEL.PIXEL_", "MODEL.BACKBONE.", "MODEL.FPN."),
    *("MODEL.RESNETS.", "MODEL.TIMM.", "MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.ANCHOR_GENERATOR."),
    *("MODEL.RPN.HEAD_NAME", "MODEL.RPN.IN_FEATURES", "MODEL.RPN.BBOX_REG_WEIGHTS"),
    *("MODEL.RPN.CONV_DIMS", "MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES"),
    *("MODEL.ROI_HEADS.IN_FEATURES", "MODEL.ROI_BOX_HEAD.NAME", "MODEL.ROI_BOX_HEAD.NUM_"),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", "MODEL.ROI_BOX_HEAD.FC_DIM", "MODEL.ROI_BOX_HEAD.NORM"),
    *("MODEL.ROI_BOX_HEAD.POOLER_", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"),
    *("MODEL.ROI_BOX_HEAD.BOX_TRANSFORM", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA"),
)
"""First parts of the keys that say what the weights of a model mean."""
_OF_LEARNING = (
    *("MODEL.BACKBONE.FREEZE_AT", "MODEL.TIMM.FREEZE_AT"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
)
"""Those among them that change no box of a model that is used: without its variance branch it has
the same."""
_NOT_OF_THE_RUN = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "DATASETS.")
"""First parts of the keys that may differ from life to life; sets are compared by their content."""

logger = logging.getLogger(__name__)


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """The keys of a config that belong to a run, for its checkpoints."""
    found = {key: value for key, value in leaves(cfg) if not key.startswith(_NOT_OF_THE_RUN)}
    as_read: dict[str, Any] = json.loads(json.dumps(found))
    return as_read


def check_fits(saved: Mapping[str, Any], cfg: CfgNode) -> None:
    """Refuse a config by which a trained model's weights would mean something else.

    Weights load by their shapes alone: with other anchors or pixels in another order they would
    give other boxes.

    Args:
        saved: :func:`settings_of` the training.

    Raises:
        ConfigError: naming what differs.
    """
    given, before = settings_of(cfg), _with_defaults(saved)
    wrong = [key for key in _contradictions(given, before) if key not in _OF_LEARNING]
    if wrong:
        key = wrong[0]
        raise ConfigError(
            f"{key} is {given[key]!r}, which does not fit MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r}: it "
            f"was trained with {before[key]!r} ({', '.join(wrong)} differ). Use the config.yaml of "
            "the run that wrote it."
        )


def _contradictions(given: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Keys of what weights mean that differ."""
    return [
        key
        for key, value in given.items()
        if value != before.get(key) and key.startswith(_OF_THE_MODEL) and key not in KEPT
    ]


@cache
def default_settings() -> Mapping[str, Any]:
    """:func:`settings_of` a run that changes nothing."""
    return settings_of(get_cfg())


def _with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint does not know keys that a later version has added."""
    return {**default_settings(), **saved}


def check_length(cfg: CfgNode, done: int, path: str) -> None:
    """Refuse to resume for fewer iterations than there are.

    Args:
        done: iterations that the checkpoint has.

    Raises:
        ConfigError: naming both.
    """
    if done > cfg.SOLVER.MAX_ITER:
        refuse(
            cfg,
            "SOLVER.MAX_ITER",
            f"at least the {done} iterations that {path} has: a run does not go back by it. "
            "docs/checkpoints.md says how to take an earlier checkpoint",
        )


def check_burn_in(saved: Mapping[str, Any], cfg: CfgNode, done: int, path: str) -> None:
    """Refuse to end a burn-in in retrospect: the copy of the student at its end would be missed.

    Args:
        saved: :func:`settings_of` the run so far.
        done: iterations that the checkpoint has.

    Raises:
        ConfigError: naming the key, and what it may be.
    """
    before, method = _with_defaults(saved), method_class(cfg)
    burn_in, ssod = before["SSOD.BURN_IN_ITERS"], cfg.SSOD
    if done > burn_in or not method.uses_unlabeled:
        return
    name = before["SSOD.METHOD"] if before["SSOD.ENABLED"] else "Supervised"
    waits = name in METHODS and METHODS.get(name).copies_early and before["SSOD.BURN_IN_COPY"]
    if waits and done < burn_in and not ssod.BURN_IN_COPY:
        refuse(
            cfg,
            "SSOD.BURN_IN_COPY",
            f"True: in the burn-in of this run, from which {path} is, the teacher was left as it "
            "was at the start, and only that copy gives it what the student has learned",
        )
    is_copied = waits and done == burn_in
    least = done + method.copies_early
    if ssod.BURN_IN_COPY and not is_copied and ssod.BURN_IN_ITERS < least:
        refuse(
            cfg,
            "SSOD.BURN_IN_ITERS",
            f"at least {least}: {path} is of a burn-in and has {done} iterations; ended any "
            "earlier, the teacher would not get the copy of the student that ends it",
        )


def settle(saved: Mapping[str, Any], cfg: CfgNode) -> CfgNode:
    """The config with which a run continues: the one given, but for what the run keeps, with a
    warning.

    Args:
        saved: :func:`settings_of` the run so far.
        cfg: given now.

    Raises:
        ConfigError: if a key contradicts the model in the checkpoint.
    """
    given, before = settings_of(cfg), _with_defaults(saved)
    refused = _contradictions(given, before)
    if refused:
        key = refused[0]
        raise ConfigError(
            f"{key} is {given[key]!r}, which does not fit the model of this run: it was "
            f"{before[key]!r} ({', '.join(refused)} differ). Resume it with its config.yaml, or "
            "start another run from its weights with MODEL.WEIGHTS in another OUTPUT_DIR."
        )
    settled = cfg.clone()
    settled.defrost()
    for key in KEPT:
        if given[key] != before[key]:
            settled.merge_from_list([key, before[key]])
            logger.warning(
                "%s is %r, but a resumed run does not use it: it keeps %r.",
                key,
                given[key],
                before[key],
            )
    settled.freeze()
    return settled


def changed_keys(saved: Mapping[str, Any], cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Keys of a run whose values are no longer those of its checkpoint: before and now.

    Args:
        saved: :func:`settings_of` the run so far.
    """
    before, given = _with_defaults(saved), settings_of(cfg)
    return {key: (before[key], now) for key, now in given.items() if now != before[key]}


def say_changes(saved: Mapping[str, Any], cfg: CfgNode, path: str, has_ended: bool) -> None:
    """Log what a resumed run takes up, or warn that nothing does, where it has ended.

    Args:
        saved: :func:`settings_of` the run so far.
        cfg: of now, :func:`settle` d.
        path: of the checkpoint.
    """
    changed = changed_keys(saved, cfg).items()
    changes = [f"{key} {now!r}; it was {before!r}" for key, (before, now) in changed]
    if not has_ended:
        for change in changes:
            logger.info("In use from here on: %s", change)
    elif changes:
        logger.warning(
            "The run has ended, with the %d iterations of SOLVER.MAX_ITER. Without effect: %s. A "
            "larger SOLVER.MAX_ITER trains on; --eval-only MODEL.WEIGHTS %s tests with other keys.",
            *(cfg.SOLVER.MAX_ITER, ", ".join(changes), path),
        )
