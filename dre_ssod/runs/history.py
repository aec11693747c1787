"""What ``metrics.json`` of a run folder tells: series of figures over the iterations."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dre_ssod.errors import UserError

METRICS = "metrics.json"
_ABOUT_PSEUDO_LABELS = re.compile(r"ssod/pseudo_\w+|pseudo_labels/[a-z_]+")
_AP = re.compile(r"(teacher|student)/(?:(.+)/)?bbox/AP")


class RunError(UserError):
    """A folder that cannot be read as a run."""


@dataclass(frozen=True)
class Series:
    """One figure of a run, at rising iterations."""

    iterations: list[int]
    values: list[float]

    @property
    def last(self) -> float:
        """The value at the last iteration."""
        return self.values[-1]

    def best(self) -> tuple[float, int]:
        """The highest value and where it was first reached."""
        value = max(self.values)
        return value, self.iterations[self.values.index(value)]


@dataclass(frozen=True)
class RunHistory:
    """The figures of one run.

    Attributes:
        name: as shown.
        series: by the name in the file; values that are not finite are left out.
    """

    name: str
    series: dict[str, Series]

    @property
    def iterations(self) -> int:
        """How many are done at the last figure; they are numbered from 0."""
        return max((s.iterations[-1] + 1 for s in self.series.values()), default=0)

    def find(self, name: str) -> Series | None:
        """A series by its name; None if the run has none."""
        return self.series.get(name)

    def evaluated(self) -> list[tuple[str, str]]:
        """(model, dataset) of each AP, the teacher first; the dataset is "" if there is one."""
        found = [match.groups() for match in map(_AP.fullmatch, self.series) if match]
        pairs = [(str(model), str(dataset or "")) for model, dataset in found]
        return sorted(pairs, key=lambda pair: (pair[1], pair[0] != "teacher"))


def metric_name(model: str, dataset: str, metric: str) -> str:
    """The name of an evaluation figure, such as ``teacher/bbox/AP``."""
    return "/".join(part for part in (model, dataset, "bbox", metric) if part)


def read_runs(folders: Sequence[Path]) -> list[RunHistory]:
    """The histories of run folders, under the shortest names that tell them apart.

    Raises:
        RunError: if a folder holds no ``metrics.json`` that can be read, or is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise RunError("a run folder is named twice; name each once")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    names = ["/".join(path.parts[-depth:]) for path in resolved]
    return [
        RunHistory(name, read_series(folder / METRICS))
        for name, folder in zip(names, folders, strict=True)
    ]


def read_series(path: Path) -> dict[str, Series]:
    """The series of a ``metrics.json``; where a resumed run repeats an iteration, the later wins.

    Raises:
        RunError: if there is no such file, or no figures in it. A last line that a killed run left
            unfinished is passed over.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no such file; name the OUTPUT_DIR of a run")
    points: dict[str, dict[int, float]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            iteration = int(line["iteration"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines):
                continue
            raise RunError(f"{path}: line {number} is no line of metrics: {text:.80}") from error
        for name, value in line.items():
            if name != "iteration" and _is_figure(value):
                points.setdefault(name, {})[iteration] = float(value)
    if not points:
        raise RunError(f"{path}: there are no figures in it yet")
    return {
        name: Series(sorted(values), [values[i] for i in sorted(values)])
        for name, values in points.items()
    }


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def comparison(runs: Sequence[RunHistory]) -> tuple[list[str], list[list[object]]]:
    """A table of runs: header and rows, one row for each evaluated model; None where unknown.

    Further columns hold all figures about pseudo-labels that any run has, by :func:`_newest`.
    """
    header: list[str] = ["run", "model", "iterations", "AP", "AP50", "AP75", "best AP", "at"]
    names = sorted({name for run in runs for name in run.series})
    extra = [name for name in names if _ABOUT_PSEUDO_LABELS.fullmatch(name)]
    rows: list[list[object]] = []
    for run in runs:
        figures = [_newest(run, key) for key in extra]
        for model, dataset in run.evaluated() or [("not evaluated", "")]:
            shown = f"{model}, {dataset}" if dataset else model
            last = [run.find(metric_name(model, dataset, m)) for m in ("AP", "AP50", "AP75")]
            best = last[0].best() if last[0] else (None, None)
            values = [s.last if s else None for s in last]
            rows.append([run.name, shown, run.iterations, *values, *best, *figures])
    titles = [name.partition("/")[2].replace("_", " ") for name in extra]
    return [*header, *titles], rows


def _newest(run: RunHistory, name: str) -> float | None:
    """A figure about pseudo-labels that is as new as the newest one of its kind.

    Without pseudo-labels most are undefined, and a former value would hide that. Of the steps that
    a line of ``metrics.json`` sums up, it is enough that one had some.
    """
    if (series := run.find(name)) is None:
        return None
    kind = name.partition("/")[0] + "/"
    alike = [key for key in run.series if _ABOUT_PSEUDO_LABELS.fullmatch(key)]
    newest = max((run.series[key].iterations for key in alike if key.startswith(kind)), key=max)
    return series.last if series.iterations[-1] > max(newest[:-1], default=-1) else None
