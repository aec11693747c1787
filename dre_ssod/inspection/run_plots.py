"""One picture of one or several runs, from their histories.

A run is a color, a figure of it a line style; where one run is drawn alone, its figures have colors
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dre_ssod.runs.history import RunHistory, metric_name

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#7f7f7f")
LineStyle = Literal["-", "--", ":", "-."] | tuple[float, Sequence[float]]
STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 1, 1, 1, 1, 1)))
COLUMNS = 2
PANEL_SIZE = (6.4, 3.3)
"""In inches."""


@dataclass(frozen=True)
class Panel:
    """One set of axes: a title, what is on its y axis, and its figures by their labels."""

    title: str
    unit: str
    figures: dict[str, str]
    zero: bool = True


LOSSES = {
    "classification": "loss_cls",
    "box": "loss_box_reg",
    "RPN objectness": "loss_rpn_cls",
    "RPN box": "loss_rpn_loc",
}
PANELS = (
    Panel("Labeled losses", "loss", LOSSES, zero=False),
    Panel("Unlabeled losses, before beta", "loss", {k: f"{v}_unsup" for k, v in LOSSES.items()}),
    Panel(
        "Boxes an image",
        "boxes",
        {
            "pseudo-labels": "ssod/pseudo_boxes_per_image",
            "labels": "ssod/labeled_boxes_per_image",
        },
    ),
    Panel(
        "Pseudo-labels against hidden labels",
        "share, IoU",
        {
            "precision": "pseudo_labels/precision",
            "recall": "pseudo_labels/recall",
            "mean IoU": "pseudo_labels/mean_iou",
        },
    ),
    Panel(
        "Weights",
        "weight",
        {
            "LER": "ssod/ler_weight",
            "PRC, foreground": "ssod/prc_weight_fg",
            "PRC, background": "ssod/prc_weight_bg",
        },
    ),
    Panel(
        "Confidence",
        "score, s_loc, sigma",
        {
            "score of pseudo-labels": "ssod/pseudo_score",
            "s_loc of pseudo-labels": "ssod/pseudo_localization_quality",
            "sigma, labeled": "ssod/sigma",
        },
    ),
)


def draw_runs(runs: Sequence[RunHistory]) -> Figure:
    """A figure with a panel for each group of figures that any of the runs has.

    Args:
        runs: at least one; colors repeat after eight.
    """
    panels = [ap_panel(runs), *PANELS]
    shown = [p for p in panels if any(run.find(key) for run in runs for key in p.figures.values())]
    rows = max(1, -(-len(shown) // COLUMNS))
    figure = Figure(
        figsize=(PANEL_SIZE[0] * COLUMNS, PANEL_SIZE[1] * rows + 0.5), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, panel in zip(grid, shown, strict=False):
        _draw_panel(axes, panel, runs)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=COLORS[n % len(COLORS)], label=run.name) for n, run in enumerate(runs)
    ]
    if len(runs) > 1:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 4))
    else:
        figure.suptitle(runs[0].name)
    return figure


def ap_panel(runs: Sequence[RunHistory]) -> Panel:
    """AP of every evaluated model and dataset of the runs."""
    pairs = sorted({pair for run in runs for pair in run.evaluated()}, key=lambda p: (p[1], p[0]))
    # The teacher's line is the solid one.
    pairs.sort(key=lambda pair: pair[0] != "teacher")
    figures = {" ".join(p for p in pair if p): metric_name(*pair, "AP") for pair in pairs}
    return Panel("Average precision", "AP", figures, zero=False)


def _draw_panel(axes: Axes, panel: Panel, runs: Sequence[RunHistory]) -> None:
    labels = []
    for index, (label, key) in enumerate(panel.figures.items()):
        style = STYLES[index % len(STYLES)]
        found = False
        for number, run in enumerate(runs):
            series = run.find(key)
            if series is None:
                continue
            found = True
            axes.plot(
                series.iterations,
                series.values,
                color=COLORS[(index if len(runs) == 1 else number) % len(COLORS)],
                linestyle="-" if len(runs) == 1 else style,
                linewidth=1.3,
                marker="." if len(series.values) < 30 else None,
            )
        if found:
            color = COLORS[index % len(COLORS)] if len(runs) == 1 else "black"
            line: LineStyle = "-" if len(runs) == 1 else style
            labels.append(Line2D([], [], color=color, linestyle=line, label=label))
    axes.set(title=panel.title, xlabel="iteration", ylabel=panel.unit)
    axes.set_xlim(left=0)
    if panel.zero:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(handles=labels, fontsize=8)
