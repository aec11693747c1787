"""What a benchmark says: rows of figures, the limits that it checks, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dre_ssod.benchmark.timing import Timing
from dre_ssod.files import write_text


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        value: in ``unit``; a median where ``quartiles`` are given.
    """

    name: str
    value: float
    unit: str
    quartiles: tuple[float, float] | None = None

    @classmethod
    def milliseconds(cls, name: str, timing: Timing, per: int = 1) -> Row:
        """A timing in milliseconds, divided by the ``per`` items that it covers."""
        scale = 1000.0 / per
        low, high = timing.quartiles
        return cls(name, timing.median * scale, "ms", (low * scale, high * scale))

    @classmethod
    def seconds(cls, name: str, timing: Timing) -> Row:
        """A timing in seconds."""
        return cls(name, timing.median, "s", timing.quartiles)


@dataclass(frozen=True)
class Goal:
    """A figure that must not exceed a bound."""

    name: str
    value: float
    bound: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self.value <= self.bound


@dataclass
class Report:
    """The result of one benchmark.

    Attributes:
        settings: what was measured: images, sizes, rounds, config.
        machine: see ``timing.machine``.
    """

    name: str
    settings: dict[str, Any]
    machine: dict[str, str | int]
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def text(self) -> str:
        """Machine and settings, the rows, and whether each goal is met, as tables."""
        lines = [f"benchmark {self.name}"]
        lines += [f"  {key}: {value}" for key, value in (self.machine | self.settings).items()]
        rows = [
            (
                row.name,
                f"{row.value:.4g}",
                row.unit,
                "{:.4g} to {:.4g}".format(*row.quartiles) if row.quartiles else "",
            )
            for row in self.rows
        ]
        lines += ["", tabulate(rows, headers=["figure", "median", "unit", "middle half"])]
        if self.goals:
            goals = [
                (goal.name, f"{goal.value:.3f}", f"{goal.bound:g}", goal.unit, _verdict(goal))
                for goal in self.goals
            ]
            lines += ["", tabulate(goals, headers=["goal", "measured", "at most", "unit", ""])]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write everything as JSON; see :func:`dre_ssod.files.write_text`."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")


def _verdict(goal: Goal) -> str:
    return "met" if goal.met else "missed"
