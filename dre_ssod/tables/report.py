"""What a table says: figures by row, as data and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from tabulate import tabulate

from dre_ssod.errors import printable
from dre_ssod.tables.definition import Table
from dre_ssod.tables.filed import Result, find_results
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.statistics import Summary, paired_difference, reached_at, summarize

MODELS = ("teacher", "student")
METRICS = ("AP", "AP50", "AP75")
_COSTS = {
    "seconds per step after the burn-in": ("step_seconds", 1.0),
    "CPU hours per run": ("cpu_seconds", 3600.0),
    "peak memory, MiB": ("peak_mib", 1.0),
}
"""Columns: name and unit of a cost."""


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
        apart: runs that another machine has trained than the reference's.
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


def report_rows(
    table: Table, kept: Sequence[Result], looked: Mapping[str, Identity] | None = None
) -> list[RowReport]:
    """The rows of a table.

    Args:
        kept: results of any tables; runs of this one that are not among them are missing.
        looked: identities with data, by name of the cell; their results are found by that.
    """
    cells = table.cells()
    found = find_results(kept, cells, looked or {})
    results: dict[str, dict[str, Result]] = {name: {} for name in table.rows}
    missing: dict[str, list[str]] = {name: [] for name in table.rows}
    for cell in cells:
        result = found.get(cell.name)
        if result is None:
            missing[cell.row].append(cell.repeat.name)
        else:
            results[cell.row][cell.repeat.name] = result
    base = results.get(table.reference, {})
    reports = []
    for name, own in results.items():
        both = {run: base[run] for run in own if run in base and name != table.reference}
        partners = {
            run: result
            for run, result in both.items()
            if own[run].identity.has_test_images_of(result.identity)
        }
        figures = {
            model: {metric: _figure(own, partners, model, metric) for metric in METRICS}
            for model in MODELS
        }
        per_class = {model: _per_class(own.values(), model) for model in MODELS}
        commits = sorted({_commit(result) for result in own.values()})
        reports.append(
            RowReport(
                *(name, table.rows[name].curve, table.rows[name].x),
                figures=figures,
                per_class=per_class,
                costs=_costs_by_device(own.values()),
                commits=commits,
                missing=missing[name],
                runs=len(own) + len(missing[name]),
                unpaired=[run for run in both if run not in partners],
                apart=[run for run in partners if own[run].machine != partners[run].machine],
            )
        )
    return reports


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
    against = f" Differences are to *{table.reference}*, paired by run." if table.reference else ""
    parts.append(
        f"AP in percent. {len(table.repeats)} run(s) of each row: "
        f"{', '.join(r.name for r in table.repeats)}.{once} "
        f"Mean ± standard deviation.{against} In brackets: 95 % interval of Student's t."
    )
    unfinished = [f"{row.name} ({', '.join(row.missing)})" for row in rows if row.missing]
    if unfinished:
        parts.append(f"**Missing:** {'; '.join(map(printable, unfinished))}.")
    unpaired = [f"{row.name} ({', '.join(row.unpaired)})" for row in rows if row.unpaired]
    if unpaired:
        parts.append(
            f"**Not compared,** as *{table.reference}* is measured on other test images: "
            f"{'; '.join(map(printable, unpaired))}."
        )
    apart = [f"{row.name} ({', '.join(row.apart)})" for row in rows if row.apart]
    if apart:
        parts.append(
            f"**Another machine,** by device and PyTorch, than the run of *{table.reference}* had: "
            f"{'; '.join(map(printable, apart))}."
        )
    if any(len(row.missing) < row.runs for row in rows):
        for model in MODELS:
            parts += [f"{model.capitalize()}:", _model_table(table, rows, model)]
        costs = _cost_table(rows)
        parts += ["Cost:", costs] if costs else []
        saved = _saved_table(rows)
        parts += (
            ["Where the first curve reaches the AP of a row of another:", saved] if saved else []
        )
        classes = _class_table(rows)
        parts += ["AP by class, teacher / student:", classes] if classes else []
        commits = sorted({commit for row in rows for commit in row.commits})
        parts.append(f"Commit of the program in these runs: {', '.join(commits)}.")
    return "\n\n".join(parts) + "\n"


def _figure(
    own: Mapping[str, Result], base: Mapping[str, Result], model: str, metric: str
) -> Figure:
    values, others = _values(own, model, metric), _values(base, model, metric)
    return Figure(values, summarize([*values.values()]), paired_difference(values, others))


def _values(results: Mapping[str, Result], model: str, metric: str) -> dict[str, float]:
    found = {run: result.figure(model, metric) for run, result in results.items()}
    return {run: value for run, value in found.items() if value is not None}


def _per_class(results: Iterable[Result], model: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.per_class(model).items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _costs_by_device(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        # To evaluate another run's model is no cost of training one.
        if result.is_trained:
            groups.setdefault(result.device, []).append(result)
    return {device: _costs(groups[device]) for device in sorted(groups)}


def _costs(results: Iterable[Result]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.cost.items():
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
    lines = [
        [row.name, device, *(_scaled(costs.get(name), scale) for name, scale in _COSTS.values())]
        for row in rows
        for device, costs in row.costs.items()
    ]
    return markdown_table(lines, ["row", "trained on", *_COSTS]) if lines else ""


def _scaled(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:.{0 if value / scale >= 100.0 else 2}f}"


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


def _saved_table(rows: Sequence[RowReport]) -> str:
    """What labels of the first curve a row of another one is worth; "" without curves."""
    first = first_curve(rows)
    lines = [
        [
            *(row.name, f"{row.x:g}", str(len(shared_runs(rows, row, "teacher")))),
            *(worth_text(rows, row, model) for model in MODELS),
        ]
        for row in rows
        if row.curve not in ("", first)
    ]
    header = ["row", "x", "by n runs of both", *(f"x of {first}, {m}" for m in MODELS)]
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
