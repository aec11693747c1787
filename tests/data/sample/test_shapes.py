"""Shapes of the sample set: integer arithmetic that agrees with geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dre_ssod.data.sample import shapes as sample_shapes
from dre_ssod.data.sample.shapes import (
    CLUTTER,
    HEIGHT,
    OPAQUE,
    RADIUS,
    SHAPES,
    SINES,
    SUBPIXELS,
    WIDTH,
    IntArray,
    RandomStream,
    Shape,
    draw_shape,
    overlap_with_image,
    value_noise,
)


def local_grid() -> tuple[IntArray, IntArray]:
    axis = np.arange(-1500, 1501, 10, dtype=np.int32)
    u, v = np.meshgrid(axis, axis)
    return u, v


def test_stream_has_the_pinned_values() -> None:
    """PCG64 and its seeding are guaranteed by NumPy; these values hold on every machine."""
    assert RandomStream(0, 1, 2).array(0, 1000, 6).tolist() == [808, 435, 882, 852, 755, 606]


def test_single_integers_are_those_of_arrays() -> None:
    stream = RandomStream(5, 6)
    singles = [stream.integer(-7, 90) for _ in range(50)]
    assert singles == RandomStream(5, 6).array(-7, 90, 50).tolist()


def test_stream_is_uniform_and_depends_on_every_part_of_the_key() -> None:
    values = RandomStream(7).array(-3, 4, 70_000)
    assert values.min() == -3
    assert values.max() == 3
    assert np.abs(np.bincount(values + 3) - 10_000).max() < 400
    firsts = [RandomStream(*key).integer(0, 2**31 - 1) for key in ((0,), (1,), (0, 1), (1, 0))]
    assert len(set(firsts)) == 4


def test_sines_are_far_from_rounding_ties() -> None:
    """No value is so near a half that the last bits, in which libraries differ, would matter."""
    for degree, entry in enumerate(SINES):
        value = 16384 * math.sin(math.radians(degree))
        assert abs(value - entry) < 0.4999
    assert SINES[0] == 0
    assert SINES[30] == 8192
    assert SINES[90] == 16384


def test_value_noise_is_smooth_and_in_range() -> None:
    noise = value_noise(RandomStream(3), 200, 300, 40)
    assert noise.shape == (200, 300)
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert noise.std() > 15
    assert np.abs(np.diff(noise, axis=0)).max() < 40
    assert np.abs(np.diff(noise, axis=1)).max() < 40


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("disk", math.pi),
        ("square", (2 * 880 / RADIUS) ** 2),
        # The inscribed circle of radius r of an equilateral triangle: area 3 sqrt(3) r^2.
        ("triangle", 3 * math.sqrt(3) * (580 / RADIUS) ** 2),
    ],
)
def test_area_of_shapes_without_variation(name: str, share: float) -> None:
    mask = SHAPES[name](*local_grid(), RandomStream(0))
    assert np.count_nonzero(mask) * 100 / RADIUS**2 == pytest.approx(share, rel=0.02)


def test_star_has_the_area_of_a_pentagram() -> None:
    """Ten triangles between the centre, a tip and a notch; tip d / cos 72, notch d / cos 36."""
    stream, again = RandomStream(4), RandomStream(4)
    distance = again.integer(350, 400)
    mask = SHAPES["star"](*local_grid(), stream)
    tip, notch = (distance / math.cos(math.radians(angle)) for angle in (72, 36))
    area = 10 * tip * notch * math.sin(math.radians(36)) / 2
    assert np.count_nonzero(mask) * 100 == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize("radius", [24, 60, 164])
@pytest.mark.parametrize("shape", [*SHAPES.values(), *CLUTTER])
def test_patches_are_large_enough_and_cropped_to_the_shape(
    monkeypatch: pytest.MonkeyPatch, shape: Shape, radius: int
) -> None:
    items = [draw_shape(RandomStream(seed), 0, shape, radius) for seed in range(6)]
    monkeypatch.setattr(sample_shapes, "_cropped", lambda item: item)
    for seed, item in enumerate(items):
        whole = draw_shape(RandomStream(seed), 0, shape, radius)
        rim = [whole.mask[0], whole.mask[-1], whole.mask[:, 0], whole.mask[:, -1]]
        assert not np.concatenate(rim).any()
        assert item.area == whole.area == np.count_nonzero(item.mask)
        top, left = (item.top - whole.top) * SUBPIXELS, (item.left - whole.left) * SUBPIXELS
        height, width = item.mask.shape
        np.testing.assert_array_equal(
            item.mask, whole.mask[top : top + height, left : left + width]
        )
        coverage = item.coverage()
        assert coverage.sum() == item.area * OPAQUE // SUBPIXELS**2
        for side in (coverage[0], coverage[-1], coverage[:, 0], coverage[:, -1]):
            assert side.any()


def test_disk_keeps_its_radius_and_place() -> None:
    for seed in range(20):
        item = draw_shape(RandomStream(seed), 0, SHAPES["disk"], 100)
        columns, rows = np.flatnonzero(item.mask.any(0)), np.flatnonzero(item.mask.any(1))
        longest = max(columns[-1] - columns[0], rows[-1] - rows[0])
        assert 120 < longest < 250
        middle = item.left + columns.mean() / SUBPIXELS, item.top + rows.mean() / SUBPIXELS
        assert -12 < middle[0] < WIDTH + 12
        assert -12 < middle[1] < HEIGHT + 12


def test_overlap_with_image_cuts_both_sides_alike() -> None:
    (rows, columns), (patch_rows, patch_columns) = overlap_with_image(-3, HEIGHT - 4, (10, 8))
    assert (rows, columns) == (slice(HEIGHT - 4, HEIGHT), slice(0, 5))
    assert (patch_rows, patch_columns) == (slice(0, 4), slice(3, 8))
    (rows, columns), _ = overlap_with_image(-3, 2, (40, 32), SUBPIXELS)
    assert (rows, columns) == (slice(8, 48), slice(0, 20))


@pytest.mark.parametrize(("left", "top"), [(-30, 5), (WIDTH + 9, 5), (5, -30), (5, HEIGHT)])
def test_overlap_is_empty_outside_the_image(left: int, top: int) -> None:
    target, source = overlap_with_image(left, top, (10, 8))
    assert np.zeros((HEIGHT, WIDTH))[target].size == 0
    assert np.zeros((10, 8))[source].shape == np.zeros((HEIGHT, WIDTH))[target].shape
