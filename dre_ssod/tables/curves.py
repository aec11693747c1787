"""Rows that are points of curves, and what a row is worth by the first of these."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from dre_ssod.tables.report import RowReport, first_curve
from dre_ssod.tables.statistics import Summary, reached_at

APART = "†"
"""Behind a figure that is read off runs of two machines, or number formats."""


def curves_of(rows: Sequence[RowReport], model: str) -> dict[str, list[tuple[float, Summary]]]:
    """(x, AP) of the rows with results, at rising x, by name of the curve in the table's order."""
    curves: dict[str, list[tuple[float, Summary]]] = {row.curve: [] for row in rows if row.curve}
    for row in sorted(rows, key=lambda row: row.x):
        summary = row.figures[model]["AP"].summary
        if row.curve and summary is not None:
            curves[row.curve].append((row.x, summary))
    return {name: points for name, points in curves.items() if points}


def worth_text(rows: Sequence[RowReport], row: RowReport, model: str, unit: str = "") -> str:
    """The x at which the first curve has the AP of a row, by the runs that all of it shares.

    Such as "9.4 (n 1)†": by one run, of more that the row has, and across machines. "-" without
    such runs, as draws differ by more than rows do, and where test images differ.
    """
    first = first_curve(rows)
    points = sorted((r for r in rows if r.curve and r.curve == first), key=lambda r: r.x)
    shared = _shared_runs(rows, points, row, model)
    used = {of.name: _within(shared, of, model) for of in (*points, row)}
    curve = [(p.x, fmean(used[p.name].values())) for p in points if used[p.name]]
    own = used[row.name]
    if row.off_curve or not own or not curve:
        return "-"
    fewer = f" (n {len(own)})" if len(own) < len(row.figures[model]["AP"].runs) else ""
    machines = {
        machine
        for of in (*points, row)
        for machine, runs in of.machines.items()
        if used[of.name].keys() & set(runs)
    }
    apart = APART if len(machines) > 1 else ""
    return f"{_place(curve, fmean(own.values()))}{unit}{fewer}{apart}"


def _shared_runs(
    rows: Sequence[RowReport], points: Sequence[RowReport], row: RowReport, model: str
) -> set[str]:
    """The runs that a row has in common with each point of the first curve.

    Where all images are labeled, a row's few runs are those of all draws.
    """
    most = max(r.runs for r in rows)
    known = [r.figures[model]["AP"].runs.keys() for r in (*points, row) if r.runs == most]
    return set.intersection(*map(set, known)) if known else {*row.figures[model]["AP"].runs}


def _within(shared: set[str], row: RowReport, model: str) -> dict[str, float]:
    """AP by run, of those that are shared; of a row's few runs, of all."""
    runs = row.figures[model]["AP"].runs
    return ({run: ap for run, ap in runs.items() if run in shared} or runs) if shared else {}


def _place(curve: Sequence[tuple[float, float]], value: float) -> str:
    found = reached_at(curve, value)
    if found is not None:
        return f"{float(f'{found:.2g}'):g}"
    return f"< {curve[0][0]:g}" if value < curve[0][1] else f"> {curve[-1][0]:g}"
