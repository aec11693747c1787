"""Charts of the page: SVG pictures by Matplotlib, each with its content in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dre_ssod.evaluation.reliability import LEVELS
from dre_ssod.inspection.run_plots import Panel, draw_panel, line_style, run_handles
from dre_ssod.report.examined import ExaminedRun, ExaminedSet
from dre_ssod.runs.history import RunHistory

SIZE, SMALL = (4.6, 3.3), (2.9, 2.5)
"""In inches of 72 CSS pixels: a phone shows them at their size."""
MOST_IN_WORDS = 8
"""Lines of a chart that its alternative text tells."""
_STYLE: dict[Any, Any] = {
    # Text as text: a tenth of the size of outlines, and as sharp as the page's.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Chart:
    """A picture.

    Attributes:
        title: above it.
        alt: what it shows, in words.
        uri: the picture itself, as a data URI.
    """

    title: str
    alt: str
    uri: str


def panel_chart(panel: Panel, runs: Sequence[RunHistory]) -> Chart:
    """Figures of the runs over their iterations."""

    def draw(axes: Axes) -> list[Any]:
        figures = draw_panel(axes, panel, runs)
        handles = run_handles([run.name for run in runs]) if len(runs) > 1 else []
        shown = [
            handle
            for run, handle in zip(runs, handles, strict=False)
            if any(map(run.find, panel.figures.values()))
        ]
        return [*shown, *(figures if len(figures) > 1 else [])]

    told = [
        f"{run.name} {label} from {series.values[0]:.3g} to {series.last:.3g}"
        for label, key in panel.figures.items()
        for run in runs
        if (series := run.find(key)) is not None
    ]
    return Chart(panel.title, _words("Curves over the iterations", told), _svg(draw, SIZE))


def precision_recall_chart(
    class_index: int, class_name: str, tested: Sequence[tuple[str, ExaminedSet]]
) -> Chart:
    """Precision of one class over its recall, at IoU 0.5, a line for each run.

    Args:
        tested: names of runs, and what they found on one set.
    """

    def draw(axes: Axes) -> list[Any]:
        for number, (_, part) in enumerate(tested):
            axes.plot(
                np.linspace(0, 1, 101),
                part.precision.curves[:, class_index],
                markevery=(5 * number, 20),
                linewidth=1.3,
                **line_style(number),
            )
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.25)
        return run_handles([name for name, _ in tested]) if len(tested) > 1 else []

    told = [f"{name} AP50 {part.precision.ap50[class_index]:.1f}" for name, part in tested]
    return Chart(class_name, _words("Precision over recall", told), _svg(draw, SMALL))


def coverage_chart(examined: Sequence[ExaminedRun]) -> Chart:
    """How often the true edge lies in the interval that sigma gives, a line for each run."""
    known = [
        (number, one, one.sigma["all"])
        for number, one in enumerate(examined)
        if one.sigma and one.sigma["all"].n
    ]

    def draw(axes: Axes) -> list[Any]:
        axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
        for number, _, part in known:
            axes.plot(LEVELS, part.coverage, linewidth=1.3, **line_style(number))
        axes.text(0.04, 0.9, "sigma too large", color="#595959")
        axes.text(0.6, 0.06, "sigma too small", color="#595959")
        axes.set(xlabel="share that should lie inside", ylabel="share that does")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid(alpha=0.25)
        handles = run_handles([one.run.name for one in examined])
        return [handles[number] for number, _, _ in known]

    told = [
        f"{one.run.name}: {part.coverage[LEVELS.index(0.8)]:.0%} of the true edges lie where 80 % "
        "should"
        for _, one, part in known
    ]
    return Chart("Edges inside their interval", _words("Coverage of sigma", told), _svg(draw, SIZE))


def _words(what: str, told: Sequence[str]) -> str:
    more = len(told) - MOST_IN_WORDS
    rest = [f"and {more} more"] if more > 0 else []
    return f"{what}: {'; '.join([*told[:MOST_IN_WORDS], *rest])}."


def _svg(draw: Callable[[Axes], list[Any]], size: tuple[float, float]) -> str:
    """A figure as a data URI; what ``draw`` returns goes into a legend below it."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        handles = draw(figure.subplots())
        if handles:
            legend = figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=1 if size == SMALL else 2,
                fontsize=8,
                frameon=False,
            )
            for text in legend.get_texts():
                # The name of a run may hold dollar signs.
                text.set_parse_math(False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
