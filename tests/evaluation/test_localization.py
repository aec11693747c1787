"""True IoU and its correlations, against values worked out by hand and their invariances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from dre_ssod.evaluation.localization import (
    Correlation,
    DetectionTable,
    Spread,
    analyze,
    correlate,
    match,
    quarters,
    report,
)
from dre_ssod.evaluation.localization_data import weights_of
from tests.factories import tiny_cfg

UNDEFINED = Correlation(None, None)


def test_true_iou_is_that_of_the_best_object_of_the_same_class() -> None:
    gt_boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [100, 100, 110, 110]], dtype=float)
    gt_classes = np.array([0, 1, 0])
    boxes = np.array(
        [
            [0, 0, 10, 10],  # the first object
            [0, 0, 10, 10],  # of the second one's class: 50 shared of 150
            [2, 0, 12, 10],  # 80 of 120 with the first, no duplicate rule
            [50, 50, 60, 60],  # touches nothing
            [0, 0, 10, 10],  # a class that the image does not have
            [3, 3, 3, 3],  # no area
        ],
        dtype=float,
    )
    ious, _ = match(boxes, np.array([0, 1, 0, 0, 2, 0]), gt_boxes, gt_classes)
    np.testing.assert_allclose(ious, [1.0, 1 / 3, 2 / 3, 0.0, 0.0, 0.0], atol=1e-6)


def test_the_matched_box_is_the_one_that_the_iou_is_with() -> None:
    gt_boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [20, 0, 30, 10]], dtype=float)
    boxes = np.array([[1, 0, 11, 10], [21, 0, 31, 10], [60, 0, 70, 10], [0, 0, 9, 9]], dtype=float)
    ious, matched = match(boxes, np.array([0, 0, 0, 2]), gt_boxes, np.array([0, 0, 1]))
    np.testing.assert_allclose(ious, [9 / 11, 9 / 11, 0.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(matched[:2], gt_boxes[:2])
    # A box that touches none has some object of its class; a class without objects has none.
    assert np.isfinite(matched[2]).all()
    assert np.isnan(matched[3]).all()


@pytest.mark.parametrize(("detections", "objects"), [(0, 0), (0, 2), (2, 0)])
def test_true_iou_of_empty_sides_is_zero(detections: int, objects: int) -> None:
    box = np.array([[0.0, 0.0, 4.0, 4.0]])
    ious, _ = match(
        box.repeat(detections, axis=0),
        np.zeros(detections, dtype=int),
        box.repeat(objects, axis=0),
        np.zeros(objects, dtype=int),
    )
    np.testing.assert_array_equal(ious, np.zeros(detections))


def test_correlation_of_values_worked_out_by_hand() -> None:
    # Ranks of the values: 1 2 4 3; sum of squared rank differences 2: 1 - 6 * 2 / (4 * 15) = 0.8.
    # Deviations from the means 4 and 0.4: (-3, -2, 4, 1) and (-0.3, -0.1, 0.1, 0.3);
    # 1.8 / sqrt(30 * 0.2) = 0.73485.
    found = correlate(np.array([1.0, 2.0, 8.0, 5.0]), np.array([0.1, 0.3, 0.5, 0.7]))
    assert found.spearman == pytest.approx(0.8)
    assert found.pearson == pytest.approx(1.8 / np.sqrt(6.0))


def test_spearman_sees_order_alone_and_pearson_a_line() -> None:
    ious = np.linspace(0.1, 0.9, 9)
    curved = correlate(np.exp(8 * ious), ious)
    assert curved.spearman == pytest.approx(1.0)
    assert curved.pearson is not None
    assert curved.pearson < 0.95
    falling = correlate(3.0 - 2.0 * ious, ious)
    assert (falling.spearman, falling.pearson) == pytest.approx((-1.0, -1.0))


@pytest.mark.parametrize(
    ("values", "ious"),
    [
        ([], []),
        ([0.1, 0.9], [0.2, 0.8]),
        ([0.7, 0.7, 0.7, 0.7], [0.1, 0.2, 0.3, 0.4]),
        ([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]),
        ([0.3, 0.1 + 0.2, 0.3], [0.1, 0.2, 0.3]),
        ([0.1, np.nan, 0.3], [0.1, 0.2, 0.3]),
        ([0.1, 0.2, 0.3], [0.1, np.inf, 0.3]),
    ],
)
def test_undefined_correlation_is_none_without_a_warning(
    values: list[float], ious: list[float]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert correlate(np.array(values), np.array(ious)) == UNDEFINED


def test_three_points_are_enough() -> None:
    found = correlate(np.array([0.1, 0.2, 0.4]), np.array([0.5, 0.6, 0.8]))
    assert (found.spearman, found.pearson) == pytest.approx((1.0, 1.0))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        correlate(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="qualities"):
        DetectionTable(np.zeros(2), np.zeros(3), np.zeros(2), np.zeros((2, 4)))


def test_sets_are_confident_and_matched_ones_with_their_bounds_included() -> None:
    table = DetectionTable(
        scores=np.array([0.49, 0.5, 0.6, 0.7, 0.8, 0.9]),
        qualities=np.array([0.5, 0.1, 0.2, 0.3, 0.4, 0.45]),
        ious=np.array([1.0, 0.0, 0.49, 0.5, 0.7, 0.6]),
        residuals=np.zeros((6, 4)),
    )
    reports = analyze(table, min_score=0.5)
    assert reports["all"] == report(table.rows(np.arange(6) >= 1))
    assert reports["matched"] == report(table.rows(np.arange(6) >= 3))
    assert (reports["all"].n, reports["matched"].n) == (5, 3)
    # Ranks 1 2 3 against 1 3 2.
    assert reports["matched"].score.spearman == pytest.approx(0.5)


def test_false_positives_flatter_a_score_that_says_nothing_of_matched_boxes() -> None:
    generator = np.random.default_rng(0)
    found = DetectionTable(
        scores=generator.uniform(0.8, 1.0, 500),
        qualities=generator.uniform(0.2, 0.5, 500),
        ious=generator.uniform(0.5, 1.0, 500),
        residuals=np.zeros((500, 4)),
    )
    false = DetectionTable(
        scores=generator.uniform(0.5, 0.8, 200),
        qualities=generator.uniform(0.2, 0.5, 200),
        ious=np.zeros(200),
        residuals=np.zeros((200, 4)),
    )
    reports = analyze(DetectionTable.concatenate([found, false]), min_score=0.5)
    assert reports["matched"] == report(found)
    matched, whole = reports["matched"].score.pearson, reports["all"].score.pearson
    assert matched is not None
    assert whole is not None
    assert abs(matched) < 0.15
    assert whole > 0.6


def test_no_images_make_an_empty_table() -> None:
    table = DetectionTable.concatenate([])
    assert len(table) == 0
    assert analyze(table, min_score=0.5)["all"].score == UNDEFINED


def test_quarters_of_quality_restated() -> None:
    qualities = np.array([0.4, 0.1, 0.3, 0.2, 0.45])
    ious = np.array([0.9, 0.2, 0.5, 0.8, 0.7])
    table = DetectionTable(np.full(5, 0.9), qualities, ious, np.zeros((5, 4)))
    found = quarters(table, objects=8)
    # In order of quality the IoUs are 0.2, 0.8, 0.5, 0.9, 0.7; the first quarter has two of five.
    assert [part.n for part in found] == [2, 1, 1, 1]
    assert [part.quality for part in found] == pytest.approx([0.15, 0.3, 0.4, 0.45])
    assert [part.precision for part in found] == [0.5, 1.0, 1.0, 1.0]
    assert [part.right_per_object for part in found] == [1 / 8] * 4
    assert [part.mean_iou for part in found] == pytest.approx([0.5, 0.5, 0.9, 0.7])
    assert quarters(table, objects=0)[0].right_per_object is None
    assert quarters(table.rows(np.zeros(5, dtype=bool)), objects=8) == []


def test_a_spread_restated() -> None:
    values = np.arange(101.0)
    deviation = float(np.sqrt(np.mean((values - 50.0) ** 2)))
    assert Spread.of(values) == Spread(101, 50.0, deviation, 5.0, 95.0)
    assert Spread.of(np.zeros(0)) == Spread(0, None, None, None, None)


def weighed(
    scores: list[float], qualities: list[float], **options: object
) -> dict[str, list[float]]:
    size = len(scores)
    table = DetectionTable(
        np.array(scores), np.array(qualities), np.zeros(size), np.zeros((size, 4))
    )
    return {
        name: values.tolist() for name, values in weights_of(table, tiny_cfg(**options)).items()
    }


def test_weights_are_those_of_the_settings() -> None:
    scores, qualities = [0.5, 1.0], [0.2, 0.4]
    plain = weighed(scores, qualities)
    assert list(plain) == ["s_loc (LER)", "score * s_loc (PRC)"]
    assert plain["s_loc (LER)"] == pytest.approx([0.2, 0.4])
    assert plain["score * s_loc (PRC)"] == pytest.approx([0.1, 0.4])
    # 0.5 * (0.2 / 0.5)^2 = 0.08, 0.5 * (0.4 / 0.5)^2 = 0.32; over their mean, 0.2: 0.4 and 1.6.
    sharp = weighed(scores, qualities, **{"SSOD.QUALITY_POWER": 2.0})
    assert sharp["s_max * (s_loc / s_max)^2 (LER)"] == pytest.approx([0.08, 0.32])
    assert sharp["score * s_max * (s_loc / s_max)^2 (PRC)"] == pytest.approx([0.04, 0.32])
    options = {"SSOD.QUALITY_POWER": 2.0, "SSOD.RELATIVE_WEIGHTS": True}
    both = weighed(scores, qualities, **options)
    assert both["s_max * (s_loc / s_max)^2 / mean (LER)"] == pytest.approx([0.4, 1.6])
    # Where a certain box has 1: 0.04 and 0.16.
    rescaled = {"SSOD.QUALITY_POWER": 2.0, "SSOD.RESCALE_LOCALIZATION_QUALITY": True}
    found = weighed(scores, qualities, **rescaled)
    assert found["s_max * (s_loc / s_max)^2 (LER)"] == pytest.approx([0.04, 0.16])
    assert weighed([], [], **options)["s_max * (s_loc / s_max)^2 / mean (LER)"] == []
