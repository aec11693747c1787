"""Settings of a method: each config key with its default, symbol, meaning and bounds, written once.

A method states its settings as the fields of a frozen dataclass::

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        ler: bool = setting("SSOD.LER.ENABLED", True, "eq. 11 is weighed by s_loc")

From them come the keys of the config, their checks, and the object that the method reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from detectron2.config import CfgNode

from dre_ssod.config.values import Check, get_key

S = TypeVar("S")


@dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
        name: dotted.
        default: its type is the key's.
        meaning: one sentence or two, with the symbol of the paper where it has one, and the unit.
        check: of the value; None where any of the type is valid.
    """

    name: str
    default: Any
    meaning: str
    check: Check | None = None


def setting(name: str, default: Any, meaning: str, check: Check | None = None) -> Any:
    """A dataclass field that is a config key; see :class:`Key`."""
    return field(default=default, metadata={"key": Key(name, default, meaning, check)})


def keys(settings: type) -> Iterator[Key]:
    """The config keys of a settings class, in the order of its fields."""
    for found in fields(settings):
        yield _key(found)


def key_of(settings: type, name: str) -> str:
    """The config key of a field, by the field's name: methods may give one quantity other keys."""
    return next(_key(found).name for found in fields(settings) if found.name == name)


def add_keys(cfg: CfgNode, settings: type) -> None:
    """Add the keys of a settings class, with their defaults, to a config."""
    for key in keys(settings):
        *groups, name = key.name.split(".")
        node = cfg
        for group in groups:
            node = node.setdefault(group, CfgNode())
        if name in node and node[name] != key.default:
            raise ValueError(f"{key.name} has the default {node[name]!r} and {key.default!r}")
        node[name] = key.default


def read(cfg: CfgNode, settings: type[S]) -> S:
    """The settings that a checked config states."""
    found = fields(settings)  # type: ignore[arg-type]
    return settings(**{field.name: get_key(cfg, _key(field).name) for field in found})


def _key(found: Field[Any]) -> Key:
    key: Key = found.metadata["key"]
    return key
