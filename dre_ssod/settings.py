"""Config keys: each with its default, symbol, meaning and bounds, written once.

A method states its settings as the fields of a frozen dataclass::

    @dataclass(frozen=True)
    class Settings(MeanTeacher.Settings):
        ler: bool = setting("SSOD.LER.ENABLED", True, "eq. 11 is weighed by s_loc")

From them come the keys of the config, their checks, and the object that the method reads. The kinds
of bounds are those of all keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from dre_ssod.errors import ConfigError

S = TypeVar("S")

EXAMPLES = {
    bool: "True or False",
    int: "a whole number, such as 100",
    float: "a number, such as 0.5",
    str: "a text; one that looks like a number goes in quotes of its own, \"'12'\"",
    tuple: "a tuple, such as (1, 2); of texts: \"('folder://DIR',)\", with the comma",
    list: "a list, such as [1, 2]",
}
"""What a key holds, by the type of its default."""


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def refuse(cfg: CfgNode, key: str, valid: str) -> NoReturn:
    """Raise a ConfigError with the key, its value and what is valid."""
    raise ConfigError(f"{key} is {get_key(cfg, key)!r:.200}; it must be {valid}.")


class Check(Protocol):
    """Bounds of a key, for values of the right type."""

    def refusal(self, value: Any) -> str | None:
        """What a valid value would be; None if this one is."""


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    def refusal(self, value: Any) -> str | None:
        return None if value in self.values else f"one of {', '.join(map(repr, self.values))}"


@dataclass(frozen=True)
class Registered:
    """The name of a part that is registered by the time of the check, with ``method`` if not ""."""

    registry: Registry
    hint: str = ""
    method: str = ""

    def refusal(self, value: Any) -> str | None:
        names = [n for n, part in self.registry if not self.method or hasattr(part, self.method)]
        return None if value in names else f"one of {', '.join(map(repr, names))}{self.hint}"


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``, both included; ``positive``: but not 0."""

    low: float
    high: float
    positive: bool = False

    def refusal(self, value: Any) -> str | None:
        if self.low <= value <= self.high and not (self.positive and value == 0):
            return None
        return f"a number in {'(' if self.positive else '['}{self.low}, {self.high}]"


@dataclass(frozen=True)
class Numbers:
    """Several numbers from ``low`` to ``high``.

    Attributes:
        fewest, most: how many; ``most`` None for any number.
        whole: whether decimal numbers are refused.
        rising: "" for any order; "weakly" if equal neighbors may follow each other, or "strictly".
    """

    low: float
    high: float
    fewest: int = 0
    most: int | None = None
    whole: bool = False
    rising: str = ""

    def refusal(self, values: Any) -> str | None:
        kinds = (int,) if self.whole else (int, float)
        fits = len(values) >= self.fewest and (self.most is None or len(values) <= self.most)
        fits = fits and all(type(n) in kinds and self.low <= n <= self.high for n in values)
        if fits and self.rising:
            once = sorted(set(values)) if self.rising == "strictly" else sorted(values)
            fits = list(values) == once
        if fits:
            return None
        count = f"{self.fewest} or more" if self.most != self.fewest else str(self.fewest)
        order = {"": "", "weakly": ", smallest first", "strictly": ", in rising order, each once"}
        noun = "whole numbers" if self.whole else "numbers"
        return f"{count} {noun} in [{self.low}, {self.high}]{order[self.rising]}"


@dataclass(frozen=True)
class Names:
    """Names or URIs of data sets."""

    def refusal(self, values: Any) -> str | None:
        if all(isinstance(name, str) and name for name in values):
            return None
        return "names or URIs in quotes, such as \"('folder://DIR',)\""


@dataclass(frozen=True)
class ExistingFile:
    """The name of a file, or ""."""

    def refusal(self, value: Any) -> str | None:
        return None if not value or Path(value).is_file() else "a file that exists, or ''"


@dataclass(frozen=True)
class LocalFolder:
    """The name of a folder to write to; ``Path`` would make a folder ``s3:`` of an address."""

    def refusal(self, value: Any) -> str | None:
        return "a folder of this machine; copy it to a store afterwards" if "://" in value else None


@dataclass(frozen=True)
class Some:
    """Any of a few values, each at most once."""

    values: tuple[str, ...]

    def refusal(self, values: Iterable[Any]) -> str | None:
        chosen = list(values)
        if all(name in self.values for name in chosen) and len(set(chosen)) == len(chosen):
            return None
        return f"different names out of {', '.join(self.values)}"


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


def keys_of(settings: type) -> Iterator[Key]:
    """The config keys of a settings class, in the order of its fields."""
    for found in fields(settings):
        yield _key(found)


def key_of(settings: type, name: str) -> str:
    """The config key of a field, by the field's name: methods may give one quantity other keys."""
    return next(_key(found).name for found in fields(settings) if found.name == name)


def add_keys(cfg: CfgNode, settings: type) -> None:
    """Add the keys of a settings class, with their defaults, to a config."""
    for key in keys_of(settings):
        *groups, name = key.name.split(".")
        node = cfg
        for group in groups:
            node = node.setdefault(group, CfgNode())
        if name in node and node[name] != key.default:
            raise ValueError(f"{key.name} has the default {node[name]!r} and {key.default!r}")
        node[name] = key.default


def read_settings(cfg: CfgNode, settings: type[S]) -> S:
    """The settings that a checked config states."""
    found = fields(settings)  # type: ignore[arg-type]
    return settings(**{field.name: get_key(cfg, _key(field).name) for field in found})


def _key(found: Field[Any]) -> Key:
    key: Key = found.metadata["key"]
    return key
