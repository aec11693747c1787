"""What a table says: figures by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dre_ssod.errors import printable
from dre_ssod.tables.definition import Cell, Row, Table
from dre_ssod.tables.filed import Result, find_results
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.statistics import Summary, paired_difference, summarize

MODELS = ("teacher", "student")
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Figure:
    """One metric of one model in one row.

    Attributes:
        runs: percent, by name of the run.
        summary: over the runs; None without a run.
        difference: to the reference row, over the runs that both have and have measured on the same
            images; None for the reference itself, or without such runs.
    """

    runs: dict[str, float]
    summary: Summary | None
    difference: Summary | None


@dataclass(frozen=True)
class RowReport:
    """What there is to say about a row.

    Attributes:
        name: of the row.
        curve: that it is a point of; "" for none.
        x: where it stands there.
        figures: by model and metric.
        per_class: mean AP by model and class.
        costs: means over the runs that trained a model, by device and name (see
            :class:`dre_ssod.tables.filed.Result`).
        commits: of the program in those runs; "changed" behind one whose files were not its own.
        missing: runs without a result.
        runs: of this row, with those that are missing.
        unpaired: runs that are not compared with the reference's, which are measured on other
            images.
        apart: runs that another machine has trained than the reference's, or in another number
            format.
        machines: its runs by what has trained them, such as "CPU, PyTorch 2.14, float32".
        off_curve: runs of a point of a curve that are measured on other test images than a point of
            the first curve.
        first_sets: test sets that the figures are of, where runs have been measured on several.
    """

    name: str
    curve: str
    x: float
    figures: dict[str, dict[str, Figure]]
    per_class: dict[str, dict[str, float]]
    costs: dict[str, dict[str, float]]
    commits: list[str]
    missing: list[str]
    runs: int
    unpaired: list[str]
    apart: list[str]
    machines: dict[str, list[str]]
    off_curve: list[str]
    first_sets: list[str]


def report_rows(
    table: Table, kept: Sequence[Result], looked: Mapping[str, Identity] | None = None
) -> list[RowReport]:
    """The rows of a table.

    Args:
        kept: results of any tables; runs of this one that are not among them are missing.
        looked: identities with data, by name of the cell; their results are found by that.
    """
    cells = table.cells()
    return compare_rows(table, cells, find_results(kept, cells, looked or {}))


def compare_rows(
    table: Table, cells: Sequence[Cell], found: Mapping[str, Result]
) -> list[RowReport]:
    """The rows of a table, of which its reference is one.

    Args:
        cells: of the table.
        found: results by name of the cell.
    """
    results: dict[str, dict[str, Result]] = {name: {} for name in table.rows}
    missing: dict[str, list[str]] = {name: [] for name in table.rows}
    for cell in cells:
        result = found.get(cell.name)
        if result is None:
            missing[cell.row].append(cell.repeat.name)
        else:
            results[cell.row][cell.repeat.name] = result
    base = results.get(table.reference, {})
    first = first_curve(table.rows.values())
    points = [
        result
        for name, own in results.items()
        if table.rows[name].curve == first
        for result in own.values()
    ]
    return [
        _compare_row(
            row,
            results[name],
            missing[name],
            base={} if name == table.reference else base,
            points=points if row.curve else (),
        )
        for name, row in table.rows.items()
    ]


def _compare_row(
    row: Row,
    own: Mapping[str, Result],
    missing: list[str],
    base: Mapping[str, Result],
    points: Sequence[Result],
) -> RowReport:
    """
    Args:
        own: its results, by run.
        missing: its other runs.
        base: results that differences are to, by run.
        points: results whose test images those of the row must be.
    """
    both = {run: base[run] for run in own if run in base}
    partners = {
        run: result
        for run, result in both.items()
        if own[run].identity.has_test_images_of(result.identity)
    }
    machines: dict[str, list[str]] = {}
    for run, result in own.items():
        machines.setdefault("{}, PyTorch {}, {}".format(*result.machine), []).append(run)
    return RowReport(
        *(row.name, row.curve, row.x),
        figures={
            model: {metric: _figure(own, partners, model, metric) for metric in METRICS}
            for model in MODELS
        },
        per_class={model: _means(r.per_class(model) for r in own.values()) for model in MODELS},
        costs=_costs_by_device(own.values()),
        commits=sorted({_commit(result) for result in own.values()}),
        missing=missing,
        runs=len(own) + len(missing),
        unpaired=[run for run in both if run not in partners],
        apart=[run for run in partners if own[run].machine != partners[run].machine],
        machines=machines,
        off_curve=[
            run
            for run, result in own.items()
            if not all(result.identity.has_test_images_of(p.identity) for p in points)
        ],
        first_sets=sorted({r.first_of_several for r in own.values()} - {""}),
    )


def first_curve(rows: Iterable[Row | RowReport]) -> str:
    """The name of the curve that others are measured by; "" without curves."""
    return next((row.curve for row in rows if row.curve), "")


def of_first_sets(names: Iterable[str]) -> str:
    """Words behind "AP", such as ", of the first test set, voc://A"; "" without names."""
    told = " or ".join(map(printable, sorted({*names} - {""})))
    return f", of the first test set, {told}" if told else ""


def as_data(table: Table, rows: Sequence[RowReport]) -> dict[str, Any]:
    """For JSON."""
    return {
        "title": table.title,
        "reference": table.reference,
        "rows": [
            {
                **asdict(row),
                "figures": {
                    model: {metric: _figure_data(figure) for metric, figure in metrics.items()}
                    for model, metrics in row.figures.items()
                },
            }
            for row in rows
        ],
    }


def _figure(
    own: Mapping[str, Result], base: Mapping[str, Result], model: str, metric: str
) -> Figure:
    values, others = _values(own, model, metric), _values(base, model, metric)
    return Figure(values, summarize([*values.values()]), paired_difference(values, others))


def _values(results: Mapping[str, Result], model: str, metric: str) -> dict[str, float]:
    found = {run: result.figure(model, metric) for run, result in results.items()}
    return {run: value for run, value in found.items() if value is not None}


def _costs_by_device(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        # To evaluate another run's model is no cost of training one.
        if result.is_trained:
            groups.setdefault(result.device, []).append(result)
    return {device: _means(r.cost for r in groups[device]) for device in sorted(groups)}


def _means(parts: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """By name, over the parts that have a figure."""
    values: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _commit(result: Result) -> str:
    git = result.origin.get("git") or {}
    return f"{str(git.get('commit', 'unknown'))[:10]}{' (changed)' if git.get('dirty') else ''}"


def _figure_data(figure: Figure) -> dict[str, Any]:
    return {
        "runs": figure.runs,
        "mean": _summary_data(figure.summary),
        "difference": _summary_data(figure.difference),
    }


def _summary_data(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else {**asdict(summary), "half_width": summary.half_width}
