"""Rows that are points of curves, and what a row is worth by the first of these."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from dre_ssod.tables.report import RowReport
from dre_ssod.tables.statistics import Summary, reached_at


def curves_of(rows: Sequence[RowReport], model: str) -> dict[str, list[tuple[float, Summary]]]:
    """(x, AP) of the rows with results, at rising x, by name of the curve in the table's order."""
    curves: dict[str, list[tuple[float, Summary]]] = {row.curve: [] for row in rows if row.curve}
    for row in sorted(rows, key=lambda row: row.x):
        summary = row.figures[model]["AP"].summary
        if row.curve and summary is not None:
            curves[row.curve].append((row.x, summary))
    return {name: points for name, points in curves.items() if points}


def first_curve(rows: Sequence[RowReport]) -> str:
    """The name of the curve that others are measured by; "" without curves."""
    return next((row.curve for row in rows if row.curve), "")


def shared_runs(rows: Sequence[RowReport], row: RowReport, model: str) -> set[str]:
    """The runs that a row has in common with each point of the first curve.

    Where all images are labeled, a row's few runs are those of all draws.
    """
    points = [r for r in rows if r.curve and r.curve == first_curve(rows)]
    most = max(r.runs for r in rows)
    known = [r.figures[model]["AP"].runs.keys() for r in (*points, row) if r.runs == most]
    return set.intersection(*map(set, known)) if known else {*row.figures[model]["AP"].runs}


def worth_text(rows: Sequence[RowReport], row: RowReport, model: str) -> str:
    """The x at which the first curve has the AP of a row, by the runs that all of it shares.

    "-" without such runs: draws differ by more than rows do.
    """
    first, shared = first_curve(rows), shared_runs(rows, row, model)

    def mean(of: RowReport) -> float | None:
        runs = of.figures[model]["AP"].runs
        values = [ap for run, ap in runs.items() if run in shared]
        return fmean(values or runs.values()) if shared and runs else None

    points = sorted((r for r in rows if r.curve and r.curve == first), key=lambda r: r.x)
    curve = [(r.x, y) for r in points if (y := mean(r)) is not None]
    value = mean(row)
    if value is None or not curve:
        return "-"
    found = reached_at(curve, value)
    if found is not None:
        return f"{float(f'{found:.2g}'):g}"
    return f"< {curve[0][0]:g}" if value < curve[0][1] else f"> {curve[-1][0]:g}"
