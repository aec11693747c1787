"""Names of classes as others wrote them: what is no name, and what looks like another name."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from dre_ssod.errors import SourceError

# Control characters, halves of characters, and those that end a line or turn the direction of text.
_NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def check_class_name(name: Any, where: str) -> str:
    """A class name from a file.

    Args:
        where: the file and the entry, for the message.

    Raises:
        SourceError: if it is no text, is blank, or holds characters that steer a terminal.
    """
    if not isinstance(name, str) or not name.strip():
        # YAML makes numbers and truth values of names like 1.0 and no.
        hint = "; write it in quotes" if isinstance(name, bool | int | float) else ""
        raise SourceError(f"{where} needs a name, has {reprlib.repr(name)}{hint}")
    for character in name:
        if unicodedata.category(character) in _NOT_IN_NAMES or character in _TURNING:
            raise SourceError(
                f"{where} has the name {reprlib.repr(name)}, with the control character "
                f"{character!r}; rename it"
            )
    return name


def looks_like_another(name: str) -> bool:
    """Whether a name can be taken for another one: spaces around it, or what does not show."""
    return name != name.strip() or not name.isprintable()


def class_index(name: str, indices: Mapping[str, int], where: str) -> int:
    """The index of a class that a file names.

    Raises:
        SourceError: if it is not among those of the set.
    """
    if name not in indices:
        raise SourceError(
            f"{where}: unknown class {name!r}; valid: {show_names([*indices])}. Name every class "
            "of the set in classes=, or leave classes= out"
        )
    return indices[name]


def show_names(names: Sequence[str]) -> str:
    """Names in quotes, for messages."""
    return ", ".join(map(repr, names)) or "none"
