"""Keys that the chosen method does not read: what is set without effect is said, never passed over.

A config file may hold such keys, as those of data hold some for whatever method they are combined
with: they are named in one warning. On the command line they are refused, since they were given for
this very run; but for the baseline, which one more word there makes of a command.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves
from dre_ssod.errors import ConfigError
from dre_ssod.methods import METHODS, MeanTeacher, method_class
from dre_ssod.settings import key_of

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


@dataclass(frozen=True)
class Unread:
    """A key that differs from its default and has no effect.

    Attributes:
        key: dotted.
        value: of the config.
        instead: the key that the method has in its place; "" where it has none.
    """

    key: str
    value: Any
    instead: str

    def __str__(self) -> str:
        instead = f" ({self.instead} is read in its place)" if self.instead else ""
        return f"{self.key} {self.value!r:.80}{instead}"


def unread_keys(cfg: CfgNode) -> list[Unread]:
    """Keys of SSOD that differ from their defaults, but that the config's method does not read."""
    method = method_class(cfg)
    defaults = dict(leaves(get_cfg().SSOD, "SSOD."))
    base, own = _keys(MeanTeacher), _keys(method)
    in_place = {base[name]: own[name] for name in base.keys() & own.keys()}
    return [
        Unread(key, value, in_place.get(key, ""))
        for key, value in leaves(cfg.SSOD, "SSOD.")
        if value != defaults[key] and not _is_read(key, method)
    ]


def check_effects(cfg: CfgNode, given: Collection[str]) -> None:
    """Refuse keys of the command line that the method does not read.

    Args:
        given: the keys there.

    Raises:
        ConfigError: naming them, their values, and the keys that are read in their place.
    """
    if not method_class(cfg).uses_unlabeled:
        return
    unread = [str(found) for found in unread_keys(cfg) if found.key in given]
    if unread:
        raise ConfigError(
            f"the method {method_class(cfg).__name__} does not read {', '.join(unread)}: take it "
            "off the command line, or choose another SSOD.METHOD. docs/methods.md says what each "
            "has of its own."
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


def _is_read(key: str, method: type[MeanTeacher]) -> bool:
    _, group, *names = key.split(".")
    if any(key in _keys(other).values() for _, other in METHODS):
        return key in _keys(method).values()
    if group.endswith("_VIEW"):
        return bool({group, ".".join([group, *names])} & {*method.view_keys})
    return method.uses_unlabeled or key not in OF_UNLABELED


def _keys(method: type[MeanTeacher]) -> dict[str, str]:
    """The settings that a method has a use for, by the name of the field."""
    names = (field.name for field in fields(method.Settings))
    return {name: key_of(method.Settings, name) for name in names if name not in method.unread}
