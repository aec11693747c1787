"""One picture of a table: each run a point, each row a mean; or a curve over what rows vary."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dre_ssod.tables.curves import curves_of
from dre_ssod.tables.report import MODELS, RowReport

COLORS = {"teacher": "#1f77b4", "student": "#ff7f0e"}
_APART = 0.16
"""Of the points of two models in a row, in rows."""


def draw_curves(title: str, rows: Sequence[RowReport], x_label: str = "") -> Figure:
    """Curves of mean AP and its standard deviation, one panel for each model, x logarithmic.

    A ring is a single run, whose deviation nobody knows.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(MODELS), sharey=True)
    for axes, model in zip(panels, MODELS, strict=True):
        for name, points in curves_of(rows, model).items():
            drawn = axes.errorbar(
                [x for x, _ in points],
                [summary.mean for _, summary in points],
                [summary.deviation or 0.0 for _, summary in points],
                fmt="o-",
                markersize=4,
                capsize=2,
                label=name,
            )
            single = [(x, summary.mean) for x, summary in points if summary.deviation is None]
            axes.plot(
                [x for x, _ in single],
                [mean for _, mean in single],
                "o",
                color=drawn.lines[0].get_color(),
                mfc="white",
                markersize=4,
                zorder=3,
            )
        axes.set_xscale("log")
        places = sorted({row.x for row in rows if row.curve})
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(x_label)
        axes.set_title(model, fontsize="medium")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("AP, percent")
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=2, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_rows(title: str, rows: Sequence[RowReport], metric: str = "AP") -> Figure:
    """Rows from the top down: runs as rings, means as bars with their standard deviation."""
    figure = Figure(figsize=(8.0, 1.4 + 0.45 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for model in MODELS:
        shift = _APART if model == "student" else -_APART
        for place, row in enumerate(rows):
            found = row.figures[model][metric]
            if found.summary is None:
                continue
            places = [place + shift] * len(found.runs)
            color = COLORS[model]
            axes.plot([*found.runs.values()], places, "o", mfc="none", color=color, markersize=4)
            spread = found.summary.deviation or 0.0
            axes.errorbar(
                found.summary.mean, place + shift, xerr=spread, fmt="|", color=color, markersize=12
            )
        axes.plot([], [], "o", mfc="none", color=COLORS[model], label=model)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}, percent")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    axes.set_title(title, fontsize="medium")
    return figure
