"""A table as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from tabulate import tabulate

from dre_ssod.errors import printable
from dre_ssod.tables.curves import APART, worth_text
from dre_ssod.tables.definition import Table
from dre_ssod.tables.report import METRICS, MODELS, RowReport, first_curve, of_first_sets
from dre_ssod.tables.statistics import Summary

_COSTS = {
    "median seconds per step after the burn-in": ("step_seconds", 1.0),
    "CPU hours per run": ("cpu_seconds", 3600.0),
    "peak memory of the process, MiB": ("peak_mib", 1.0),
    "peak allocated on the GPU, MiB": ("peak_gpu_mib", 1.0),
}
"""Columns: name and unit of a cost; the last where there is any."""
_ABOUT_COSTS = "Cost; CPU hours without a burn-in that was taken over from another run:"
_ABOUT_SAVED = (
    "Where the first curve reaches the AP of a row of another, by the runs that the row shares "
    'with all points of that curve (n, where it has more; "-" without any):'
)


def as_markdown(table: Table, rows: Sequence[RowReport], level: int = 1) -> str:
    """Sections with one table per model, one of what runs cost, and one of classes.

    Args:
        level: of the heading.
    """
    heading = "#" * level
    parts = [f"{heading} {table.title}"]
    if table.text:
        parts.append(table.text.strip())
    fewer = [row.name for row in rows if row.runs < len(table.repeats)]
    once = f" Once, with all images labeled: {'; '.join(map(printable, fewer))}." if fewer else ""
    against = (
        f" Differences are to *{table.reference}*, paired by run. In brackets: 95 % interval of "
        "Student's t."
    )
    of = of_first_sets(name for row in rows for name in row.first_sets)
    parts.append(
        f"AP in percent{of}. {len(table.repeats)} run(s) of each row: "
        f"{', '.join(r.name for r in table.repeats)}.{once} "
        f"Mean ± standard deviation.{against if table.reference else ''}"
    )
    parts += _exceptions(table, rows)
    if any(len(row.missing) < row.runs for row in rows):
        for model in MODELS:
            parts += [f"{model.capitalize()}:", _model_table(table, rows, model)]
        costs = _cost_table(rows)
        parts += [_ABOUT_COSTS, costs] if costs else []
        saved = _saved_table(rows)
        parts += [_ABOUT_SAVED, saved] if saved else []
        classes = _class_table(rows)
        parts += ["AP by class, teacher / student:", classes] if classes else []
        commits = sorted({commit for row in rows for commit in row.commits})
        parts.append(f"Commit of the program in these runs: {', '.join(commits)}.")
    return "\n\n".join(parts) + "\n"


def _exceptions(table: Table, rows: Sequence[RowReport]) -> list[str]:
    """Runs that are missing, or not to be compared like the others."""
    reference, first = table.reference, first_curve(rows)
    told = {
        "**Missing:**": _named(rows, lambda row: row.missing),
        f"**Not compared,** as *{reference}* is measured on other test images:": _named(
            rows, lambda row: row.unpaired
        ),
        f"**Not compared,** as the curve *{first}* is measured on other test images:": _named(
            rows, lambda row: row.off_curve
        ),
        "**Another machine,** by device, PyTorch and number format, than the run of "
        f"*{reference}* had:": _named(rows, lambda row: row.apart),
        "**Several machines,** by device, PyTorch and number format, have run the points of the "
        f"curves; {APART} marks what is read off across them.": _machines(rows),
    }
    return [f"{text} {named}." for text, named in told.items() if named]


def _machines(rows: Sequence[RowReport]) -> str:
    """Machines of the points of curves with their runs, the usual one last; "" for one alone."""
    points = [row for row in rows if row.curve]
    counts = Counter(m for row in points for m, runs in row.machines.items() for _ in runs)
    if len(counts) < 2:
        return ""
    usual, *others = (machine for machine, _ in counts.most_common())
    told = [f"{m}: {_named(points, partial(_runs_on, m))}" for m in others]
    return ". ".join([*told, f"{usual}: all others"])


def _runs_on(machine: str, row: RowReport) -> Sequence[str]:
    return row.machines.get(machine, ())


def _named(rows: Sequence[RowReport], runs: Callable[[RowReport], Sequence[str]]) -> str:
    """Rows with these of their runs, such as "DRE (fold 0, fold 1)"; "" where none has any."""
    found = {row.name: runs(row) for row in rows}
    return "; ".join(printable(f"{name} ({', '.join(own)})") for name, own in found.items() if own)


def _model_table(table: Table, rows: Sequence[RowReport], model: str) -> str:
    others = [f"{metric} − reference" for metric in METRICS] if table.reference else []
    lines = []
    for row in rows:
        figures = [row.figures[model][metric] for metric in METRICS]
        n = figures[0].summary.n if figures[0].summary else 0
        line = [row.name, str(n), *(mean_text(figure.summary) for figure in figures)]
        lines.append(line + [difference_text(f.difference) for f in figures if table.reference])
    return markdown_table(lines, ["row", "n", *METRICS, *others])


def mean_text(summary: Summary | None) -> str:
    """Such as "52.5 ± 0.8"; "-" where there is none."""
    if summary is None:
        return "-"
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.1f}"
    return f"{summary.mean:.1f}{deviation}"


def interval_text(summary: Summary | None) -> str:
    """Such as "+2.1 [-0.3, +4.5]"; "-" where there is none."""
    if summary is None:
        return "-"
    half = summary.half_width
    interval = "" if half is None else f" [{summary.mean - half:+.1f}, {summary.mean + half:+.1f}]"
    return f"{summary.mean:+.1f}{interval}"


def difference_text(summary: Summary | None) -> str:
    """Such as "+2.1 [-0.3, +4.5], n 3"; "-" where there is none."""
    return interval_text(summary) + ("" if summary is None else f", n {summary.n}")


def _cost_table(rows: Sequence[RowReport]) -> str:
    """A line for each row and device; devices are not averaged. "" where nothing was trained."""
    found = [(row.name, device, costs) for row in rows for device, costs in row.costs.items()]
    has_gpu = any(costs.get("peak_gpu_mib") for *_, costs in found)
    shown = {k: cost for k, cost in _COSTS.items() if has_gpu or cost[0] != "peak_gpu_mib"}
    lines = [
        [name, device, *(_scaled(costs.get(cost), scale) for cost, scale in shown.values())]
        for name, device, costs in found
    ]
    return markdown_table(lines, ["row", "trained on", *shown]) if lines else ""


def _scaled(value: float | None, scale: float) -> str:
    return f"{value / scale:.{0 if value / scale >= 100.0 else 2}f}" if value else "-"


def _saved_table(rows: Sequence[RowReport]) -> str:
    """What labels of the first curve a row of another one is worth; "" without curves."""
    first = first_curve(rows)
    lines = [
        [row.name, f"{row.x:g}", *(worth_text(rows, row, model) for model in MODELS)]
        for row in rows
        if row.curve not in ("", first)
    ]
    header = ["row", "x", *(f"x of {first}, {m}" for m in MODELS)]
    return markdown_table(lines, header) if lines else ""


def _class_table(rows: Sequence[RowReport]) -> str:
    present = [row for row in rows if row.per_class["teacher"] or row.per_class["student"]]
    names = dict.fromkeys(n for row in present for m in MODELS for n in row.per_class[m])
    lines = []
    for name in names:
        cells = []
        for row in present:
            values = (row.per_class[model].get(name) for model in MODELS)
            cells.append(" / ".join("-" if v is None else f"{v:.1f}" for v in values))
        lines.append([name, *cells])
    return markdown_table(lines, ["class", *(row.name for row in present)]) if lines else ""


def markdown_table(lines: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Cells below a header, aligned, whatever characters are in them."""
    shown = [[printable(cell).replace("|", "\\|") for cell in line] for line in lines]
    titles = [printable(title).replace("|", "\\|") for title in header]
    return str(tabulate(shown, titles, tablefmt="pipe", disable_numparse=True))
