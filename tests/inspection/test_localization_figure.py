"""The figure says the numbers it was given."""

from __future__ import annotations

import numpy as np
import pytest

from dre_ssod.evaluation.localization import DetectionTable, analyze
from dre_ssod.evaluation.reliability import reliability
from dre_ssod.inspection.localization_figure import draw_analysis, point_density

RANKINGS = {
    "first": {"score": {"AP": 40.0, "AP50": 80.0}, "s_loc": {"AP": 30.0, "AP50": 70.0}},
    "second": {"score": {"AP": 60.0, "AP50": 80.0}, "s_loc": {"AP": 50.0, "AP50": 70.0}},
}


def table(size: int) -> DetectionTable:
    generator = np.random.default_rng(1)
    columns = generator.uniform(0.5, 1.0, (3, size))
    return DetectionTable(*columns, residuals=generator.normal(size=(size, 4)))


def test_density_is_highest_where_points_are_close() -> None:
    generator = np.random.default_rng(0)
    cloud = generator.normal(0.8, 0.01, (200, 2))
    x, y = np.concatenate([cloud, [[0.1, 0.1]]]).T
    density = point_density(x, y)
    assert density.max() == 1.0
    assert density[-1] < 0.2 < np.median(density[:-1])
    assert len(point_density(x[:0], y[:0])) == 0


def test_every_panel_shows_its_figures() -> None:
    data = table(40)
    reports, sigma = analyze(data, 0.5), reliability(data.residuals)
    figure = draw_analysis(data, reports, sigma, RANKINGS, 0.5)
    upper, lower = figure.subfigs
    left, right = upper.axes[:2]
    assert f"{reports['all'].score.spearman:.2f}" in left.get_title()
    assert f"{reports['matched'].localization_quality.pearson:.2f}" in right.get_title()
    assert "n = 40" in left.get_title()
    np.testing.assert_allclose(
        sorted(right.collections[0].get_offsets().tolist()),
        sorted([q, iou] for q, iou in zip(data.qualities, data.ious, strict=True)),
    )
    residuals, shares, bars = lower.axes
    names = [text.get_text() for text in residuals.get_legend().get_texts()]
    assert f"x1: mean {sigma['x1'].mean:.2f}, RMS {sigma['x1'].deviation:.2f}" in names
    lines = {line.get_label(): line for line in shares.get_lines()}
    np.testing.assert_array_equal(lines["y2"].get_ydata(), sigma["y2"].coverage)
    # The mean over the datasets; bars of one metric follow each other.
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx([50.0, 40.0, 80.0, 70.0])
    assert bars.get_title().endswith("(mean of 2 test sets)")


def test_a_set_without_objects_hides_no_other() -> None:
    data = table(40)
    nothing = {"score": {"AP": None, "AP50": None}, "s_loc": {"AP": None, "AP50": None}}
    for rankings, known in (
        ({"none": nothing, **RANKINGS}, [50.0, 40.0, 80.0, 70.0]),
        ({"none": nothing}, [np.nan] * 4),
    ):
        figure = draw_analysis(data, analyze(data, 0.5), reliability(data.residuals), rankings, 0.5)
        bars = figure.subfigs[1].axes[2]
        heights = [bar.get_height() for bar in bars.patches]
        assert heights == pytest.approx(known, nan_ok=True)
        assert ("mean of 2 test sets" in bars.get_title()) == (len(rankings) == 3)
    first = {"first": RANKINGS["first"]}
    figure = draw_analysis(data, analyze(data, 0.5), reliability(data.residuals), first, 0.5)
    assert "mean" not in figure.subfigs[1].axes[2].get_title()


def test_edges_without_a_residual_are_not_drawn() -> None:
    data = table(40)
    data.residuals[:10, 0] = np.nan
    figure = draw_analysis(data, analyze(data, 0.5), reliability(data.residuals), RANKINGS, 0.5)
    residuals = figure.subfigs[1].axes[0]
    assert "(n = 150)" in residuals.get_title()
    outline = next(patch for patch in residuals.patches if "x1" in patch.get_label()).get_xy()
    counts = np.histogram(np.clip(data.residuals[10:, 0], -3.99, 3.99), np.linspace(-4, 4, 41))[0]
    assert outline[:, 1].max() == pytest.approx(counts.max() / 30 / 0.2)


def test_nothing_detected_still_gives_a_picture() -> None:
    data = table(0)
    figure = draw_analysis(data, analyze(data, 0.5), reliability(data.residuals), {}, 0.5)
    assert "undefined" in figure.subfigs[0].axes[0].get_title()
    figure.canvas.draw()
