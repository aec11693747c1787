"""One picture of one or several runs, from their histories.

A run is a color and a marker, a figure of it a line style; where one run is drawn alone, colors and
markers are those of its figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dre_ssod.runs.history import RunHistory

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#7f7f7f")
LineStyle = Literal["-", "--", ":", "-."] | tuple[float, Sequence[float]]
STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Go with the colors: not everybody tells these apart."""
MARKED_POINTS = 12
"""Of a line, about."""
COLUMNS = 2
PANEL_SIZE = (7.2, 3.3)
"""In inches."""


@dataclass(frozen=True)
class Group:
    """Figures that share axes.

    Attributes:
        title: of the axes.
        unit: on the y axis.
        names: pattern of their names in ``metrics.json``.
        zero: whether the y axis begins at 0.
    """

    title: str
    unit: str
    names: str
    zero: bool = True


GROUPS = (
    Group("Average precision", "AP", r"(teacher|student)/(.+/)?bbox/AP", zero=False),
    Group("Labeled losses", "loss", r"loss_\w+(?<!_unsup)", zero=False),
    Group("Unlabeled losses, before their weight", "loss", r"loss_\w+_unsup"),
    Group("Boxes per image", "boxes", r"ssod/\w+_boxes_per_image"),
    Group("Pseudo-labels against hidden labels", "share, IoU", r"pseudo_labels/[a-z_]+(?<!_image)"),
    Group("Scores of pseudo-labels", "in [0, 1]", r"ssod/pseudo_\w+"),
    Group("Weights", "weight", r"ssod/\w*weight\w*"),
)
"""A figure belongs to the first group that its name fits. Further figures of the step (``ssod/``)
have axes of their own, unless they never change."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: a title, what is on its y axis, and its figures by their labels."""

    title: str
    unit: str
    figures: dict[str, str]
    zero: bool


def panels_of(runs: Sequence[RunHistory]) -> list[Panel]:
    """What to draw of the figures that the runs have."""
    grouped: dict[Group, list[str]] = {group: [] for group in GROUPS}
    alone: list[str] = []
    # The teacher's line is the solid one.
    for name in sorted({n for run in runs for n in run.series}, key=lambda n: ("student" in n, n)):
        group = next((group for group in GROUPS if re.fullmatch(group.names, name)), None)
        if group is not None:
            grouped[group].append(name)
        elif name.startswith("ssod/") and _changes(name, runs):
            alone.append(name)
    panels = [
        Panel(group.title, group.unit, {label_of(name): name for name in names}, group.zero)
        for group, names in grouped.items()
        if names
    ]
    own = [Panel(label_of(name).capitalize(), "", {label_of(name): name}, True) for name in alone]
    return panels + own


def label_of(name: str) -> str:
    """A figure's name in words: "rpn loc" for ``loss_rpn_loc_unsup``."""
    if match := re.fullmatch(r"(teacher|student)/(?:(.+)/)?bbox/AP", name):
        return " ".join(part for part in match.groups() if part)
    short = re.sub(r"^(ssod/|pseudo_labels/|loss_)|_per_image$|_unsup$", "", name)
    return short.replace("_", " ")


def _changes(name: str, runs: Sequence[RunHistory]) -> bool:
    return len({v for run in runs if (series := run.find(name)) for v in series.values}) > 1


def draw_runs(runs: Sequence[RunHistory]) -> Figure:
    """A figure with a panel for each group of figures that any of the runs has.

    Args:
        runs: at least one; colors repeat after eight, with other markers.
    """
    shown = panels_of(runs)
    rows = max(1, -(-len(shown) // COLUMNS))
    figure = Figure(
        figsize=(PANEL_SIZE[0] * COLUMNS, PANEL_SIZE[1] * rows + 0.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, panel in zip(grid, shown, strict=False):
        axes.set_title(panel.title)
        # Beside the curves, which may be anywhere.
        axes.legend(
            handles=draw_panel(axes, panel, runs),
            fontsize=8,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
        )
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    if len(runs) > 1:
        handles = run_handles([run.name for run in runs])
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 4))
    else:
        figure.suptitle(runs[0].name)
    return figure


def run_handles(names: Sequence[str]) -> list[Line2D]:
    """What a legend shows of several runs."""
    return [Line2D([], [], label=name, **line_style(n)) for n, name in enumerate(names)]


def line_style(number: int) -> dict[str, Any]:
    """Color and marker of the lines of a run among several, or of a figure of a run alone."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[(number + number // len(COLORS)) % len(MARKERS)],
        "markersize": 4,
    }


def draw_panel(axes: Axes, panel: Panel, runs: Sequence[RunHistory]) -> list[Line2D]:
    """Draw a panel's figures of all runs; returns what a legend shows of the figures."""
    handles = []
    for index, (label, key) in enumerate(panel.figures.items()):
        alone = len(runs) == 1
        style = "-" if alone else STYLES[index % len(STYLES)]
        for number, run in enumerate(runs):
            if (series := run.find(key)) is not None:
                axes.plot(
                    series.iterations,
                    series.values,
                    linestyle=style,
                    linewidth=1.3,
                    markevery=max(1, len(series.values) // MARKED_POINTS),
                    **line_style(index if alone else number),
                )
        look = line_style(index) if alone else {"color": "black"}
        handles.append(Line2D([], [], linestyle=style, label=label, **look))
    axes.set(xlabel="iteration", ylabel=panel.unit)
    axes.set_xlim(left=0)
    if panel.zero:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    return handles
