"""What a config key may hold: its type, and the kinds of bounds that a table of keys is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from dre_ssod.errors import ConfigError

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
    """The name of a part that is registered by the time of the check."""

    registry: Registry
    hint: str = ""

    def refusal(self, value: Any) -> str | None:
        names = ", ".join(repr(name) for name, _ in self.registry)
        return None if value in self.registry else f"one of {names}{self.hint}"


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
class Some:
    """Any of a few values, each at most once."""

    values: tuple[str, ...]

    def refusal(self, values: Iterable[Any]) -> str | None:
        chosen = list(values)
        if all(name in self.values for name in chosen) and len(set(chosen)) == len(chosen):
            return None
        return f"different names out of {', '.join(self.values)}"
