"""The picture of a localization analysis: figure 3, reliability of sigma and AP by ranking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from scipy.ndimage import gaussian_filter, map_coordinates

from dre_ssod.errors import counted
from dre_ssod.evaluation.localization import MATCH_IOU, Correlation, DetectionTable, SetReport
from dre_ssod.evaluation.reliability import COORDINATES, LEVELS, Reliability

Rankings = Mapping[str, Mapping[str, Mapping[str, float | None]]]

DENSITY_BINS = 120
RESIDUAL_LIMIT = 4.0
COORDINATE_COLORS = ("#0072b2", "#d55e00", "#56b4e9", "#e69f00")
METRIC_COLORS = ("#444444", "#888888", "#bbbbbb")


def draw_analysis(
    table: DetectionTable,
    reports: Mapping[str, SetReport],
    sigma: Mapping[str, Reliability],
    rankings: Rankings,
    min_score: float,
) -> Figure:
    """Upper row: IoU against foreground score and s_loc. Lower row: sigma, coverage, AP.

    Args:
        table: detections of at least ``min_score``.
        reports: of :func:`dre_ssod.evaluation.localization.analyze`, with the same bound.
        sigma: of :func:`dre_ssod.evaluation.reliability.reliability`, over the matched detections.
        rankings: by dataset and criterion, AP metrics in percent; averaged over the datasets that
            have objects.
        min_score: lowest foreground score of the detections.
    """
    figure = Figure(figsize=(12.5, 10.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1.0), hspace=0.03)
    upper, lower = parts
    _draw_figure_3(upper, table, reports, min_score)
    residuals, shares, bars = lower.subplots(1, 3)
    _draw_residuals(residuals, table.residuals[table.ious >= MATCH_IOU], sigma)
    _draw_coverage(shares, sigma)
    _draw_rankings(bars, rankings)
    return figure


def point_density(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(D,) smoothed density at (D,) points, 1 at the densest; the cost grows linearly with D."""
    if len(x) == 0:
        return np.zeros(0)
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=DENSITY_BINS)
    smooth = gaussian_filter(counts, sigma=DENSITY_BINS / 40, mode="constant")
    cells = [
        (values - edges[0]) / (edges[1] - edges[0]) - 0.5
        for values, edges in ((x, x_edges), (y, y_edges))
    ]
    density: npt.NDArray[Any] = map_coordinates(smooth, cells, order=1, mode="nearest")
    return density / density.max()


def number(value: float | None) -> str:
    """Two decimals, or "undefined"."""
    return "undefined" if value is None else f"{value:.2f}"


def _draw_figure_3(
    figure: Any,
    table: DetectionTable,
    reports: Mapping[str, SetReport],
    min_score: float,
) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    _scatter(left, table.scores, table.ious)
    _title(left, "Foreground score", reports, "score")
    left.set(xlabel="foreground score", ylabel="IoU with the ground truth", ylim=(-0.03, 1.03))
    left.set_xlim(min_score - 0.01, 1.01)
    points = _scatter(right, table.qualities, table.ious)
    _title(right, "Localization quality score", reports, "localization_quality")
    right.set_xlabel("localization quality score $s^{loc}$ (eq. 5)")
    bar = figure.colorbar(points, ax=[left, right], pad=0.01, aspect=30, ticks=[0, 1])
    bar.ax.set_yticklabels(["sparse", "dense"])
    bar.set_label("density of detections, each panel to its own maximum", labelpad=-16)


def _scatter(axes: Axes, values: npt.NDArray[Any], ious: npt.NDArray[Any]) -> Any:
    """One point per detection, colored by how many are near, the densest on top."""
    density = point_density(values, ious)
    order = np.argsort(density)
    axes.axhline(MATCH_IOU, color="gray", linewidth=1, linestyle="--", zorder=0)
    axes.grid(alpha=0.25)
    return axes.scatter(
        values[order],
        ious[order],
        c=density[order],
        s=float(np.clip(6000 / max(len(values), 1), 5, 22)),
        cmap="viridis",
        vmin=0,
        vmax=1,
        linewidths=0,
        alpha=0.85,
    )


def _title(axes: Axes, name: str, reports: Mapping[str, SetReport], criterion: str) -> None:
    lines = [name]
    for label, part in (("all", reports["all"]), (f"IoU ≥ {MATCH_IOU}", reports["matched"])):
        found: Correlation = getattr(part, criterion)
        lines.append(
            f"{label} (n = {part.n:,}):  Spearman {number(found.spearman)},  "
            f"Pearson {number(found.pearson)}"
        )
    axes.set_title("\n".join(lines), fontsize=10)


def _draw_residuals(
    axes: Axes, residuals: npt.NDArray[Any], sigma: Mapping[str, Reliability]
) -> None:
    """Density of the standardized residuals by coordinate, against the unit Gaussian."""
    grid = np.linspace(-RESIDUAL_LIMIT, RESIDUAL_LIMIT, 201)
    axes.fill_between(grid, stats.norm.pdf(grid), color="#dddddd", label="unit Gaussian")
    # What lies outside is counted in the outermost bins.
    clipped = np.clip(residuals, -RESIDUAL_LIMIT + 1e-6, RESIDUAL_LIMIT - 1e-6)
    for k, (name, color) in enumerate(zip(COORDINATES, COORDINATE_COLORS, strict=True)):
        part = sigma[name]
        if part.n > 0:
            axes.hist(
                clipped[np.isfinite(clipped[:, k]), k],
                bins=np.linspace(-RESIDUAL_LIMIT, RESIDUAL_LIMIT, 41).tolist(),
                density=True,
                histtype="step",
                color=color,
                linewidth=1.4,
                label=f"{name}: mean {number(part.mean)}, RMS {number(part.deviation)}",
            )
    axes.set_title(
        f"Is sigma right? Edges of matched detections (n = {sigma['all'].n:,})\n"
        "narrower than the Gaussian: sigma too large",
        fontsize=10,
    )
    axes.set(xlabel="(predicted − true edge) / sigma", ylabel="density")
    axes.set_ylim(top=1.45 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left", frameon=False)


def _draw_coverage(axes: Axes, sigma: Mapping[str, Reliability]) -> None:
    """Observed against expected share of edges within the Gaussian's central intervals."""
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--", label="sigma right")
    for name, color in zip(COORDINATES, COORDINATE_COLORS, strict=True):
        if sigma[name].n > 0:
            axes.plot(LEVELS, sigma[name].coverage, color=color, marker=".", label=name)
    axes.set_title(
        "Coverage: how often the truth lies in the interval\n"
        f"mean distance from the diagonal {number(sigma['all'].miscalibration)}",
        fontsize=10,
    )
    axes.set(xlabel="expected coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1))
    axes.text(0.05, 0.88, "sigma too large", color="gray", fontsize=8)
    axes.text(0.6, 0.08, "sigma too small", color="gray", fontsize=8)
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.12), frameon=False)


def _draw_rankings(axes: Axes, rankings: Rankings) -> None:
    """A group of bars for each criterion, one bar for each metric."""
    first = next(iter(rankings.values()), {})
    # A set without objects has None for AP.
    known = [
        part
        for part in rankings.values()
        if all(value is not None for figures in part.values() for value in figures.values())
    ]
    mean = f" (mean of {counted(len(known), 'test set')})" if len(rankings) > 1 else ""
    axes.set_title(f"AP of the same detections,\nranked by different criteria{mean}", fontsize=10)
    metrics = list(next(iter(first.values()), {}))
    width = 0.8 / max(len(metrics), 1)
    highest = 0.0
    for k, (metric, color) in enumerate(zip(metrics, METRIC_COLORS, strict=False)):
        places = np.arange(len(first)) + (k - (len(metrics) - 1) / 2) * width
        # No bar where no set has objects.
        values = [np.array([part[name][metric] for part in known], np.float64) for name in first]
        heights = [float(part.mean()) if len(part) else math.nan for part in values]
        highest = np.nanmax([highest, *heights])
        bars = axes.bar(places, heights, width, color=color, label=metric)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(first)), list(first))
    # Room for the legend; few classes are found at all in an early model.
    axes.set(ylabel="AP (%)", ylim=(0, 1.2 * max(highest, 1.0)))
    axes.legend(fontsize=8, loc="upper right", ncols=3, frameon=False)
