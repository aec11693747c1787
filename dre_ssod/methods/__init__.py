"""Semi-supervised methods: one file each, which reads as its paper does.

A method decides what happens at five moments of a step (``mean_teacher.py``). Every file here is
imported, so a method need only be written. ``parts`` is what several papers share; methods that
build upon another one live in a room with it.

The data, the detector and the teacher stand below and know no method; the step stands above and
asks the one that the config names. A method must not know the engine, and no ``if method ==``
stands anywhere.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

from detectron2.config import CfgNode

from dre_ssod.methods.mean_teacher import METHODS, MeanTeacher
from dre_ssod.methods.parts.schedules import Clock
from dre_ssod.methods.parts.stored_labels import StoredLabels

__all__ = [
    "METHODS",
    "Clock",
    "MeanTeacher",
    "StoredLabels",
    "build_method",
    "method_class",
]

for _found in walk_packages(__path__, f"{__name__}."):
    import_module(_found.name)


def method_class(cfg: CfgNode) -> type[MeanTeacher]:
    """The class that SSOD.METHOD names; ``Supervised`` where SSOD.ENABLED is False."""
    found: type[MeanTeacher] = METHODS.get(cfg.SSOD.METHOD if cfg.SSOD.ENABLED else "Supervised")
    return found


def build_method(cfg: CfgNode) -> MeanTeacher:
    """The method of a config.

    Raises:
        ConfigError: if it cannot learn by that config.
    """
    method = method_class(cfg)
    method.check(cfg)
    return method.from_config(cfg)
