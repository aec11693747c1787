"""What the steps of the check find, and the report that grows with every finding."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dre_ssod.benchmark.report import Goal, Row
from dre_ssod.files import write_text


@dataclass(frozen=True)
class Fact:
    """Something that is no number to be compared: a version, a name, a table."""

    name: str
    value: Any


Finding = Fact | Row | Goal


@dataclass(frozen=True)
class Setting:
    """Where the check runs.

    Attributes:
        device: "cuda", or "cpu" for a dry run.
        small: tiny models and images, a round or two: shows that the check works, measures nothing.
        root: the checkout, with ``configs``, ``tests`` and ``tools``.
        folder: for whatever the steps write.
        kept: a folder for tables and traces that are worth keeping; None keeps none.
    """

    device: str
    small: bool
    root: Path
    folder: Path
    kept: Path | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


StepFunction = Callable[[Setting], Iterator[Finding]]


@dataclass(frozen=True)
class Step:
    """One step of the check.

    Attributes:
        limit: seconds after which it is ended on a GPU.
        needs_gpu: whether there is nothing to do on a CPU.
        after: a step that must have run before, "" for none.
    """

    name: str
    run: StepFunction
    limit: float
    needs_gpu: bool = False
    after: str = ""


@dataclass
class Outcome:
    """What came of a step.

    Attributes:
        state: "running", "passed", "missed" (a goal), "failed" (an error), "timed out", "ended"
            (without a word, as by a signal) or "left out".
        error: the traceback, or how the step ended.
    """

    name: str
    state: str = "running"
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    error: str = ""

    def add(self, finding: Finding) -> None:
        """Take up one finding."""
        if isinstance(finding, Fact):
            self.facts[finding.name] = finding.value
        elif isinstance(finding, Row):
            self.rows.append(finding)
        else:
            self.goals.append(finding)


class CheckReport:
    """All outcomes; printed as they come, and saved after every finding."""

    def __init__(self, path: Path | None) -> None:
        """
        Args:
            path: of the JSON file; None writes none.
        """
        self._path = path
        self._started = time.monotonic()
        self.outcomes: list[Outcome] = []

    def begin(self, name: str) -> Outcome:
        """Start a step."""
        print(f"== {name}", flush=True)
        outcome = Outcome(name)
        self.outcomes.append(outcome)
        return outcome

    def note(self, outcome: Outcome, finding: Finding) -> None:
        """Take up, print and save one finding of a step."""
        outcome.add(finding)
        print(f"{time.monotonic() - self._started:7.1f} s  {line(finding)}", flush=True)
        self.save()

    def end(self, outcome: Outcome) -> None:
        """Close a step."""
        if outcome.error:
            print("  " + outcome.error.rstrip().replace("\n", "\n  "), flush=True)
        print(f"-- {outcome.name}: {outcome.state}, {outcome.seconds:.1f} s", flush=True)
        self.save()

    def save(self) -> None:
        """Write everything as JSON."""
        if self._path is not None:
            content = {"steps": [asdict(outcome) for outcome in self.outcomes]}
            write_text(self._path, json.dumps(content, indent=1, default=str) + "\n")

    def summary(self) -> str:
        """A line for each step."""
        rows = [(o.name, o.state, f"{o.seconds:.1f}", _missed(o)) for o in self.outcomes]
        return str(tabulate(rows, headers=["step", "", "seconds", "goals missed"]))

    @property
    def passed(self) -> bool:
        return all(outcome.state in ("passed", "left out") for outcome in self.outcomes)


def line(finding: Finding) -> str:
    """A finding in one line, or as many as its text has."""
    if isinstance(finding, Fact):
        return f"{finding.name}: {finding.value}"
    if isinstance(finding, Goal):
        verdict = "met" if finding.met else "MISSED"
        bound = f"(at most {finding.bound:g} {finding.unit}".rstrip() + ")"
        return f"{finding.name}: {finding.value:.4g} {bound} {verdict}"
    spread = "" if finding.quartiles is None else " ({:.4g} to {:.4g})".format(*finding.quartiles)
    return f"{finding.name}: {finding.value:.5g} {finding.unit}{spread}"


def _missed(outcome: Outcome) -> str:
    return ", ".join(goal.name for goal in outcome.goals if not goal.met)
