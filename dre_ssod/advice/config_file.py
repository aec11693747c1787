"""A plan as a commented YAML file."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any

from dre_ssod.advice.choices import RECIPE, Choice, Plan
from dre_ssod.errors import printable

WIDTH = 100
UNKNOWN = (
    "whether all objects of the labeled images have boxes, and the unlabeled ones show the like",
    "the best SSOD.SCORE_THRESHOLD: a high one loses rare classes, a low one lets wrong labels in; "
    "watch pseudo-boxes against labeled boxes in the log",
    "when it has learned enough: while AP still rises at the end, raise MAX_ITER with STEPS",
    "how much one run differs from the next: repeat with another SEED before you compare",
)
"""What no look at the data can tell."""


def as_yaml(plan: Plan, configs: str, command: str) -> str:
    """The text of the file.

    Args:
        configs: path of the folder ``configs`` from that of the file.
        command: that wrote it.
    """
    lines = [
        *_comment(f"Written by: {command}"),
        *_comment("A first config: each comment says what the value below it was made from."),
        *_comment("It cannot know:"),
        *(line for text in UNKNOWN for line in _comment(f"- {text}")),
        "",
        *_comment(plan.base_why),
        *_comment(f"And {RECIPE}: the best that was measured for few labels, on small data alone."),
        f"_BASE_: {json.dumps([f'{configs}/{base}' for base in (plan.base, RECIPE)])}",
        *_groups(plan.choices, ""),
    ]
    return "\n".join(lines) + "\n"


def _groups(choices: Iterable[Choice], prefix: str) -> list[str]:
    """The keys below a prefix, groups in the order of their first key."""
    indent = "  " * prefix.count(".")
    groups: dict[str, list[Choice]] = {}
    for choice in choices:
        groups.setdefault(choice.key.removeprefix(prefix).partition(".")[0], []).append(choice)
    lines = []
    for name, members in groups.items():
        if members[0].key == prefix + name:
            lines += _comment(members[0].why, indent)
            lines.append(f"{indent}{name}: {_value(members[0].value)}")
        else:
            lines.append(f"{indent}{name}:")
            lines += _groups(members, f"{prefix}{name}.")
    return lines


def _value(value: Any) -> str:
    """YAML of a value; tuples as Detectron2 reads them, out of a text in parentheses."""
    if isinstance(value, tuple):
        inner = ", ".join(repr(item) for item in value)
        return json.dumps(f"({inner}{',' * (len(value) == 1)})", ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str, indent: str = "") -> list[str]:
    """Names out of files may hold line breaks, which would end the comment."""
    lines = textwrap.wrap(printable(text), WIDTH - len(indent) - 2, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]
