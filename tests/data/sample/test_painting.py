"""Painting of the sample set: fading, blur and motion do to opacities what they say."""

from __future__ import annotations

import numpy as np
import pytest

from dre_ssod.data.sample import painting as sample_painting
from dre_ssod.data.sample.painting import paint
from dre_ssod.data.sample.shapes import (
    HEIGHT,
    OPAQUE,
    SHAPES,
    WIDTH,
    IntArray,
    RandomStream,
    draw_shape,
)


def opaque_square(side: int, margin: int) -> IntArray:
    inner = np.full((side, side), OPAQUE, dtype=np.int32)
    return np.pad(inner, margin)


def test_paint_is_a_function_of_stream_and_items() -> None:
    items = [draw_shape(RandomStream(1), 0, SHAPES["star"], 100)]
    images = [paint(RandomStream(seed), items) for seed in (2, 2, 3)]
    assert images[0].shape == (HEIGHT, WIDTH, 3)
    assert images[0].dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).mean() > 0.5


def test_blur_has_the_stated_variance() -> None:
    """Six passes on a point: variance 6 / 2 in each direction, and the sum is kept."""
    point = np.zeros((31, 31), dtype=np.int32)
    point[15, 15] = 1 << 20
    blurred = sample_painting._blurred(point, 6)
    weights = blurred.sum(axis=0) / blurred.sum()
    offsets = np.arange(31) - 15
    assert blurred.sum() == pytest.approx(1 << 20, rel=1e-3)
    assert (weights * offsets).sum() == pytest.approx(0, abs=1e-3)
    assert (weights * offsets**2).sum() == pytest.approx(3, rel=1e-2)


def test_motion_keeps_the_opacity_and_lengthens_the_shape() -> None:
    square = opaque_square(20, 12)
    for seed in range(10):
        moved = sample_painting._moved(RandomStream(seed), square, 7)
        assert moved.max() <= OPAQUE
        assert moved.sum() == pytest.approx(square.sum(), rel=0.01)
        assert np.count_nonzero(moved) > np.count_nonzero(square)


def test_fading_takes_opacity_from_one_side_but_never_all() -> None:
    square = opaque_square(40, 8)
    inside = square > 0
    for seed in range(10):
        faded = sample_painting._faded(RandomStream(seed), square, 20)
        assert (faded <= square).all()
        assert (faded[inside] >= 15).all()
        assert faded[inside].min() < 81
        assert faded[inside].max() == OPAQUE


def test_textures_stay_in_range() -> None:
    for seed in range(40):
        stream = RandomStream(seed)
        texture = sample_painting._texture(stream, 30, 50, stream.array(20, 236, 3), 90)
        assert texture.shape == (30, 50, 3)
        assert texture.min() >= 0
        assert texture.max() <= 255


def test_contrast_is_reached_or_the_best_try_taken() -> None:
    gray = np.full(3, 128, dtype=np.int64)
    for seed in range(20):
        color = sample_painting._contrasting_color(RandomStream(seed), gray, 130)
        assert np.abs(color - gray).sum() >= 130
    # Out of reach: 3 * 128 is the largest distance of all.
    tries = RandomStream(0).array(20, 236, 13, 3)
    best = sample_painting._contrasting_color(RandomStream(0), gray, 1000)
    assert np.abs(best - gray).sum() == np.abs(tries[1:] - gray).sum(axis=1).max()
